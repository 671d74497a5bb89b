// Whether kernels for warpgroups run here.
#include "core/device.h"
#include "core/warpgroup.h"

namespace dyt {

#if defined(DYT_EMULATED)

bool warpgroups_run_here() { return true; }

#else

namespace {

// Compiled for sm_90a it may be launched with a warpgroup, compiled for anything else it may not:
// what the runtime says of it tells which code it has chosen for this GPU.
#if defined(WARPGROUPS)
constexpr int probe_threads = 128;
#else
constexpr int probe_threads = 32;
#endif
__global__ void __launch_bounds__(probe_threads) probe_kernel() {}

}  // namespace

bool warpgroups_run_here() {
  static const bool they_do = [] {
    cudaFuncAttributes found{};
    const bool known = cudaFuncGetAttributes(&found, probe_kernel) == cudaSuccess;
    if (!known) static_cast<void>(cudaGetLastError());  // no GPU, or no code for it: forgotten
    return known && found.maxThreadsPerBlock >= 128;
  }();
  return they_do;
}

#endif

}  // namespace dyt
