// What LayerNorm and RMSNorm share: the CPU loops and kernels of layernorm.cu and rmsnorm.cu, which
// have the mathematics. With `centered`, LayerNorm. Without, RMSNorm: the mean is 0 and is not
// stored, mean(g) drops out of dx, and there is no beta. Only .cu files include this.
#pragma once
#include <cmath>
#include <vector>

#include "core/cpu_math.h"
#include "core/kernel.h"
#include "core/reduce.h"
#include "core/tape.h"

namespace dyt {

// (2) The CPU loops -------------------------------------------------------------------------------

// Sums over a row x (C), in two halves side by side: an addition takes about four cycles, and two
// sums don't wait for each other.
template <class T>
T sum_of(const T* x, int64_t C) {
  const int64_t half = C / 2;
  T first = C % 2 == 1 ? x[C - 1] : T(0), second = 0;
#pragma omp simd reduction(+ : first, second)
  for (int64_t c = 0; c < half; ++c) {
    first += x[c];
    second += x[half + c];
  }
  return first + second;
}

// Of the squares of x - mean.
template <class T>
T sum_of_squares(const T* x, T mean, int64_t C) {
  const int64_t half = C / 2;
  T first = C % 2 == 1 ? (x[C - 1] - mean) * (x[C - 1] - mean) : T(0), second = 0;
#pragma omp simd reduction(+ : first, second)
  for (int64_t c = 0; c < half; ++c) {
    first += (x[c] - mean) * (x[c] - mean);
    second += (x[half + c] - mean) * (x[half + c] - mean);
  }
  return first + second;
}

template <bool centered, class T>
void row_norm_forward_cpu(T* y, T* mean, T* rstd, const T* x, const T* gamma, const T* beta,
                          T epsilon, int64_t rows, int64_t C) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T* x_r = x + r * C;
    cpu::prefetch(x_r + C, C);
    const T m = centered ? sum_of(x_r, C) / T(C) : T(0);
    const T s = 1 / std::sqrt(sum_of_squares(x_r, m, C) / T(C) + epsilon);
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) {
      const T xhat = (x_r[c] - m) * s;
      y[r * C + c] = (gamma ? gamma[c] : T(1)) * xhat + (beta ? beta[c] : T(0));
    }
    if (centered) mean[r] = m;
    rstd[r] = s;
  }
}

// One row: x, dy, dx (C). dgamma and dbeta are added to; dx too if `add`, and it may be null.
template <bool centered, class T>
void row_norm_backward_row_cpu(T* dx, bool add, T* dgamma, T* dbeta, const T* dy, const T* x,
                               T mean, T rstd, const T* gamma, int64_t C) {
  T sum_g = 0, sum_gx = 0;
#pragma omp simd reduction(+ : sum_g, sum_gx)
  for (int64_t c = 0; c < C; ++c) {
    const T xhat = (x[c] - mean) * rstd, g = dy[c] * (gamma ? gamma[c] : T(1));
    dgamma[c] += dy[c] * xhat;
    if constexpr (centered) {
      dbeta[c] += dy[c];
      sum_g += g;
    }
    sum_gx += g * xhat;
  }
  if (!dx) return;
  const T mean_g = sum_g / T(C), mean_gx = sum_gx / T(C);
  if (!add) std::fill_n(dx, C, T(0));
#pragma omp simd
  for (int64_t c = 0; c < C; ++c) {
    const T xhat = (x[c] - mean) * rstd, g = dy[c] * (gamma ? gamma[c] : T(1));
    dx[c] += rstd * (g - mean_g - xhat * mean_gx);
  }
}

// dgamma and dbeta are added to; dx too if `add`. Any of them may be null.
template <bool centered, class T>
void row_norm_backward_cpu(T* dx, bool add, T* dgamma, T* dbeta, const T* dy, const T* x,
                           const T* mean, const T* rstd, const T* gamma, int64_t rows, int64_t C) {
  std::vector<T> sums(size_t(2 * C), T(0));  // dgamma, dbeta
  sum_over_rows(sums.data(), 2 * C, rows, [=](int64_t begin, int64_t end, T* partial) {
    for (int64_t r = begin; r < end; ++r) {
      cpu::prefetch(x + (r + 1) * C, C);
      cpu::prefetch(dy + (r + 1) * C, C);
      row_norm_backward_row_cpu<centered>(dx ? dx + r * C : nullptr, add, partial, partial + C,
                                          dy + r * C, x + r * C, centered ? mean[r] : T(0), rstd[r],
                                          gamma, C);
    }
  });
  for (int64_t c = 0; c < C && dgamma; ++c) dgamma[c] += sums[size_t(c)];
  for (int64_t c = 0; c < C && dbeta; ++c) dbeta[c] += sums[size_t(C + c)];
}

// (3) The kernels ---------------------------------------------------------------------------------

// All of them: a block is 32 x 8 threads, so a warp is a row of threads. A warp reads a row of x in
// packs of V channels, lane beside lane.

// One warp per row. Lane l holds packs l, l + 32, l + 64 ... of its row in registers, N of them, so
// x is read once; with N = 0, for rows of any length, it is read three times, twice from the cache.
// Reads x and writes y: 4 bytes per element in bf16.
template <bool centered, int V, int N, class T>
__global__ void __launch_bounds__(256)
    row_norm_forward_kernel(T* y, float* mean, float* rstd, const T* x, const float* gamma,
                            const float* beta, float epsilon, int64_t rows, int C) {
  const int64_t r = int64_t(blockIdx.x) * 8 + threadIdx.y;
  if (r >= rows) return;  // all lanes of the warp
  const int lane = int(threadIdx.x), packs = N > 0 ? N : (C + 32 * V - 1) / (32 * V);
  const T* x_r = x + r * C;
  Pack<T, V> held[N > 0 ? N : 1] = {};
  float sum = 0, squares = 0;
#pragma unroll
  for (int n = 0; n < packs; ++n) {
    const int c = (n * 32 + lane) * V;
    if (c >= C) continue;
    const Pack<T, V> in = load<V>(x_r + c);
    if (N > 0) held[n] = in;
#pragma unroll
    for (int i = 0; i < V; ++i) sum += float(in.v[i]);
  }
  const float m = centered ? warp_sum(sum) / float(C) : 0.0f;
#pragma unroll
  for (int n = 0; n < packs; ++n) {
    const int c = (n * 32 + lane) * V;
    if (c >= C) continue;
    const Pack<T, V> in = N > 0 ? held[n] : load<V>(x_r + c);
#pragma unroll
    for (int i = 0; i < V; ++i) squares += (float(in.v[i]) - m) * (float(in.v[i]) - m);
  }
  const float s = rsqrtf(warp_sum(squares) / float(C) + epsilon);
#pragma unroll
  for (int n = 0; n < packs; ++n) {
    const int c = (n * 32 + lane) * V;
    if (c >= C) continue;
    const Pack<T, V> in = N > 0 ? held[n] : load<V>(x_r + c);
    Pack<float, V> scale, offset;
    if (gamma) scale = load<V>(gamma + c);
    if (beta) offset = load<V>(beta + c);
    Pack<T, V> out;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float xhat = (float(in.v[i]) - m) * s;
      out.v[i] = T((gamma ? scale.v[i] : 1.0f) * xhat + (beta ? offset.v[i] : 0.0f));
    }
    store<V>(y + r * C + c, out);
  }
  if (centered && lane == 0) mean[r] = m;
  if (lane == 0) rstd[r] = s;
}

// partials[c] = the sum, over the rows that this block worked on, of what its lanes hold in `sums`.
// W warps side by side hold packs of different channels, starting at pack first * 32 of a row; the
// warps w, w + W, w + 2 W ... hold the same channels, of different rows.
template <int V>
__device__ inline void write_partials(float* partials, float (&tile)[8][32 * V],
                                      const float (&sums)[V], int first, int W, int C) {
  const int lane = int(threadIdx.x), warp = int(threadIdx.y);
#pragma unroll
  for (int i = 0; i < V; ++i) tile[warp][i * 32 + lane] = sums[i];
  __syncthreads();
  for (int k = warp * 32 + lane; k < W * 32 * V; k += 256) {
    const int w = k / (32 * V), j = k % (32 * V);
    float sum = 0;
    for (int other = w; other < 8; other += W) sum += tile[other][j];
    const int c = ((first + w) * 32 + j % 32) * V + j / 32;
    if (c < C) partials[c] = sum;
  }
  __syncthreads();
}

// All gradients in one pass over the data (6 bytes per element in bf16). W = warps_per_row warps
// share a row, so a block works on 8 / W rows at a time, and on every (8 / W * gridDim.x)-th row in
// turn. A lane holds N packs of x and of dy while the two sums over the row are formed, and its
// share of the sums for dgamma and dbeta all the way down. At the end the sums of the block's rows
// meet in shared memory, and the block writes one partial sum per channel.
template <bool centered, int V, int N, class T>
__global__ void __launch_bounds__(256)
    row_norm_backward_kernel(T* dx, bool add, float* dgamma_partials, float* dbeta_partials,
                             const T* dy, const T* x, const float* mean, const float* rstd,
                             const float* gamma, int64_t rows, int C, int warps_per_row) {
  SHARED(float, tile, [8][32 * V]);
  SHARED(float, exchange, [2][8][2]);
  const int lane = int(threadIdx.x), warp = int(threadIdx.y), W = warps_per_row;
  const int groups = 8 / W, group = warp / W;  // a group of W warps has a row of its own
  const int first_pack = warp % W * 32 + lane;
  float sum_gamma[N][V] = {}, sum_beta[N][V] = {};
  int turn = 0;
  for (int64_t first = int64_t(blockIdx.x) * groups; first < rows;
       first += int64_t(gridDim.x) * groups) {
    const int64_t r = first + group;
    const bool active = r < rows;
    const float m = centered && active ? mean[r] : 0.0f, s = active ? rstd[r] : 0.0f;
    Pack<T, V> in[N] = {}, up[N] = {};
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int c = (n * 32 * W + first_pack) * V;
      if (!active || c >= C) continue;
      in[n] = load<V>(x + r * C + c);
      up[n] = load<V>(dy + r * C + c);
    }
    float sum_g = 0, sum_gx = 0;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int c = (n * 32 * W + first_pack) * V;
      if (!active || c >= C) continue;
      Pack<float, V> scale;
      if (gamma) scale = load<V>(gamma + c);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float dy_rc = up[n].v[i], xhat = (float(in[n].v[i]) - m) * s;
        const float g = dy_rc * (gamma ? scale.v[i] : 1.0f);
        sum_gamma[n][i] += dy_rc * xhat;
        sum_beta[n][i] += dy_rc;
        sum_g += g;
        sum_gx += g * xhat;
      }
    }
    if (centered) sum_g = warp_sum(sum_g);
    sum_gx = warp_sum(sum_gx);
    if (W > 1) {
      // Two exchanges in turn: nobody can be two barriers ahead, so one barrier a row is enough.
      if (lane == 0) exchange[turn][warp][0] = sum_g, exchange[turn][warp][1] = sum_gx;
      __syncthreads();
      sum_g = sum_gx = 0;
      for (int w = group * W; w < group * W + W; ++w) {
        sum_g += exchange[turn][w][0];
        sum_gx += exchange[turn][w][1];
      }
      turn ^= 1;
    }
    const float mean_g = centered ? sum_g / float(C) : 0.0f, mean_gx = sum_gx / float(C);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int c = (n * 32 * W + first_pack) * V;
      if (!dx || !active || c >= C) continue;
      Pack<float, V> scale;
      if (gamma) scale = load<V>(gamma + c);
      Pack<T, V> out;
      if (add) out = load<V>(dx + r * C + c);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float xhat = (float(in[n].v[i]) - m) * s;
        const float g = float(up[n].v[i]) * (gamma ? scale.v[i] : 1.0f);
        const float gradient = s * (g - mean_g - xhat * mean_gx);
        out.v[i] = T((add ? float(out.v[i]) : 0.0f) + gradient);
      }
      store<V>(dx + r * C + c, out);
    }
  }
  const int64_t part = int64_t(blockIdx.x) * C;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    write_partials<V>(dgamma_partials + part, tile, sum_gamma[n], n * W, W, C);
    if (centered) write_partials<V>(dbeta_partials + part, tile, sum_beta[n], n * W, W, C);
  }
}

// For rows that the kernel above cannot hold, and for widths that don't divide into full packs: two
// kernels and two passes over the data. First the two sums of each row, one warp per row.
template <bool centered, int V, class T>
__global__ void row_norm_row_sums_kernel(float* sums, const T* dy, const T* x, const float* mean,
                                         const float* rstd, const float* gamma, int64_t rows,
                                         int C) {
  const int64_t r = int64_t(blockIdx.x) * 8 + threadIdx.y;
  if (r >= rows) return;  // all lanes of the warp
  const float m = centered ? mean[r] : 0.0f, s = rstd[r];
  float sum_g = 0, sum_gx = 0;
  for (int c = int(threadIdx.x) * V; c < C; c += 32 * V) {
    const Pack<T, V> in = load<V>(x + r * C + c), up = load<V>(dy + r * C + c);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float g = float(up.v[i]) * (gamma ? gamma[c + i] : 1.0f);
      sum_g += g;
      sum_gx += g * (float(in.v[i]) - m) * s;
    }
  }
  sum_g = warp_sum(sum_g);
  sum_gx = warp_sum(sum_gx);
  if (threadIdx.x == 0) sums[2 * r] = sum_g, sums[2 * r + 1] = sum_gx;
}

// Then the gradients: a block owns 32 packs of channels and every (8 gridDim.y)-th row, a thread
// walks down one pack, as in dyt.cu.
template <bool centered, int V, class T>
__global__ void __launch_bounds__(256)
    row_norm_columns_kernel(T* dx, bool add, float* dgamma_partials, float* dbeta_partials,
                            const float* sums, const T* dy, const T* x, const float* mean,
                            const float* rstd, const float* gamma, int64_t rows, int C) {
  SHARED(float, tile, [8][32 * V]);
  const int64_t c = (int64_t(blockIdx.x) * 32 + threadIdx.x) * V;
  float sum_gamma[V] = {}, sum_beta[V] = {};
  if (c < C) {
    for (int64_t r = blockIdx.y * 8 + threadIdx.y; r < rows; r += gridDim.y * 8) {
      const float m = centered ? mean[r] : 0.0f, s = rstd[r];
      const float mean_g = centered ? sums[2 * r] / float(C) : 0.0f,
                  mean_gx = sums[2 * r + 1] / float(C);
      const Pack<T, V> in = load<V>(x + r * C + c), up = load<V>(dy + r * C + c);
      Pack<T, V> out;
      if (dx && add) out = load<V>(dx + r * C + c);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float dy_rc = up.v[i], xhat = (float(in.v[i]) - m) * s;
        const float g = dy_rc * (gamma ? gamma[c + i] : 1.0f);
        sum_gamma[i] += dy_rc * xhat;
        sum_beta[i] += dy_rc;
        const float gradient = s * (g - mean_g - xhat * mean_gx);
        out.v[i] = T((dx && add ? float(out.v[i]) : 0.0f) + gradient);
      }
      if (dx) store<V>(dx + r * C + c, out);
    }
  }
  const int64_t part = int64_t(blockIdx.y) * C;
  write_partials<V>(dgamma_partials + part, tile, sum_gamma, int(blockIdx.x), 1, C);
  if (centered) write_partials<V>(dbeta_partials + part, tile, sum_beta, int(blockIdx.x), 1, C);
}

// Calls body with the smallest of these numbers of channels per lane that is enough.
template <class F>
void with_lane_channels(int64_t channels, F&& body) {
  if (channels <= 8) return body(std::integral_constant<int, 8>{});
  if (channels <= 16) return body(std::integral_constant<int, 16>{});
  if (channels <= 24) return body(std::integral_constant<int, 24>{});
  return body(std::integral_constant<int, 32>{});
}

template <bool centered, class T>
void row_norm_forward_gpu(T* y, float* mean, float* rstd, const T* x, const float* gamma,
                          const float* beta, float epsilon, int64_t rows, int64_t C) {
  require(C < (1 << 30), "a norm's rows of ", C, " channels are more than a kernel can count");
  constexpr int full = 16 / sizeof(T);
  const auto run = [&](auto kernel) {
    launch(kernel, blocks_for(rows, 8), dim3(32, 8))(y, mean, rstd, x, gamma, beta, epsilon, rows,
                                                     int(C));
  };
  if (vector_width<T>(C) == 1) return run(row_norm_forward_kernel<centered, 1, 0, T>);
  if (C > 64 * 32) return run(row_norm_forward_kernel<centered, full, 0, T>);
  if (C > 32 * 32) return run(row_norm_forward_kernel<centered, full, 64 / full, T>);
  with_lane_channels((C + 31) / 32, [&](auto channels) {
    run(row_norm_forward_kernel<centered, full, channels() / full, T>);
  });
}

template <bool centered, class T>
void row_norm_backward_gpu(Tape& tape, T* dx, bool add, float* dgamma, float* dbeta, const T* dy,
                           const T* x, const float* mean, const float* rstd, const float* gamma,
                           int64_t rows, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(C);
  unsigned parts;
  float *gamma_partials, *beta_partials;
  const auto make_partials = [&](int64_t wanted) {
    parts = unsigned(wanted);
    gamma_partials = tape.scratch<float>(wanted * C);
    beta_partials = tape.scratch<float>(wanted * C);
  };
  if (V == full && C <= 8 * 32 * 32) {
    int W = 1;
    while (C > W * 32 * 32) W *= 2;
    make_partials(row_parts(rows, 4, 32));  // at most 256 blocks, about two for each SM
    with_lane_channels((C + 32 * W - 1) / (32 * W), [&](auto channels) {
      launch(row_norm_backward_kernel<centered, full, channels() / full, T>, parts, dim3(32, 8))(
          dx, add, gamma_partials, beta_partials, dy, x, mean, rstd, gamma, rows, int(C), W);
    });
  } else {
    float* sums = tape.scratch<float>(2 * rows);
    launch(V == full ? row_norm_row_sums_kernel<centered, full, T>
                     : row_norm_row_sums_kernel<centered, 1, T>,
           blocks_for(rows, 8), dim3(32, 8))(sums, dy, x, mean, rstd, gamma, rows, int(C));
    const unsigned columns = blocks_for(C, 32 * V);
    make_partials(row_parts(rows, columns, 32));
    launch(V == full ? row_norm_columns_kernel<centered, full, T>
                     : row_norm_columns_kernel<centered, 1, T>,
           dim3(columns, parts), dim3(32, 8))(dx, add, gamma_partials, beta_partials, sums, dy, x,
                                              mean, rstd, gamma, rows, int(C));
  }
  if (dgamma) add_partials_gpu(dgamma, gamma_partials, parts, C);
  if (dbeta) add_partials_gpu(dbeta, beta_partials, parts, C);
}

}  // namespace dyt
