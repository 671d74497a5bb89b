#include "core/traffic.h"

#include "core/error.h"

#if !defined(DYT_WATCHED)  // else emulator_watch.cpp has them

namespace dyt {

bool can_watch_traffic() { return false; }

std::vector<KernelTraffic> watch_traffic(const std::function<void()>&) {
  fail("accesses to memory are watched in a build with CUDA=0 SANITIZE=thread only");
}

}  // namespace dyt

#endif
