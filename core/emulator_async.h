// What two parts of the emulator know of each other: emulator.cpp runs the threads,
// emulator_async.cpp has what goes on while they run, copies and the products of warpgroups.
#pragma once
#include "core/emulator.h"

namespace dyt::emulator {

// --- emulator.cpp
int current_thread();
// Waits for all 128 threads of the warpgroup. The last one to arrive runs last() first.
void warpgroup_barrier(Where where, void (*last)());

// --- emulator_async.cpp
// A block of so many threads begins; its dynamic shared memory.
void begin_async(int threads, char* shared, size_t bytes);

}  // namespace dyt::emulator
