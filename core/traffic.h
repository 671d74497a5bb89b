// What kernels do to memory: watched by the emulator, access for access, in a build of its own
// (make CUDA=0 SANITIZE=thread). `dyt bench accesses` shows it.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace dyt {

inline constexpr int sector_bytes = 32;

// The accesses at one line of a kernel, of all its warps. A warp's instruction is one request, for
// which device memory moves sectors, and shared memory takes as many turns as the bank
// with the most different words wants ("Device Memory Accesses", "Shared Memory" in the CUDA C++
// Best Practices Guide).
struct SiteTraffic {
  std::string where;  // file:line
  bool shared, writes;
  int64_t requests = 0;
  int64_t bytes = 0;   // asked for by all threads
  int64_t moved = 0;   // sectors, or turns of shared memory
  int64_t needed = 0;  // as many as would do: the same bytes in one piece; without conflicts
};

struct KernelTraffic {
  std::string launched_by;              // function (file:line)
  int64_t blocks = 0, threads = 0;      // threads of a block
  int64_t bytes_read = 0;               // device memory that it reads at all, in whole sectors
  int64_t bytes_written = 0;            // likewise
  std::vector<SiteTraffic> sites = {};  // in the order of their first access
};

// Whether this build can watch.
bool can_watch_traffic();

// Does the work, and says what the kernels launched in it did, launch for launch. Error if this
// build can't watch.
std::vector<KernelTraffic> watch_traffic(const std::function<void()>& work);

}  // namespace dyt
