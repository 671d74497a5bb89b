// The vocabulary that kernels share: 16-byte access, warp and block reductions. Only .cu files
// include this.
#pragma once
#include "core/dtype.h"
#include "core/launch.h"
#include "core/tensor_core.h"

namespace dyt {

// As many numbers as one 16-byte load or store moves: 4 f32, 8 bf16. A warp whose threads load
// consecutive packs moves 512 bytes with one instruction, the widest there is.
template <class T, int N = 16 / sizeof(T)>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
};

template <int N, class T>
ONE_ACCESS __device__ inline Pack<T, N> load(const T* from) {
#if defined(DYT_EMULATED)
  if (reinterpret_cast<uintptr_t>(from) % alignof(Pack<T, N>)) {
    emulator::fail_in_kernel("misaligned vector load", emulator::Where::current());
  }
  WATCH_ACCESS(from, (sizeof(Pack<T, N>)), false);
#endif
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

// The same, or zeros. They go from one register to another as words: to nvcc, which sees the
// numbers in them, a pack that is either would be three instructions for each.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_if(bool exists, const T* from) {
  constexpr int words = int(N * sizeof(T) / 4);
  static_assert(words >= 4);
  Pack<uint32_t, words> bits = {};
  if (exists) bits = load<words>(reinterpret_cast<const uint32_t*>(from));
  return std::bit_cast<Pack<T, N>>(bits);
}

template <int N, class T>
ONE_ACCESS __device__ inline void store(T* to, const Pack<T, N>& pack) {
#if defined(DYT_EMULATED)
  if (reinterpret_cast<uintptr_t>(to) % alignof(Pack<T, N>)) {
    emulator::fail_in_kernel("misaligned vector store", emulator::Where::current());
  }
  WATCH_ACCESS(to, (sizeof(Pack<T, N>)), true);
#endif
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// Rounds N numbers to T and stores them: in bf16, two of them are rounded by one instruction.
template <int N, class T>
__device__ __forceinline__ void store(T* to, const float (&numbers)[N]) {
#if !defined(DYT_EMULATED)
  if constexpr (std::is_same_v<T, bf16> && N % 2 == 0) {
    Pack<uint32_t, N / 2> pairs;
#pragma unroll
    for (int i = 0; i < N / 2; ++i) pairs.v[i] = pack_bf16(numbers[2 * i], numbers[2 * i + 1]);
    store<N / 2>(reinterpret_cast<uint32_t*>(to), pairs);
  } else
#endif
  {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) pack.v[i] = T(numbers[i]);
    store<N>(to, pack);
  }
}

// Numbers per 16-byte access if rows of `width` numbers of type T can be cut into them, else 1.
template <class T>
int vector_width(int64_t width) {
  constexpr int full = 16 / sizeof(T);
  return width % full == 0 ? full : 1;
}

inline constexpr unsigned all_lanes = 0xffffffffu;

// A barrier for so many warps of a block, neighbours, instead of all: they have one of their own, 1
// to 15 (0 is the block's). "bar.sync" in the PTX ISA.
__device__ inline void sync_warps(int barrier, int warps
#if defined(DYT_EMULATED)
                                  ,
                                  emulator::Where where = emulator::Where::current()
#endif
) {
#if defined(DYT_EMULATED)
  emulator::warps_barrier(barrier, warps, where);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(32 * warps) : "memory");
#endif
}

// Sum and maximum over a warp; every lane gets the result. The butterfly adds in the same order in
// every lane, so all lanes hold the same bits.
__device__ inline float warp_sum(float v) {
  for (int m = 16; m > 0; m /= 2) v += __shfl_xor_sync(all_lanes, v, m);
  return v;
}
__device__ inline float warp_max(float v) {
  for (int m = 16; m > 0; m /= 2) v = fmaxf(v, __shfl_xor_sync(all_lanes, v, m));
  return v;
}

inline constexpr float log2_e = 1.44269504088896340736f;

// e^z within (2 + |z|) 1e-7, relatively: 2 instructions, where expf takes 8.
__device__ inline float exp_approx(float z) { return exp2_approx(log2_e * z); }

// tanh(z) = 1 - 2 / (1 + e^2z), within 3e-7: about 10 instructions, where tanhf, which is right to
// the last place also near 0, takes 25. At 4 bytes an element a GPU has time for 28.
__device__ inline float tanh_by_exp(float z) {
  return 1.0f - __fdividef(2.0f, 1.0f + exp2_approx(2 * log2_e * z));
}

// Sum over a block of up to 1024 threads, a multiple of 32; every thread gets the result. Begins
// and ends with a barrier, so it can be called again at once.
__device__ inline float block_sum(float v) {
  SHARED(float, partial, [32]);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int warps = int(blockDim.x) / 32;
  v = warp_sum(v);
  if (lane == 0) partial[warp] = v;
  __syncthreads();
  v = warp_sum(lane < warps ? partial[lane] : 0.0f);
  __syncthreads();
  return v;
}

}  // namespace dyt
