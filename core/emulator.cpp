#include "core/emulator.h"

#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

#include "core/emulator_async.h"
#include "core/emulator_memory.h"
#include "core/emulator_watch.h"
#include "core/error.h"
#include "core/philox.h"
#include "core/poison.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace dyt::emulator {
namespace {

namespace ctx = boost::context;

constexpr size_t stack_bytes = 128 * 1024;
constexpr size_t max_shared_bytes = shared_memory_of_sm_90;
constexpr size_t max_static_shared_bytes = 48 * 1024;
constexpr size_t red_zone = 64;

// AddressSanitizer wants to know when the stack changes.
struct StackSwitch {
  void* fake_stack = nullptr;
  void leave([[maybe_unused]] const void* bottom, [[maybe_unused]] size_t size,
             [[maybe_unused]] bool for_good = false) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack, bottom, size);
#endif
  }
  void arrive([[maybe_unused]] const void** from_bottom = nullptr,
              [[maybe_unused]] size_t* from_size = nullptr) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, from_bottom, from_size);
#endif
  }
};

// Stacks are kept for the next fiber: a kernel with barriers needs one per thread of a block. Below
// each is a page, of 4 to 64 KiB, that faults: a kernel can't overrun its stack unseen.
struct StackPool {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  std::vector<void*> free;
  ~StackPool() {
    for (void* s : free) munmap(s, page + stack_bytes);
  }
  ctx::stack_context allocate() {
    void* base;
    if (free.empty()) {
      base = mmap(nullptr, page + stack_bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      require(base != MAP_FAILED, "emulator: no memory for a thread's stack");
      mprotect(base, page, PROT_NONE);
    } else {
      base = free.back();
      free.pop_back();
    }
    ctx::stack_context stack;
    stack.size = stack_bytes;
    stack.sp = static_cast<char*>(base) + page + stack_bytes;
    return stack;
  }
  void deallocate(ctx::stack_context& stack) {
    free.push_back(static_cast<char*>(stack.sp) - stack_bytes - page);
  }
};

struct Unwind {};  // thrown in waiting threads once another one has failed

enum class State {
  fresh,
  ready,
  at_kernel_before,
  at_block_barrier,
  at_warps_barrier,
  at_warp_barrier,
  at_warpgroup_barrier,
  done
};

struct Thread {
  State state = State::fresh;
  ctx::fiber fiber;  // where it goes on, while it waits
  const char* stack_bottom = nullptr;
  Where where;  // the barrier it waits at
  bool waited_for_kernel_before = false;
};

struct Warp {
  // Two, so that a fast lane's next exchange can't overwrite this one's.
  uint64_t bits[2][32];
  Words words[2][32];
  int phase = 0;
  int arrived = 0;
};

// One block being run by one OS thread.
struct Block {
  void (*body)(const void*) = nullptr;
  const void* context = nullptr;
  LaunchSite site{};
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<int> at_warpgroup_barrier;  // threads of each warpgroup
  std::vector<int> order;                 // threads, in the order in which they start
  size_t next = 0;                        // first of `order` that has not started
  std::vector<int> ready;                 // threads that a barrier has released
  int current = -1;                       // the thread that runs now
  int unfinished = 0, at_barrier = 0;
  std::vector<int> at_warps_barrier[16];  // threads, by barrier
  std::exception_ptr error;
  ctx::fiber scheduler;
  const void* scheduler_bottom = nullptr;
  size_t scheduler_size = 0;
  std::unique_ptr<char[]> shared{new char[max_shared_bytes + 4096]};
  size_t dynamic_bytes = 0, shared_used = 0;
  std::vector<std::pair<const void*, void*>> shared_arrays;  // key, address
  StackPool stacks;
  bool in_kernel = false;
  // Of a kernel launched early, until its threads wait for the kernel before: these threads.
  bool before_wait = false;
  std::vector<int> waiting_for_kernel;

  int size() const { return int(threads.size()); }
};

thread_local Block block;

uint3 index_of(int thread) {
  const unsigned t = unsigned(thread);
  return {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
}

std::string text(uint3 i) {
  return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")";
}
std::string text(Where w) { return std::string(w.file) + ":" + std::to_string(w.line); }
std::string kernel_text() {
  return std::string("emulator: kernel launched by ") + block.site.function + " (" +
         block.site.file + ":" + std::to_string(block.site.line) + "), block " + text(blockIdx);
}

void become(int thread) {
  block.current = thread;
  threadIdx = index_of(thread);
}

struct PoolAllocator {
  ctx::stack_context allocate() { return block.stacks.allocate(); }
  void deallocate(ctx::stack_context& stack) { block.stacks.deallocate(stack); }
};

// A worker fiber runs fresh threads one after the other. Where none of them waits, one worker does
// the whole block; a thread that waits takes its worker with it, and another one goes on.
ctx::fiber work(ctx::fiber&& scheduler) {
  StackSwitch arrival;
  arrival.arrive(&block.scheduler_bottom, &block.scheduler_size);
  block.scheduler = std::move(scheduler);
  try {
    while (block.next < block.order.size() && !block.error) {
      become(block.order[block.next++]);
      block.body(block.context);
      block.threads[size_t(block.current)].state = State::done;
      --block.unfinished;
    }
  } catch (const Unwind&) {
  } catch (...) {
    block.error = std::current_exception();
  }
  StackSwitch().leave(block.scheduler_bottom, block.scheduler_size, true);
  return std::move(block.scheduler);
}

// Called in a thread that has to wait; returns when the scheduler resumes it.
void suspend() {
  const int self = block.current;
  StackSwitch s;
  s.leave(block.scheduler_bottom, block.scheduler_size);
  block.scheduler = std::move(block.scheduler).resume();
  s.arrive(&block.scheduler_bottom, &block.scheduler_size);
  become(self);
  if (block.error) throw Unwind{};
}

// Called by the scheduler: lets a fiber run until its thread waits or its work is done.
void resume(ctx::fiber&& fiber, const char* stack_bottom) {
  StackSwitch s;
  s.leave(stack_bottom, stack_bytes);
  ctx::fiber suspended = std::move(fiber).resume();
  s.arrive();
  if (suspended) {
    Thread& waiting = block.threads[size_t(block.current)];
    waiting.fiber = std::move(suspended);
    waiting.stack_bottom = stack_bottom;
  }
}

void start_worker() {
  const ctx::stack_context stack = block.stacks.allocate();
  const char* bottom = static_cast<char*>(stack.sp) - stack.size;
  resume(ctx::fiber(std::allocator_arg, ctx::preallocated(stack.sp, stack.size, stack),
                    PoolAllocator{}, work),
         bottom);
}

// Nobody can go on and somebody waits: says who and where.
[[noreturn]] void report_divergence() {
  int waits = -1;
  for (int t = 0; t < block.size() && waits < 0; ++t) {
    const State s = block.threads[size_t(t)].state;
    if (s != State::done && s != State::fresh && s != State::at_kernel_before) waits = t;
  }
  const Thread& waiting = block.threads[size_t(waits)];
  int other = -1;  // preferably of the same warp, if it's the warp that is stuck
  for (int t = 0; t < block.size() && other < 0; ++t) {
    const Thread& thread = block.threads[size_t(t)];
    const int group = waiting.state == State::at_warp_barrier        ? 32
                      : waiting.state == State::at_warpgroup_barrier ? 128
                                                                     : block.size();
    const bool same_group = t / group == waits / group;
    if (same_group && (thread.state != waiting.state)) other = t;
  }
  std::string sentence = kernel_text() + ": divergent barrier: thread " + text(index_of(waits)) +
                         " waits at " + text(waiting.where);
  if (other >= 0) {
    const Thread& thread = block.threads[size_t(other)];
    sentence += ", which thread " + text(index_of(other)) + " never reaches: it " +
                (thread.state == State::done               ? "has finished"
                 : thread.state == State::at_kernel_before ? "is in wait_for_kernel_before()"
                                                           : "waits at " + text(thread.where));
  }
  throw Error(sentence);
}

// Resumes threads that a barrier or a shuffle has released. In ascending order all of them, one
// after the other, so that warps keep in step; in the other orders the one released last, so that
// a warp runs on, shuffle after shuffle, as far ahead of the others as barriers allow: what one
// warp overwrites before another has read it shows.
void run_ready() {
  const bool in_step = order == Order::ascending;
  std::vector<int> released;
  if (in_step) {
    released = std::move(block.ready);
    block.ready.clear();
  } else {
    released = {block.ready.back()};
    block.ready.pop_back();
  }
  for (int t : released) {
    if (block.error) break;
    Thread& thread = block.threads[size_t(t)];
    resume(std::move(thread.fiber), thread.stack_bottom);
  }
}

void begin_block(uint64_t block_number) {
  const int threads = int(blockDim.x * blockDim.y * blockDim.z);
  block.threads.clear();
  block.threads.resize(size_t(threads));
  block.warps.assign(size_t(threads + 31) / 32, Warp{});
  block.at_warpgroup_barrier.assign(size_t(threads + 127) / 128, 0);
  begin_async(threads, block.shared.get(), block.dynamic_bytes);
  block.order.resize(size_t(threads));
  for (int t = 0; t < threads; ++t) {
    block.order[size_t(t)] = order == Order::descending ? threads - 1 - t : t;
  }
  if (order == Order::shuffled) {
    RandomSequence random(0, block_number);
    for (uint32_t t = uint32_t(threads); t > 1; --t) {
      std::swap(block.order[t - 1], block.order[random.below(t)]);
    }
  }
  block.next = 0;
  block.ready.clear();
  block.unfinished = threads;
  block.waiting_for_kernel.clear();
  block.at_barrier = 0;
  for (auto& threads : block.at_warps_barrier) threads.clear();
  block.error = nullptr;
  block.shared_arrays.clear();
  block.shared_used = (block.dynamic_bytes + red_zone + 15) / 16 * 16;
  unpoison(block.shared.get(), max_shared_bytes);
  std::memset(block.shared.get(), 0xff, block.dynamic_bytes);
  poison(block.shared.get() + block.dynamic_bytes, max_shared_bytes - block.dynamic_bytes);
}

// Lets the block's threads run until all are done or, before_wait, wait for the kernel before.
void run_threads() {
  while (block.unfinished > int(block.waiting_for_kernel.size()) && !block.error) {
    if (!block.ready.empty()) {
      run_ready();
    } else if (block.next < block.order.size()) {
      start_worker();
    } else {
      try {
        report_divergence();
      } catch (...) {
        block.error = std::current_exception();
      }
    }
  }
  if (!block.error && block.before_wait) return;
  unpoison(block.shared.get(), max_shared_bytes);
  if (block.error) {
    for (Thread& thread : block.threads) {
      if (thread.fiber) resume(std::move(thread.fiber), thread.stack_bottom);
    }
    std::rethrow_exception(block.error);
  }
}

// They no longer wait for the kernel before.
void release_from_wait() {
  block.before_wait = false;
  for (int t : block.waiting_for_kernel) block.threads[size_t(t)].state = State::ready;
  block.ready.insert(block.ready.end(), block.waiting_for_kernel.begin(),
                     block.waiting_for_kernel.end());
  block.waiting_for_kernel.clear();
}

}  // namespace

void fail_in_kernel(const char* what, Where where) {
  throw Error(kernel_text() + ", thread " + text(threadIdx) + " at " + text(where) + ": " + what);
}

void wait_for_kernel_before() {
  block.threads[size_t(block.current)].waited_for_kernel_before = true;
  if (!block.before_wait) return;
  block.threads[size_t(block.current)].state = State::at_kernel_before;
  block.waiting_for_kernel.push_back(block.current);
  suspend();
}
void expect_wait_for_kernel_before(Where where) {
  if (block.threads[size_t(block.current)].waited_for_kernel_before) return;
  fail_in_kernel("launched early, and returns without wait_for_kernel_before()", where);
}

unsigned lane() { return unsigned(block.current) % 32; }

int current_thread() { return block.current; }

namespace {

// The last of a barrier's `threads` threads from `first` on has arrived: they all go on.
void release(int first, int threads, const char* what, Where where) {
  for (int i = 0; i < threads; ++i) {
    const int t = first + (order == Order::descending ? threads - 1 - i : i);
    Thread& thread = block.threads[size_t(t)];
    if (thread.where != where) {
      fail_in_kernel(
          (std::string(what) + ": thread " + text(index_of(t)) + " is at " + text(thread.where))
              .c_str(),
          where);
    }
    thread.state = State::ready;
    if (t != block.current) block.ready.push_back(t);
  }
}

}  // namespace

void warpgroup_barrier(Where where, void (*last)()) {
  const int first = block.current / 128 * 128;
  if (first + 128 > block.size()) {
    fail_in_kernel("warpgroup operation in a block whose size is not a multiple of 128", where);
  }
  Thread& self = block.threads[size_t(block.current)];
  self.where = where;
  self.state = State::at_warpgroup_barrier;
  int& arrived = block.at_warpgroup_barrier[size_t(first / 128)];
  if (++arrived < 128) return suspend();
  arrived = 0;
  last();
  release(first, 128, "divergent warpgroup operation", where);
}

void warps_barrier(int barrier, int warps, Where where) {
  if (barrier < 1 || barrier > 15) fail_in_kernel("a block's further barriers are 1 to 15", where);
  std::vector<int>& arrived = block.at_warps_barrier[barrier];
  Thread& self = block.threads[size_t(block.current)];
  self.where = where;
  self.state = State::at_warps_barrier;
  arrived.push_back(block.current);
  if (int(arrived.size()) < 32 * warps) return suspend();
  const auto [lowest, highest] = std::minmax_element(arrived.begin(), arrived.end());
  const int first = *lowest;
  if (first % 32 != 0 || *highest - first != 32 * warps - 1) {
    fail_in_kernel("sync_warps: of warps that are no neighbours", where);
  }
  arrived.clear();
  if constexpr (watched) watch_barrier(first, 32 * warps);
  release(first, 32 * warps, "divergent barrier", where);
}

void block_barrier(Where where) {
  Thread& self = block.threads[size_t(block.current)];
  self.where = where;
  self.state = State::at_block_barrier;
  if (++block.at_barrier < block.size()) return suspend();
  // The last one to arrive releases the others and goes on at once.
  block.at_barrier = 0;
  if constexpr (watched) watch_barrier(0, block.size());
  for (int t : block.order) {
    Thread& thread = block.threads[size_t(t)];
    if (thread.where != where) {
      fail_in_kernel(
          ("divergent barrier: thread " + text(index_of(t)) + " waits at " + text(thread.where))
              .c_str(),
          where);
    }
    thread.state = State::ready;
    if (t != block.current) block.ready.push_back(t);
  }
}

namespace {

template <class Slot>
const Slot* exchange(Slot (Warp::*member)[2][32], unsigned mask, const Slot& slot, Where where,
                     bool orders_memory = false) {
  const int first = block.current / 32 * 32;
  if (mask != 0xffffffffu) fail_in_kernel("the emulator wants full warp masks", where);
  if (first + 32 > block.size()) {
    fail_in_kernel("warp operation in a block whose size is not a multiple of 32", where);
  }
  Warp& warp = block.warps[size_t(first / 32)];
  Slot* const slots = (warp.*member)[warp.phase];
  slots[lane()] = slot;
  Thread& self = block.threads[size_t(block.current)];
  self.where = where;
  self.state = State::at_warp_barrier;
  if (++warp.arrived < 32) {
    suspend();
    return slots;
  }
  warp.arrived = 0;
  warp.phase ^= 1;
  if constexpr (watched) {
    if (orders_memory) watch_barrier(first, 32);
  }
  release(first, 32, "divergent warp operation", where);
  return slots;
}

}  // namespace

const uint64_t* warp_exchange(unsigned mask, uint64_t bits, Where where) {
  return exchange(&Warp::bits, mask, bits, where);
}
const Words* warp_exchange(unsigned mask, const Words& words, Where where) {
  return exchange(&Warp::words, mask, words, where);
}

void warp_barrier(unsigned mask, Where where) {
  exchange<uint64_t>(&Warp::bits, mask, 0, where, true);
}

void thread_fence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if constexpr (watched) watch_fence();
}

void* shared_array(const void* key, size_t bytes) {
  for (const auto& [known, place] : block.shared_arrays) {
    if (known == key) return place;
  }
  if (block.shared_used - block.dynamic_bytes + bytes > max_static_shared_bytes + 4096) {
    fail_in_kernel("more than 48 KiB of static shared memory", Where::current());
  }
  void* place = block.shared.get() + block.shared_used;
  unpoison(place, bytes);
  std::memset(place, 0xff, bytes);
  block.shared_used += (bytes + red_zone + 15) / 16 * 16;
  block.shared_arrays.emplace_back(key, place);
  return place;
}

void* dynamic_shared() { return block.shared.get(); }

const LaunchSite* kernel_of_this_thread() { return block.in_kernel ? &block.site : nullptr; }
bool kernel_has_yet_to_wait() { return block.before_wait; }

void run(LaunchSite site, dim3 grid, dim3 threads, size_t shared_bytes, void (*body)(const void*),
         const void* context) {
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  const unsigned size = threads.x * threads.y * threads.z;
  const auto where = [&] { return std::string(site.file) + ":" + std::to_string(site.line); };
  require(size >= 1 && size <= 1024, where(), ": a block has 1 to 1024 threads, not ", size);
  require(blocks >= 1, where(), ": a grid has at least one block");
  require(grid.y <= 65535 && grid.z <= 65535, where(), ": grid.y and grid.z are at most 65535");
  require(shared_bytes <= shared_memory_of_a_block, where(), ": ", shared_bytes,
          " bytes of shared memory; a block has at most ", shared_memory_of_a_block);
  const auto begin = [&](uint64_t i) {
    const uint64_t b = order == Order::descending ? blocks - 1 - i : i;
    block.body = body;
    block.context = context;
    block.site = site;
    block.dynamic_bytes = shared_bytes;
    block.in_kernel = true;
    gridDim = grid;
    blockDim = threads;
    blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y),
                unsigned(b / (uint64_t(grid.x) * grid.y))};
    begin_block(b);
    if constexpr (watched) watch_block(int64_t(b), block.shared.get(), max_shared_bytes);
  };
  if constexpr (watched) watch_kernel(site, int64_t(blocks), int(size));
  std::mutex error_mutex;
  std::exception_ptr error;
  const auto finish = [&] {
    try {
      run_threads();
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
    if constexpr (watched) {
      if (!block.before_wait || block.error) end_of_watched_block();
    }
    block.in_kernel = block.before_wait = false;
  };
  // The first block of a kernel launched early: up to where its threads wait for the kernel before,
  // no memory can be reached.
  if (site.early) {
    begin(0);
    block.before_wait = true;
    finish();
    if (!error) block.in_kernel = true, release_from_wait();
  }
  const DeviceAccess access;
#pragma omp parallel if (!watched)
  {
    // That one is this thread's: it goes on with it.
    if (omp_get_thread_num() == 0 && site.early && !error) finish();
#pragma omp for schedule(dynamic)
    for (uint64_t i = site.early ? 1 : 0; i < blocks; ++i) {
      {
        const std::lock_guard lock(error_mutex);
        if (error) continue;
      }
      begin(i);
      finish();
    }
  }
  if (error) std::rethrow_exception(error);
  if constexpr (watched) end_of_watched_kernel();
}

}  // namespace dyt::emulator

#if defined(__SANITIZE_ADDRESS__)
// AddressSanitizer calls this before its report, which knows nothing of kernels.
extern "C" void __asan_on_error() {
  using dyt::emulator::block;
  if (!block.in_kernel) return;
  std::fprintf(stderr,
               "emulator: kernel launched by %s (%s:%d), block (%u,%u,%u), thread (%u,%u,%u):\n",
               block.site.function, block.site.file, block.site.line, blockIdx.x, blockIdx.y,
               blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}
#endif
