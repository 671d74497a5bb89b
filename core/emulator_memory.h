// What the two halves of the emulator know of each other: emulator.cpp runs kernels,
// emulator_memory.cpp has their memory.
#pragma once
#include "core/emulator.h"

namespace dyt::emulator {

// The kernel that this thread of the host is running, a block of it at least; null if none.
const LaunchSite* kernel_of_this_thread();
// Whether that is launched early and has not come to wait_for_kernel_before().
bool kernel_has_yet_to_wait();

}  // namespace dyt::emulator
