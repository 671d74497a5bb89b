// The kernels that LayerNorm and RMSNorm share; layernorm.cu and rmsnorm.cu have the mathematics.
// With `centered`, LayerNorm. Without, RMSNorm: the mean is 0 and is not stored, mean(g) drops out
// of dx, and there is no beta. Only .cu files include this.
#pragma once
#include "core/kernel.h"
#include "core/reduce.h"
#include "core/tape.h"
#include "layers/drop_path.h"
#include "layers/row_norm_cpu.h"

namespace dyt {

// (3) The kernels ---------------------------------------------------------------------------------

// All of them: a block is 32 x 8 threads, so a warp is a row of threads. A warp reads a row of x in
// packs of V channels, lane beside lane.

// v1: one warp per row, and rows of any length: x is read three times, twice from the cache. What
// the others have to match.
template <bool centered, int V, class T>
__global__ void __launch_bounds__(256)
    row_norm_forward_kernel_v1(T* y, float* mean, float* rstd, const T* x, const float* gamma,
                               const float* beta, float epsilon, int64_t rows, int C) {
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

// What is known of some of a row's numbers: how many there are, their mean, and the sum of the
// squares around it (around 0 in RMSNorm).
struct RowMoments {
  float n, mean, squares;
};

// The same of the whole row of C numbers, from those of the W warps that share it. Squares around a
// mean m of n numbers are around another, M, greater by n (m - M)^2: no large numbers are
// subtracted, and the warps meet once, where first agreeing on the mean would make it twice.
template <bool centered>
__device__ inline RowMoments over_warps(const RowMoments& own, RowMoments (&exchange)[8], int C,
                                        int W) {
  if (W == 1) return own;
  const int warp = int(threadIdx.y), first = warp / W * W;
  if (threadIdx.x == 0) exchange[warp] = own;
  __syncthreads();
  RowMoments all = {float(C), 0, 0};
  if (centered) {
    for (int w = first; w < first + W; ++w) all.mean += exchange[w].n * exchange[w].mean;
    all.mean /= float(C);
  }
  for (int w = first; w < first + W; ++w) {
    const float d = exchange[w].mean - all.mean;
    all.squares += exchange[w].squares + (centered ? exchange[w].n * d * d : 0.0f);
  }
  return all;
}

// v2: W warps to a row. Each lane asks for its N packs at once, keeps them in registers, and has
// the row there for the mean, the squares and the result: x is read once. With `adds`, x + f is
// normalised, and written on the way. Reads x and writes y: 4 bytes per element in bf16; with f, 8.
template <bool centered, bool adds, int V, int N, class T>
__global__ void __launch_bounds__(256)
    row_norm_forward_kernel(T* y, float* mean, float* rstd, const T* x, Branch<T> branch,
                            const float* gamma, const float* beta, float epsilon, int64_t rows,
                            int C, int W) {
  SHARED(RowMoments, exchange, [8]);
  const int lane = int(threadIdx.x), warp = int(threadIdx.y);
  const int64_t r = int64_t(blockIdx.x) * (8 / W) + warp / W;
  const bool active = r < rows;
  const int first_pack = warp % W * 32 + lane;
  Pack<T, V> held[N] = {}, more[N] = {};
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const int c = (n * 32 * W + first_pack) * V;
    if (!active || c >= C) continue;
    held[n] = load<V>(x + r * C + c);
    if (adds) more[n] = load<V>(branch.f + r * C + c);
  }
  if (adds) {
    const float scale = active ? branch.scale_of(r) : 0.0f;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int c = (n * 32 * W + first_pack) * V;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        held[n].v[i] = T(float(held[n].v[i]) + (scale != 0 ? scale * float(more[n].v[i]) : 0.0f));
      }
      if (active && c < C) store<V>(branch.sum + r * C + c, held[n]);
    }
  }
  RowMoments own = {0, 0, 0};  // of the warp
  if (centered) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      own.n += float(max(0, min(32 * V, C - (n * 32 * W + warp % W * 32) * V)));
#pragma unroll
      for (int i = 0; i < V; ++i) own.mean += float(held[n].v[i]);  // 0 beyond C
    }
    own.mean = warp_sum(own.mean) / max(own.n, 1.0f);
  }
#pragma unroll
  for (int n = 0; n < N; ++n) {
    if ((n * 32 * W + first_pack) * V >= C) continue;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float d = float(held[n].v[i]) - own.mean;
      own.squares += d * d;
    }
  }
  own.squares = warp_sum(own.squares);
  const RowMoments row = over_warps<centered>(own, exchange, C, W);
  const float m = row.mean, s = rsqrtf(row.squares / float(C) + epsilon);
  if (!active) return;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const int c = (n * 32 * W + first_pack) * V;
    if (c >= C) continue;
    Pack<float, V> scale, offset;
    if (gamma) scale = load<V>(gamma + c);
    if (beta) offset = load<V>(beta + c);
    float out[V];
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float xhat = (float(held[n].v[i]) - m) * s;
      out[i] = (gamma ? scale.v[i] : 1.0f) * xhat + (beta ? offset.v[i] : 0.0f);
    }
    store<V>(y + r * C + c, out);
  }
  if (first_pack > 0) return;
  if (centered) mean[r] = m;
  rstd[r] = s;
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

// v2 of the backward pass: all gradients in one pass over the data, 6 bytes per element in bf16,
// and 8 where dx is added to. W warps share a row, so a block works on 8 / W rows at a time, and on
// every (8 / W * gridDim.x)-th row in turn. A lane keeps its share of the sums for dgamma and dbeta
// in registers all the way down, which leaves no room to hold the next row as well; but memory is
// fast only if the next row has been asked for while this one is worked on. So rows come by
// asynchronous copies through shared memory, `stages` of them under way: each thread copies its own
// packs, to a place of its own, and waits for nobody else. At the end the sums of the block's rows
// meet in shared memory, and the block writes one partial sum per channel.
inline constexpr int row_norm_stages = 2;

template <bool centered, bool add, int V, int N, class T>
__global__ void __launch_bounds__(256, 2)
    row_norm_backward_kernel(T* dx, float* dgamma_partials, float* dbeta_partials, const T* dy,
                             const T* x, const float* mean, const float* rstd, const float* gamma,
                             int64_t rows, int C, int W) {
  constexpr int stages = row_norm_stages, streams = add ? 3 : 2;
  SHARED(float, exchange, [2][8][2]);
  DYNAMIC_SHARED(uint4, ring);  // (stages, streams, N, 256): dy, x and what is in dx
  const int lane = int(threadIdx.x), warp = int(threadIdx.y);
  const int groups = 8 / W, group = warp / W;  // a group of W warps has a row of its own
  const int first_pack = warp % W * 32 + lane, self = warp * 32 + lane;
  const int64_t step = int64_t(gridDim.x) * groups;
  const auto place = [&](int stage, int stream, int n) {
    return reinterpret_cast<T*>(ring + ((stage * streams + stream) * N + n) * 256 + self);
  };
  const auto ask_for = [&](int64_t r, int stage) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int c = (n * 32 * W + first_pack) * V;
      if (r >= rows || c >= C) continue;
      copy_async<16>(place(stage, 0, n), dy + r * C + c, true);
      copy_async<16>(place(stage, 1, n), x + r * C + c, true);
      if (add) copy_async<16>(place(stage, 2, n), dx + r * C + c, true);
    }
    commit_copies();  // also of a row that doesn't exist: groups are counted
  };
  // gamma is the same in every row: it stays in registers where there is room for it.
  constexpr bool holds_gamma = N * V <= 16;
  Pack<float, V> held_gamma[holds_gamma ? N : 1] = {};
  if (holds_gamma && gamma) {
#pragma unroll
    for (int n = 0; n < (holds_gamma ? N : 1); ++n) {
      const int c = (n * 32 * W + first_pack) * V;
      if (c < C) held_gamma[n] = load<V>(gamma + c);
    }
  }
  const auto gamma_of = [&](int n, int c) {
    if constexpr (holds_gamma) return held_gamma[n];
    return load<V>(gamma + c);
  };
  float sum_gamma[N][V] = {}, sum_beta[N][V] = {};
  const int64_t begin = int64_t(blockIdx.x) * groups;
  for (int stage = 0; stage < stages; ++stage) ask_for(begin + group + stage * step, stage);
  float next_m = 0, next_s = 0;
  if (begin + group < rows) next_s = rstd[begin + group];
  if (centered && begin + group < rows) next_m = mean[begin + group];
  int stage = 0, turn = 0;
  for (int64_t first = begin; first < rows; first += step) {
    const int64_t r = first + group;
    const bool active = r < rows;
    const float m = next_m, s = next_s;
    if (r + step < rows) next_s = rstd[r + step];
    if (centered && r + step < rows) next_m = mean[r + step];
    wait_for_copies<stages - 1>();
    float sum_g = 0, sum_gx = 0;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int c = (n * 32 * W + first_pack) * V;
      if (!active || c >= C) continue;
      const Pack<T, V> up = load<V>(place(stage, 0, n)), in = load<V>(place(stage, 1, n));
      Pack<float, V> scale;
      if (gamma) scale = gamma_of(n, c);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float dy_rc = up.v[i], xhat = (float(in.v[i]) - m) * s;
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
      const Pack<T, V> up = load<V>(place(stage, 0, n)), in = load<V>(place(stage, 1, n));
      Pack<float, V> scale;
      if (gamma) scale = gamma_of(n, c);
      Pack<T, V> before;
      if (add) before = load<V>(place(stage, 2, n));
      float out[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float xhat = (float(in.v[i]) - m) * s;
        const float g = float(up.v[i]) * (gamma ? scale.v[i] : 1.0f);
        out[i] = (add ? float(before.v[i]) : 0.0f) + s * (g - mean_g - xhat * mean_gx);
      }
      store<V>(dx + r * C + c, out);
    }
    ask_for(r + stages * step, stage);
    stage = stage + 1 == stages ? 0 : stage + 1;
  }
  wait_for_copies<0>();
  __syncthreads();  // nobody needs the ring any more
  auto& tile = *reinterpret_cast<float(*)[8][32 * V]>(ring);
  const int64_t part = int64_t(blockIdx.x) * C;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    write_partials<V>(dgamma_partials + part, tile, sum_gamma[n], n * W, W, C);
    if (centered) write_partials<V>(dbeta_partials + part, tile, sum_beta[n], n * W, W, C);
  }
}

// v1 of the backward pass, for rows that v2 cannot hold, and for widths that don't divide into full
// packs: two kernels and two passes over the data. First the two sums of each row, one warp per
// row.
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

// How many warps share a row of C channels: each lane has at most 3 packs of it. More than 8: too
// long for v2.
template <class T>
int warps_per_row(int64_t C) {
  constexpr int64_t full = 16 / sizeof(T);
  int W = 1;
  while (C > W * 32 * 3 * full) W *= 2;
  return W;
}

// Whether v2 can: full packs, and rows of up to 6144 channels in bf16.
template <class T>
bool is_held_in_registers(int64_t C) {
  return vector_width<T>(C) == 16 / int(sizeof(T)) && warps_per_row<T>(C) <= 8;
}

// Calls body with the packs of a lane, 1 to 3, and the warps of a row.
template <class T, class F>
void with_packs_per_lane(int64_t C, F&& body) {
  constexpr int64_t full = 16 / sizeof(T);
  const int W = warps_per_row<T>(C);
  const int64_t packs = (C + 32 * W * full - 1) / (32 * W * full);
  if (packs == 1) return body(std::integral_constant<int, 1>{}, W);
  if (packs == 2) return body(std::integral_constant<int, 2>{}, W);
  body(std::integral_constant<int, 3>{}, W);
}

template <bool centered, class T>
void row_norm_forward_gpu(T* y, float* mean, float* rstd, const T* x, const Branch<T>& branch,
                          const float* gamma, const float* beta, float epsilon, int64_t rows,
                          int64_t C) {
  require(C < (1 << 30), "a norm's rows of ", C, " channels are more than a kernel can count");
  constexpr int full = 16 / sizeof(T);
  if (!is_held_in_registers<T>(C)) {
    if (branch.f) add_branch_gpu(x, branch, rows, C);
    launch(vector_width<T>(C) == full ? row_norm_forward_kernel_v1<centered, full, T>
                                      : row_norm_forward_kernel_v1<centered, 1, T>,
           blocks_for(rows, 8), dim3(32, 8))(y, mean, rstd, branch.f ? branch.sum : x, gamma, beta,
                                             epsilon, rows, int(C));
    return;
  }
  with_packs_per_lane<T>(C, [&](auto packs, int W) {
    constexpr int N = packs();
    launch(branch.f ? row_norm_forward_kernel<centered, true, full, N, T>
                    : row_norm_forward_kernel<centered, false, full, N, T>,
           blocks_for(rows, 8 / W),
           dim3(32, 8))(y, mean, rstd, x, branch, gamma, beta, epsilon, rows, int(C), W);
  });
}

template <bool centered, class T>
void row_norm_backward_gpu(Tape& tape, T* dx, bool add, float* dgamma, float* dbeta, const T* dy,
                           const T* x, const float* mean, const float* rstd, const float* gamma,
                           int64_t rows, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const bool held = is_held_in_registers<T>(C);
  const int V = vector_width<T>(C);
  const unsigned columns = held ? 1 : blocks_for(C, 32 * V);
  // As many blocks as run at a time, 2 on each SM: then none has to wait, and partial sums are few.
  const int64_t blocks = held ? 2 * multiprocessors() : 1024;
  const unsigned parts = unsigned(row_parts(rows, columns, held ? 8 : 32, blocks));
  float* gamma_partials = tape.scratch<float>(parts * C);
  float* beta_partials = tape.scratch<float>(parts * C);
  if (held) {
    with_packs_per_lane<T>(C, [&](auto packs, int W) {
      constexpr int N = packs();
      const size_t ring = size_t(row_norm_stages * (add ? 3 : 2) * N) * 256 * 16;
      launch(add ? row_norm_backward_kernel<centered, true, full, N, T>
                 : row_norm_backward_kernel<centered, false, full, N, T>,
             parts, dim3(32, 8),
             ring)(dx, gamma_partials, beta_partials, dy, x, mean, rstd, gamma, rows, int(C), W);
    });
  } else {
    float* sums = tape.scratch<float>(2 * rows);
    launch(V == full ? row_norm_row_sums_kernel<centered, full, T>
                     : row_norm_row_sums_kernel<centered, 1, T>,
           blocks_for(rows, 8), dim3(32, 8))(sums, dy, x, mean, rstd, gamma, rows, int(C));
    launch(V == full ? row_norm_columns_kernel<centered, full, T>
                     : row_norm_columns_kernel<centered, 1, T>,
           dim3(columns, parts), dim3(32, 8))(dx, add, gamma_partials, beta_partials, sums, dy, x,
                                              mean, rstd, gamma, rows, int(C));
  }
  add_partials_gpu({{dgamma, gamma_partials, parts, C, C}, {dbeta, beta_partials, parts, C, C}});
}

}  // namespace dyt
