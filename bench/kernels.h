// `dyt bench kernels`: what every kernel reaches of what the device can do.
#pragma once
#include <string>

#include "bench/ladders.h"

namespace dyt {

struct KernelBenchOptions {
  KernelChoice kernels;
  std::string device = "auto";
  std::string precision;  // "f32" or "bf16"; empty: the device's own
  double seconds = 0.1;   // for each kernel, at least
  bool json = false;
};

// Times every kernel, forward and backward, and prints a table: time (the median of many, each over
// several sets of data that together are larger than the cache), bytes moved or operations done at
// least (bench/ladders.h), and the share of what this device reached, in the same run, in a large
// copy of memory, in one of as many bytes ("an equal one"), or in a large matrix product of random
// numbers.
//
// With json, the table goes to stderr, and stdout gets JSON Lines, for tools: first
//   {"device", "machine", "dtype", "commit", "copy_bytes_per_s", "product_flops_per_s"}
// then for each kernel
//   {"kernel", "rung", "direction": "forward"|"backward", "shape": [...], "seconds", "spread":
//    [25 %, 75 % quantile], "bytes", "flops", "share", "share_of": "copy"|"product",
//    "share_of_equal_copy": of a copy only}
// Error for a ladder that isn't there, or a shape that can't be.
void bench_kernels(const KernelBenchOptions& options);

}  // namespace dyt
