// The emulator: CUDA kernels, compiled by g++ and run on the CPU, thread by thread.
//
// A kernel's text is ordinary C++ but for a few keywords and built-in names. This header gives them
// a meaning: threadIdx and friends are variables, __syncthreads() and the warp shuffles are calls
// into a scheduler (emulator.cpp) that runs every thread of a block as a fiber. So a kernel can be
// stepped through in gdb, and checked:
//   - a block's threads run in the order that `order` says: ascending, descending or shuffled, with
//     the warps in step or one far ahead of the others. The tests compare all three, so a missing
//     barrier shows;
//   - a barrier that not every thread reaches is reported, with the threads and the lines;
//   - asynchronous copies and products of warpgroups are done when they are waited for, and not
//     before, so a missing wait shows, and what is overwritten too soon;
//   - a kernel launched early (core/launch.h) must wait for the one before it, in every thread and
//     before it touches memory;
//   - shared memory and fresh device memory are filled with NaN, so what was never written shows;
//   - device memory is unreadable outside kernels and copies, so host code that touches it faults,
//     and every buffer ends at a guard page; the report names the kernel, block and thread;
//   - under AddressSanitizer (make SANITIZE=address) each piece of an arena and each shared array
//     has a red zone around it as well;
//   - in a watched build (make SANITIZE=thread, core/emulator_watch.h) every access is noted: races
//     are found whatever the order, across blocks and where a fence is missing, too, and sectors
//     and bank conflicts are counted.
// What it does not model: time; two blocks that wait for each other; writes that others see in
// another order (but a watched build finds the races behind that). Lanes of a warp are not in step:
// one runs on until it has to wait. Where a GPU approximates (ex2.approx), it computes exactly, so
// last bits differ.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// The built-in variables of the thread that is running now.
inline thread_local constinit uint3 threadIdx{}, blockIdx{};
inline thread_local constinit dim3 blockDim{}, gridDim{};
inline constexpr int warpSize = 32;

namespace dyt::emulator {

enum class Order { ascending, descending, shuffled };
inline Order order = Order::ascending;  // in which a block's threads (and a grid's blocks) run

inline constexpr size_t shared_memory_of_sm_90 = 227 * 1024, shared_memory_of_sm_89 = 99 * 1024;
inline size_t shared_memory_of_a_block = shared_memory_of_sm_90;  // or less, as in other GPUs

// A place in the source: that of the call that took current() as a default argument. (Clang has
// std::source_location from version 16 on.)
struct Where {
  const char* file = nullptr;
  int line = 0;

  static constexpr Where current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
  bool operator==(const Where&) const = default;
};

struct LaunchSite {
  const char *file, *function;
  int line;
  bool early = false;  // by launch_early
};
// Runs body() once for every thread of every block.
void run(LaunchSite site, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(const void*),
         const void* context);

void block_barrier(Where where);
void warps_barrier(int barrier, int warps, Where where);  // sync_warps (core/kernel.h)
void warp_barrier(unsigned mask, Where where);
void thread_fence();
// Every lane gives 64 bits; returns those of all 32 lanes, valid until the lane's next exchange.
const uint64_t* warp_exchange(unsigned mask, uint64_t bits, Where where);
// The same with 32 bytes.
struct Words {
  uint32_t word[8];
};
const Words* warp_exchange(unsigned mask, const Words& words, Where where);

// Asynchronous copies to shared memory, of this thread (core/tensor_core.h). `to` is filled with
// NaN at once and with what was copied only when the thread waits for it: so a place that somebody
// still reads shows, and a missing wait or barrier as well.
void copy_async(void* to, const void* from, int bytes, bool exists, Where where);
void commit_copies();
void wait_for_copies(int newest);  // until at most the newest groups are under way

// Products of warpgroups (core/warpgroup.h), of this thread. A product is computed when its
// warpgroup waits for it; until then its sums are NaN. What is noticed: operands that change in the
// meantime, in shared memory or in registers; a warpgroup that doesn't call as one; a fence
// that is missing, for registers or for copies to shared memory; a matrix out of place.
struct Registers {  // an array that a kernel has in registers
  const char* data;
  size_t bytes;
};
struct WarpgroupProduct {
  float* d;                     // (64, n): this thread's n / 2 sums
  const uint32_t* a_registers;  // (64, 16): this thread's 4 pairs, or null
  uint64_t a, b;                // descriptors of A, if not in registers, and of B (16, n)
  int n;
  bool accumulate, b_mn_major;
};
unsigned shared_address(const void* place);  // as on the GPU, in dynamic shared memory
void fence_async_proxy();
void warpgroup_fence(std::initializer_list<Registers> registers);
void warpgroup_multiply(const WarpgroupProduct& product, Where where);
void warpgroup_commit();
void warpgroup_wait(int newest, std::initializer_list<Registers> registers, Where where);

// The block's shared array of this key (an address unique to the declaration), made at first use.
void* shared_array(const void* key, size_t bytes);
void* dynamic_shared();
unsigned lane();
// Of the running thread: notes that it waits, and an error at `where` if it never did.
void wait_for_kernel_before();
void expect_wait_for_kernel_before(Where where);
// Reports an error in the running thread: throws dyt::Error with kernel, block and thread.
[[noreturn]] void fail_in_kernel(const char* what, Where where);

// Work for the device: done at once, or, while a graph is being recorded (core/graph.h), kept.
inline std::vector<std::function<void()>>* recording = nullptr;
template <class Work>
void submit(Work work) {
  if (recording) {
    recording->emplace_back(work);
  } else {
    work();
  }
}

// Device memory, see the list above. Reachable while at least one DeviceAccess lives.
void* allocate(size_t bytes);
void release(void* data);
struct DeviceAccess {
  DeviceAccess();
  ~DeviceAccess();
};

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace dyt::emulator

// __shared__ T name dims;    The dims are in brackets: SHARED(float, tile, [32][33]);
#define SHARED(T, name, dims)                                                           \
  auto& name = *static_cast<std::type_identity_t<T dims>*>(dyt::emulator::shared_array( \
      [] {                                                                              \
        static char key;                                                                \
        return static_cast<const void*>(&key);                                          \
      }(),                                                                              \
      sizeof(std::type_identity_t<T dims>)))
// extern __shared__ T name[];
#define DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(dyt::emulator::dynamic_shared())

inline void __syncthreads(dyt::emulator::Where where = dyt::emulator::Where::current()) {
  dyt::emulator::block_barrier(where);
}
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       dyt::emulator::Where where = dyt::emulator::Where::current()) {
  dyt::emulator::warp_barrier(mask, where);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              dyt::emulator::Where where = dyt::emulator::Where::current()) {
  const uint64_t* lanes = dyt::emulator::warp_exchange(mask, dyt::emulator::to_bits(value), where);
  const unsigned base = dyt::emulator::lane() & ~unsigned(width - 1);
  return dyt::emulator::from_bits<T>(lanes[base + (unsigned(source) & unsigned(width - 1))]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  dyt::emulator::Where where = dyt::emulator::Where::current()) {
  const unsigned other = (dyt::emulator::lane() ^ unsigned(lane_mask)) & unsigned(width - 1);
  return __shfl_sync(mask, value, int(other), width, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   dyt::emulator::Where where = dyt::emulator::Where::current()) {
  const unsigned self = dyt::emulator::lane() & unsigned(width - 1);
  const unsigned other = self + delta;
  return __shfl_sync(mask, value, int(other < unsigned(width) ? other : self), width, where);
}
inline unsigned __ballot_sync(unsigned mask, bool predicate,
                              dyt::emulator::Where where = dyt::emulator::Where::current()) {
  const uint64_t* lanes = dyt::emulator::warp_exchange(mask, predicate, where);
  unsigned votes = 0;
  for (int l = 0; l < 32; ++l) votes |= unsigned(lanes[l] != 0) << l;
  return votes;
}
inline bool __any_sync(unsigned mask, bool predicate,
                       dyt::emulator::Where where = dyt::emulator::Where::current()) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline bool __all_sync(unsigned mask, bool predicate,
                       dyt::emulator::Where where = dyt::emulator::Where::current()) {
  return __ballot_sync(mask, predicate, where) == 0xffffffffu;
}

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>, "float atomics make sums depend on the order of threads");
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  return *address;
}
inline void __threadfence() { dyt::emulator::thread_fence(); }

using std::max;
using std::min;
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
