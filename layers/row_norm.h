// The kernels that LayerNorm and RMSNorm share; layernorm.cu and rmsnorm.cu have the mathematics.
// With `centered`, LayerNorm. Without, RMSNorm: the mean is 0 and is not stored, mean(g) drops out
// of dx, and there is no beta. Those of the backward pass are in row_norm_backward.h. Only .cu
// files include these.
#pragma once
#include <bit>

#include "core/kernel.h"
#include "layers/drop_path.h"
#include "layers/row_norm_cpu.h"

namespace dyt {

// (3) The kernels ---------------------------------------------------------------------------------

// In all of them blockDim.x is 32, so a warp is a row of threads. It reads a row of x in packs of V
// channels, lane beside lane. W is the warps that share a row, N the packs of a row to a lane, R
// the rows at once; m and s are a row's mean and rstd.

// v1: one warp per row, and rows of any length: x is read three times, twice from the cache, and y
// written: 4 bytes per element in bf16. What the others have to match.
template <bool centered, int V, class T>
__global__ void __launch_bounds__(256)
    row_norm_forward_kernel_v1(T* y, float* mean, float* rstd, const T* x, const float* gamma,
                               const float* beta, float epsilon, int64_t rows, int C) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  const int64_t r = int64_t(blockIdx.x) * 8 + threadIdx.y;
  if (r >= rows) return;  // all lanes of the warp
  const int lane = int(threadIdx.x);
  const T* x_r = x + r * C;
  float sum = 0, squares = 0;
  for (int c = lane * V; c < C; c += 32 * V) {
    const Pack<T, V> in = load<V>(x_r + c);
#pragma unroll
    for (int i = 0; i < V; ++i) sum += float(in.v[i]);
  }
  const float m = centered ? warp_sum(sum) / float(C) : 0.0f;
  for (int c = lane * V; c < C; c += 32 * V) {
    const Pack<T, V> in = load<V>(x_r + c);
#pragma unroll
    for (int i = 0; i < V; ++i) squares += (float(in.v[i]) - m) * (float(in.v[i]) - m);
  }
  const float s = rsqrtf(warp_sum(squares) / float(C) + epsilon);
  for (int c = lane * V; c < C; c += 32 * V) {
    const Pack<T, V> in = load<V>(x_r + c);
    Pack<T, V> out;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float xhat = (float(in.v[i]) - m) * s;
      out.v[i] = T((gamma ? gamma[c + i] : 1.0f) * xhat + (beta ? beta[c + i] : 0.0f));
    }
    store<V>(y + r * C + c, out);
  }
  if (centered && lane == 0) mean[r] = m;
  if (lane == 0) rstd[r] = s;
}

// The sum over W neighbouring lanes, the same in all of them; W is a power of two.
__device__ inline float sum_over_lanes(float value, int W) {
  for (int m = 1; m < W; m *= 2) value += __shfl_xor_sync(all_lanes, value, m);
  return value;
}

// What is known of some of a row's numbers: how many there are, their sum, and the sum of their
// squares around their mean (around 0 in RMSNorm).
struct RowMoments {
  float n, sum, squares;
  __device__ float mean() const { return __fdividef(sum, fmaxf(n, 1.0f)); }
};

// Sum and squares of the whole row of C numbers, from those of the W warps that share it; of R rows
// at a time. The squares of n numbers around M, not their mean m, sum to n (m - M)^2 more: no large
// numbers are subtracted, and the warps meet once, where first agreeing on the mean would make it
// twice. Each lane fetches one warp's numbers, and the lanes add them up.
template <bool centered, int R>
__device__ inline void over_warps(RowMoments (&own)[R], RowMoments (&exchange)[R][8],
                                  float inverse_C, int W) {
  if (W == 1) return;
  const int warp = int(threadIdx.y), lane = int(threadIdx.x);
#pragma unroll
  for (int k = 0; k < R; ++k) {
    if (lane == 0) exchange[k][warp] = own[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < R; ++k) {
    const RowMoments other = exchange[k][(warp & ~(W - 1)) + (lane & (W - 1))];
    if (centered) {
      own[k].sum = sum_over_lanes(other.sum, W);
      const float d = other.mean() - inverse_C * own[k].sum;
      own[k].squares = sum_over_lanes(other.squares + other.n * d * d, W);
    } else {
      own[k].squares = sum_over_lanes(other.squares, W);
    }
  }
}

// v2: W = 2^log_W warps to R rows. Each lane asks for its N packs of each at once, keeps them in
// registers, and has the rows there for the mean, the squares and the result: x is read once. With
// `adds`, x + f is normalised, and written on the way. Reads x and writes y: 4 bytes per element in
// bf16; with f, 8. Gamma and beta come from the cache, 8 bytes for each channel, which are twice
// what memory moves for one row. So for LayerNorm's rows of 3 packs, where that takes longest, R is
// 2 if there are so many rows that the GPU is full all the same; elsewhere 1.
//
// In the time in which an H200 moves them, an SM issues 28 instructions for each element. So they
// count (cuobjdump -sass shows them): what doesn't exist is 0 instead of a branch, and nothing is
// divided by W, which would be 20 instructions.
// (On an H200 two rows were slower for 8,192 rows, and faster for 65,536: so between them.)
inline int64_t many_rows() { return 240 * multiprocessors(); }

// Blocks on an SM: as many as registers allow. Five of 256 threads leave 51 to a thread, three 85.
template <bool adds, int R, int N>
constexpr int blocks_of_forward = R > 1 || (adds && N > 2) ? 3
                                  : adds || N > 2          ? 4
                                                           : 5;

template <bool centered, bool adds, int R, int V, int N, class T>
__global__ void __launch_bounds__(256, blocks_of_forward<adds, R, N>)
    row_norm_forward_kernel(T* y, float* mean, float* rstd, const T* x, Branch<T> branch,
                            const float* gamma, const float* beta, float epsilon, float inverse_C,
                            int64_t rows, int C, int log_W) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  SHARED(RowMoments, exchange, [R][8]);
  const int lane = int(threadIdx.x), warp = int(threadIdx.y), W = 1 << log_W;
  const int64_t r0 = (int64_t(blockIdx.x) * (8 >> log_W) + (warp >> log_W)) * R;
  const int warp_of_row = warp & (W - 1), apart = 32 * V << log_W;  // channels, as is `first`
  const int first = (warp_of_row * 32 + lane) * V;
  const int64_t start = r0 * C + first;
  // Only the last pack can reach beyond C; `last`: how many of the warp's channels in it do not.
  const int last = max(0, min(32 * V, C - (N - 1) * apart - warp_of_row * 32 * V));
  const auto in_row = [&](int n) { return n < N - 1 || lane * V < last; };
  const auto at = [&](int k, int n) { return start + k * C + n * apart; };
  const auto exists = [&](int k, int n) { return r0 + k < rows && in_row(n); };
  // All is asked for before anything is written: the compiler must assume that the sums may
  // overwrite x and f.
  Pack<T, V> in[R][N], f[adds ? R : 1][adds ? N : 1];
#pragma unroll
  for (int k = 0; k < R; ++k) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      in[k][n] = load_if<V>(exists(k, n), x + at(k, n));
      if constexpr (adds) f[k][n] = load_if<V>(exists(k, n), branch.f + at(k, n));
    }
  }
  if constexpr (adds) {
#pragma unroll
    for (int k = 0; k < R; ++k) {
      const float scale = r0 + k < rows ? branch.scale_of(r0 + k) : 0.0f;
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const float more = scale != 0 ? scale * float(f[k][n].v[i]) : 0.0f;
          in[k][n].v[i] = T(float(in[k][n].v[i]) + more);
        }
        if (exists(k, n)) store<V>(branch.sum + at(k, n), in[k][n]);
      }
    }
  }
  // Converted to f32 once; kept as T where registers are short: two rows, or four packs of x and f.
  constexpr bool converts = R == 1 && !(adds && N > 3);
  Pack<std::conditional_t<converts, float, T>, V> held[R][N];
#pragma unroll
  for (int k = 0; k < R; ++k) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int i = 0; i < V; ++i) held[k][n].v[i] = in[k][n].v[i];
    }
  }
  RowMoments own[R];  // of the warp
#pragma unroll
  for (int k = 0; k < R; ++k) {
    own[k] = {float((N - 1) * 32 * V + last), 0, 0};
    if (centered) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int i = 0; i < V; ++i) own[k].sum += float(held[k][n].v[i]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < R; ++k) {
    if (centered) own[k].sum = warp_sum(own[k].sum);
  }
#pragma unroll
  for (int k = 0; k < R; ++k) {
    const float around = centered ? own[k].mean() : 0.0f;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float m = in_row(n) ? around : 0.0f;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float d = float(held[k][n].v[i]) - m;
        own[k].squares += d * d;
      }
    }
  }
#pragma unroll
  for (int k = 0; k < R; ++k) own[k].squares = warp_sum(own[k].squares);
  over_warps<centered>(own, exchange, inverse_C, W);
  if (R == 1 && r0 >= rows) return;
  float m[R], s[R];
#pragma unroll
  for (int k = 0; k < R; ++k) {
    m[k] = inverse_C * own[k].sum;
    s[k] = rsqrtf(inverse_C * own[k].squares + epsilon);
  }
#pragma unroll
  for (int n = 0; n < N; ++n) {
    if (!in_row(n)) continue;
    const int c = first + n * apart;
    const Pack<float, V> scale = load<V>(gamma + c), offset = load_if<V>(beta, beta + c);
#pragma unroll
    for (int k = 0; k < R; ++k) {
      float out[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        out[i] = scale.v[i] * ((float(held[k][n].v[i]) - m[k]) * s[k]) + offset.v[i];
      }
      if (R == 1 || r0 + k < rows) store<V>(y + at(k, n), out);
    }
  }
  if (first > 0) return;
  for (int k = 0; k < R && r0 + k < rows; ++k) {
    if (centered) mean[r0 + k] = m[k];
    rstd[r0 + k] = s[k];
  }
}

// Whether v2 can: full packs, rows of up to 6144 channels in bf16, and a gamma.
template <class T>
bool is_held_in_registers(const float* gamma, int64_t C) {
  return gamma && vector_width<T>(C) == 16 / int(sizeof(T)) && C * sizeof(T) <= 8 * 3 * 32 * 16;
}

// Calls body with the packs of a lane and the warps of a row, W. Forward, W is a power of two, and
// a lane has up to 4 packs.
template <class T, class F>
void with_packs_forward(int64_t C, F&& body) {
  constexpr int64_t full = 16 / sizeof(T);
  int W = 1;
  while (C > W * 32 * 4 * full) W *= 2;
  const int64_t packs = (C + 32 * W * full - 1) / (32 * W * full);
  if (packs == 1) return body(std::integral_constant<int, 1>{}, W);
  if (packs == 2) return body(std::integral_constant<int, 2>{}, W);
  if (packs == 3) return body(std::integral_constant<int, 3>{}, W);
  body(std::integral_constant<int, 4>{}, W);
}

template <bool centered, class T>
void row_norm_forward_gpu(T* y, float* mean, float* rstd, const T* x, const Branch<T>& branch,
                          const float* gamma, const float* beta, float epsilon, int64_t rows,
                          int64_t C) {
  require(C < (1 << 30), "a norm's rows of ", C, " channels are more than a kernel can count");
  constexpr int full = 16 / sizeof(T);
  if (!is_held_in_registers<T>(gamma, C)) {
    if (branch.f) add_branch_gpu(x, branch, rows, C);
    launch_early(vector_width<T>(C) == full ? row_norm_forward_kernel_v1<centered, full, T>
                                            : row_norm_forward_kernel_v1<centered, 1, T>,
                 blocks_for(rows, 8), dim3(32, 8))(y, mean, rstd, branch.f ? branch.sum : x, gamma,
                                                   beta, epsilon, rows, int(C));
    return;
  }
  with_packs_forward<T>(C, [&](auto packs, int W) {
    constexpr int N = packs();
    const int log_W = std::countr_zero(unsigned(W));
    const auto run = [&](auto adds, auto rows_at_once) {
      constexpr int R = rows_at_once();
      launch_early(row_norm_forward_kernel<centered, adds(), R, full, N, T>,
                   blocks_for(rows, 8 / W * R), dim3(32, 8))(
          y, mean, rstd, x, branch, gamma, beta, epsilon, 1 / float(C), rows, int(C), log_W);
    };
    using One = std::integral_constant<int, 1>;
    if (branch.f) return run(std::true_type{}, One{});
    if constexpr (centered && N == 3) {
      if (rows >= many_rows()) return run(std::false_type{}, std::integral_constant<int, 2>{});
    }
    run(std::false_type{}, One{});
  });
}

}  // namespace dyt
