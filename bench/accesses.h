// `dyt bench accesses`: what every kernel does to memory, as the emulator watches it.
#pragma once
#include <string>

#include "bench/ladders.h"

namespace dyt {

struct AccessesOptions {
  KernelChoice kernels;
  std::string precision = "bf16";
  bool lines = false;
  bool json = false;
};

// Runs every kernel once in the emulator, forward and backward, and prints a table, of bytes of
// device memory unless said otherwise:
//   at least   as dyt bench kernels counts it (bench/ladders.h)
//   touched    by all launches together, in whole sectors of 32 bytes, each once per launch: what
//              comes from and goes to DRAM if nothing stays in the L2 cache from one launch to the
//              next, and everything in a launch
//   asked      by all warps, in such sectors: what goes through the L1 cache
//   full       how much of that was wanted: less than 100 % where a warp's threads ask for places
//              far from each other
//   shared     turns of shared memory against as few as would do: bank conflicts where above 1
// With `lines`, every line that has less than nine tenths of its sectors full, or a tenth of its
// turns in vain.
//
// With json, the table goes to stderr, and stdout gets JSON Lines: {"kernel", "rung", "direction",
// "shape", "bytes", "launches": [{"launched_by", "blocks", "threads", "bytes_read",
// "bytes_written", "lines": [{"where", "shared", "writes", "requests", "bytes", "moved",
// "needed"}]}]}, in the words of core/traffic.h.
//
// Error if threads race; if this build can't watch; as chosen_kernels().
void bench_accesses(const AccessesOptions& options);

}  // namespace dyt
