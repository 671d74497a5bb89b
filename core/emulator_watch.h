// What the emulator tells its watch, in a build with SANITIZE=thread (without, nothing of this is
// called): g++ puts a call in front of every access to memory that a kernel makes, and
// emulator_watch.cpp answers these calls in place of ThreadSanitizer's library, which knows nothing
// of a GPU's threads. For each byte of shared and device memory it notes who wrote it and who read
// it last, and when, by clocks that count barriers; two accesses of different threads, one of them
// a write, between which nothing makes the second wait for the first, are a race, in whatever order
// the emulator ran them. So is reading shared memory that nobody has written.
//
// What makes a thread wait for another: the block's barrier, __syncwarp(), sync_warps(); and
// between blocks of a grid, an atomic operation behind a __threadfence() of the one, before a
// __threadfence() of the other. Not a shuffle or a vote: these "do not imply a memory barrier"
// ("Warp Shuffle Functions", CUDA C++ Programming Guide), nor a product of a warpgroup.
#pragma once
#include "core/emulator.h"

namespace dyt::emulator {

#if defined(DYT_WATCHED)
inline constexpr bool watched = true;
#else
inline constexpr bool watched = false;
#endif

// A kernel and its blocks, one after the other.
void watch_kernel(const LaunchSite& site, int64_t blocks, int threads);
void watch_block(int64_t block, const void* shared, size_t shared_bytes);
void end_of_watched_block();
void end_of_watched_kernel();  // throws what it has seen
void print_races();            // so far, to stderr: the kernel dies of something else

// Threads first .. first + n - 1 of the block have met.
void watch_barrier(int first, int n);
void watch_fence();
// An access of the thread that runs now, that g++ doesn't see or sees as several; `counted`: as
// traffic, too.
void watch_access(const void* at, size_t bytes, bool writes, Where where, bool counted = true);
void watch_access(const void* at, size_t bytes, bool writes, const void* instruction);

}  // namespace dyt::emulator

// A function that accesses memory in one piece, and says so itself: WATCH_ACCESS names the line of
// the function's caller.
#if defined(DYT_WATCHED)
#define ONE_ACCESS __attribute__((noinline, no_sanitize("thread")))
#define WATCH_ACCESS(at, bytes, writes) \
  dyt::emulator::watch_access(at, bytes, writes, __builtin_return_address(0))
#else
#define ONE_ACCESS
#define WATCH_ACCESS(at, bytes, writes)
#endif
