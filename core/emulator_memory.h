// What the two halves of the emulator know of each other: emulator.cpp runs kernels,
// emulator_memory.cpp has their memory.
#pragma once
#include <utility>
#include <vector>

#include "core/emulator.h"

namespace dyt::emulator {

// The kernel that this thread of the host is running, a block of it at least; null if none.
const LaunchSite* kernel_of_this_thread();
// Whether that is launched early and has not come to wait_for_kernel_before().
bool kernel_has_yet_to_wait();
// The addresses of device memory, first and past the last, in ascending order.
std::vector<std::pair<uintptr_t, uintptr_t>> device_ranges();

}  // namespace dyt::emulator
