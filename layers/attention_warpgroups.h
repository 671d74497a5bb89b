// Attention on the tensor cores of warpgroups, the vocabulary: tiles, and products of tiles. What
// single warps do with the results is in layers/attention_fragments.h. Only .cu files include this.
//
// A block is two warpgroups, each with 64 rows of the owned tile, and they share the streamed ones.
// A tile (ROWS, W) lies in shared memory as wgmma wants it: for each 64 columns a panel (ROWS, 64)
// of 8 rows by 128 bytes, swizzled (core/warpgroup.h), one panel behind the other.
#pragma once
#include "core/warpgroup.h"
#include "layers/attention_fragments.h"

namespace dyt::attention_warpgroups {

using namespace attention_fragments;

inline constexpr int groups = 2;
inline constexpr int threads = 128 * groups;
inline constexpr int owned_rows = 64 * groups;

// Where the instructions don't exist a kernel is empty, and must not be launched with so many.
#if defined(WARPGROUPS)
inline constexpr int max_threads = threads;
#else
inline constexpr int max_threads = 32;
#endif

// The warpgroup's first row of the owned tile. From one lane, so that the compiler may know it to
// be the same for all of a warp: descriptors of matrices then go to uniform registers.
__device__ inline int row_of_group() {
  return __shfl_sync(all_lanes, int(threadIdx.x) / 128, 0) * 64;
}

// The place of chunk c of row r.
template <int ROWS>
__device__ inline int chunk_in_panels(int r, int c) {
  return c / 8 * ROWS * 64 + chunk_at<64>(r, c % 8);
}

// As load_tile of layers/attention_fragments.h, by all threads of the block; D = W. Distances from
// `head`, which is the same for all threads, have 32 bits: that takes fewer registers.
template <int ROWS, int W>
__device__ inline void load_panels(bf16* tile, const bf16* head, int64_t stride, int first,
                                   int rows) {
  constexpr int chunks = W / 8, rows_at_once = threads / chunks;
  static_assert(rows_at_once % 8 == 0);  // so that a thread's chunks are swizzled alike
  const int r = int(threadIdx.x) / chunks, c = int(threadIdx.x) % chunks, row = int(stride);
  tile += chunk_in_panels<ROWS>(r, c);
  first += r;
#pragma unroll
  for (int i = 0; i < ROWS; i += rows_at_once) {
    const bool exists = first + i < rows;
    copy_async<16>(tile + i * 64, head + uint32_t((exists ? first + i : 0) * row + c * 8), exists);
  }
}

// A tile (ROWS, W) as an operand whose rows are what is multiplied, and as one whose columns are.
__device__ inline uint64_t k_major(const bf16* tile) {
  return matrix_descriptor(tile, 16);  // (not used, "assumed to be 1")
}
template <int ROWS>
__device__ inline uint64_t mn_major(const bf16* tile) {
  return matrix_descriptor(tile, ROWS * 128);
}

// Starts s (64, N) = A B': the warpgroup's rows of tile A (owned_rows, W), from a on, with tile B
// (N, W).
template <int W, int N>
__device__ inline void start_scores(float (&s)[N / 8][4], uint64_t a, uint64_t b) {
#pragma unroll
  for (int k = 0; k < W / 16; ++k) {
    const unsigned in_panel = k % 4 * 32, panel = k / 4;
    const uint64_t a_k = advance(a, panel * owned_rows * 128 + in_panel);
    const uint64_t b_k = advance(b, panel * N * 128 + in_panel);
    if (k == 0) {
      wgmma<false, false>(s, a_k, b_k);
    } else {
      wgmma<true, false>(s, a_k, b_k);
    }
  }
  warpgroup_commit();
}

// p (64, N) as the left side of the next product.
template <int N>
__device__ inline void pack_left(uint32_t (&left)[N / 16][4], const float (&p)[N / 8][4]) {
#pragma unroll
  for (int n = 0; n < N / 16; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&from)[4] = p[2 * n + i / 2];
      left[n][i] = pack_bf16(from[2 * (i % 2)], from[2 * (i % 2) + 1]);
    }
  }
}

// Starts sums (64, W) += P B: P (64, N), B a tile (N, W).
template <int W, int N>
__device__ inline void start_sums(float (&sums)[W / 8][4], const uint32_t (&p)[N / 16][4],
                                  uint64_t b) {
#pragma unroll
  for (int n = 0; n < N / 16; ++n) wgmma<true>(sums, p[n], advance(b, n * 2048));
  warpgroup_commit();
}

// Calls body(W), as a constant, for heads of width D = 64 or 128.
template <class F>
void with_width(int64_t D, F&& body) {
  if (D == 64) return body(std::integral_constant<int, 64>{});
  return body(std::integral_constant<int, 128>{});
}

}  // namespace dyt::attention_warpgroups
