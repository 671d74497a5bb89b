// The kernels that LayerNorm and RMSNorm share; layernorm.cu and rmsnorm.cu have the mathematics.
// With `centered`, LayerNorm. Without, RMSNorm: the mean is 0 and is not stored, mean(g) drops out
// of dx, and there is no beta. Only .cu files include this.
#pragma once
#include <bit>

#include "core/kernel.h"
#include "core/reduce.h"
#include "core/tape.h"
#include "layers/column_walk.h"
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
inline int64_t many_rows() { return 240 * multiprocessors(); }

template <bool adds, int R, int N>
constexpr int blocks_of_forward = R > 1 || (adds && N > 2) ? 3
                                  : adds || N > 2          ? 4
                                                           : 5;  // on an SM

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

// dgamma[c] = the sum, over the rows that this block worked on, of what its lanes hold in sums[0],
// and dbeta[c] that of sums[1], if S is 2. The block's warps are `groups` times W: in each group,
// warp w holds packs of channels from pack (first + w) * 32 of a row on. tile: (S, warps, 32 V),
// with a warp's channels as place_in_tile() has them.
template <int S, int V>
__device__ inline void write_partials(float* dgamma, float* dbeta, float* tile,
                                      const float (&sums)[S][V], int first, int W, int groups,
                                      int C) {
  const int lane = int(threadIdx.x);
  const int warp = int(threadIdx.z * blockDim.y + threadIdx.y), warps = W * groups;
#pragma unroll
  for (int k = 0; k < S; ++k) {
#pragma unroll
    for (int i = 0; i < V; ++i)
      tile[(k * warps + warp) * 32 * V + place_in_tile<V>(i, lane, 32)] = sums[k][i];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < S; ++k) {
    for (int j = warp * 32 + lane; j < W * 32 * V; j += 32 * warps) {
      const int w = j / (32 * V), own = j % (32 * V), c = first * 32 * V + j;
      const float* const at =
          tile + (k * warps + w) * 32 * V + place_in_tile<V>(own % V, own / V, 32);
      float sum = 0;
      for (int group = 0; group < groups; ++group) sum += at[group * W * 32 * V];
      if (c < C) (k == 0 ? dgamma : dbeta)[c] = sum;
    }
  }
  __syncthreads();
}

// v2 of the backward pass: all gradients in one pass over the data, 6 bytes per element in bf16,
// and 8 where dx is added to. A block is 32 x W x groups threads: each group of W warps has a row
// of its own, so a block works on `groups` rows at a time, and on every (groups * gridDim.x)-th row
// in turn. A lane keeps its share of the sums for dgamma and dbeta in registers all the way down,
// which leaves no room to hold the next row as well; but memory is fast only if the next row has
// been asked for while this one is worked on. So rows come by asynchronous copies through shared
// memory, `stages` of them under way: each thread copies its own packs, to a place of its own, and
// waits for nobody else. What doesn't exist is copied as 0: no branch has to ask, and there is time
// for 43 instructions an element. At the end the sums of the block's rows meet in shared memory,
// and the block writes one partial sum per channel.
//
// A block leaves one partial sum per channel, so there should be few blocks; and while a warp waits
// for its row or for the others' sums, there must be others with something to do. So an SM has one
// block, of as many warps as the registers of N packs to a lane allow; with N = 3, where that is
// few, two blocks of one row each. The groups don't wait for each other.
template <int N>
struct RowNormBackward {
  static constexpr int warps = N == 1 ? 28 : N == 2 ? 16 : 8;  // of a block, at most
  static constexpr int blocks = N == 3 ? 2 : 1;                // on an SM
  static constexpr int stages = N == 2 ? 3 : 2;
};

// Of some of a row's numbers: the sums of g and of g xhat.
struct RowGradientSums {
  float g, gx;
};

template <bool centered, bool add, int V, int N, class T>
__global__ void __launch_bounds__(32 * RowNormBackward<N>::warps, RowNormBackward<N>::blocks)
    row_norm_backward_kernel(T* dx, float* dgamma_partials, float* dbeta_partials, const T* dy,
                             const T* x, const float* mean, const float* rstd, const float* gamma,
                             float inverse_C, int rows, int C) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  constexpr int stages = RowNormBackward<N>::stages, streams = add ? 3 : 2;
  SHARED(RowGradientSums, exchange, [2][RowNormBackward<N>::warps]);
  DYNAMIC_SHARED(uint4, ring);  // (stages, streams, N, threads): dy, x and what is in dx
  const int W = int(blockDim.y), groups = int(blockDim.z), group = int(threadIdx.z);
  const int lane = int(threadIdx.x), warp = group * W + int(threadIdx.y);
  const int first_c = (int(threadIdx.y) * 32 + lane) * V, apart = 32 * V * W,
            self = warp * 32 + lane;
  const int step = int(gridDim.x) * groups;
  const auto in_row = [&](int n) { return n < N - 1 || first_c + n * apart < C; };
  const auto place = [&](int stage, int stream, int n) {
    return reinterpret_cast<T*>(ring + ((stage * streams + stream) * N + n) * 32 * W * groups +
                                self);
  };
  const auto ask_for = [&](int r, int stage) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const bool exists = r < rows && in_row(n);
      const int64_t at = exists ? int64_t(r) * C + first_c + n * apart : 0;
      copy_async<16>(place(stage, 0, n), dy + at, exists);
      copy_async<16>(place(stage, 1, n), x + at, exists);
      if (add) copy_async<16>(place(stage, 2, n), dx + at, exists);
    }
    commit_copies();  // also of a row that doesn't exist: groups are counted
  };
  int r = int(blockIdx.x) * groups + group;
  for (int stage = 0; stage < stages; ++stage) ask_for(r + stage * step, stage);
  // gamma is the same in every row: it stays in registers where there is room for it, and so do g
  // and xhat between the sums and the result.
  constexpr bool holds = N * V <= 16;
  constexpr int held = holds ? N : 1;
  const auto gamma_of = [&](int n) { return load_if<V>(in_row(n), gamma + first_c + n * apart); };
  Pack<float, V> held_gamma[held];
  float g[held][V], xhat[held][V];
#pragma unroll
  for (int n = 0; n < N && holds; ++n) held_gamma[n % held] = gamma_of(n);
  // g and xhat of pack n, of the row with mean m and reciprocal deviation s; returns dy.
  const auto compute = [&](int stage, int n, float m, float s) {
    const Pack<T, V> up = load<V>(place(stage, 0, n)), in = load<V>(place(stage, 1, n));
    const Pack<float, V> scale = holds ? held_gamma[n % held] : gamma_of(n);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      g[n % held][i] = float(up.v[i]) * scale.v[i];
      xhat[n % held][i] = (float(in.v[i]) - m) * s;
    }
    return up;
  };
  float sums[N][centered ? 2 : 1][V] = {};  // for dgamma and dbeta
  float next_m = 0, next_s = 0;
  if (r < rows) next_s = rstd[r];
  if (centered && r < rows) next_m = mean[r];
  int stage = 0, turn = 0;
  for (; r < rows; r += step) {
    const float m = next_m, s = next_s;
    if (r + step < rows) next_s = rstd[r + step];
    if (centered && r + step < rows) next_m = mean[r + step];
    wait_for_copies<stages - 1>();
    float sum_g = 0, sum_gx = 0;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const Pack<T, V> up = compute(stage, n, m, s);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        sums[n][0][i] += float(up.v[i]) * xhat[n % held][i];
        if constexpr (centered) sums[n][1][i] += float(up.v[i]);
        if (centered) sum_g += g[n % held][i];
        sum_gx += g[n % held][i] * xhat[n % held][i];
      }
    }
    if (centered) sum_g = warp_sum(sum_g);
    sum_gx = warp_sum(sum_gx);
    if (W > 1) {
      // Two exchanges in turn: nobody can be two barriers ahead, so one barrier a row is enough.
      if (lane == 0) exchange[turn][warp] = {sum_g, sum_gx};
      sync_warps(1 + group, W);
      sum_g = sum_gx = 0;
      for (int w = 0; w < W; ++w) {
        const RowGradientSums of_warp = exchange[turn][group * W + w];
        if (centered) sum_g += of_warp.g;
        sum_gx += of_warp.gx;
      }
      turn ^= 1;
    }
    // dx = s (g - mean_g - xhat mean_gx)
    const float offset = s * inverse_C * sum_g, slope = s * inverse_C * sum_gx;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (!dx) continue;
      if (!holds) compute(stage, n, m, s);
      Pack<T, V> before;
      if (add) before = load<V>(place(stage, 2, n));
      float out[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float gradient = s * g[n % held][i] - offset - slope * xhat[n % held][i];
        out[i] = add ? float(before.v[i]) + gradient : gradient;
      }
      if (in_row(n)) store<V>(dx + int64_t(r) * C + first_c + n * apart, out);
    }
    ask_for(r + stages * step, stage);
    stage = stage + 1 == stages ? 0 : stage + 1;
  }
  wait_for_copies<0>();
  __syncthreads();  // nobody needs the ring any more
  float* const tile = reinterpret_cast<float*>(ring);
  const int64_t part = int64_t(blockIdx.x) * C;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    write_partials(dgamma_partials + part, dbeta_partials + part, tile, sums[n], n * W, W, groups,
                   C);
  }
}

// v1 of the backward pass, for rows that v2 cannot hold, and for widths that don't divide into full
// packs: two kernels and two passes over the data, 10 bytes per element in bf16. First the two sums
// of each row, one warp per row.
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
  constexpr int S = centered ? 2 : 1;
  SHARED(float, tile, [S * 8 * 32 * V]);
  const int64_t c = (int64_t(blockIdx.x) * 32 + threadIdx.x) * V;
  float sums_of_columns[S][V] = {};  // for dgamma and dbeta
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
        sums_of_columns[0][i] += dy_rc * xhat;
        if constexpr (centered) sums_of_columns[1][i] += dy_rc;
        const float gradient = s * (g - mean_g - xhat * mean_gx);
        out.v[i] = T((dx && add ? float(out.v[i]) : 0.0f) + gradient);
      }
      if (dx) store<V>(dx + r * C + c, out);
    }
  }
  const int64_t part = int64_t(blockIdx.y) * C;
  write_partials(dgamma_partials + part, dbeta_partials + part, tile, sums_of_columns,
                 int(blockIdx.x), 1, 8, C);
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

// For the backward pass, where W may be any number up to 8: so few packs to a lane that gamma, g
// and xhat stay in registers, if that can be.
template <class T, class F>
void with_packs_backward(int64_t C, F&& body) {
  const unsigned packs = unsigned(C * sizeof(T) / 16);
  if (packs <= 4 * 32) return body(std::integral_constant<int, 1>{}, blocks_for(packs, 32));
  if (packs <= 8 * 64) return body(std::integral_constant<int, 2>{}, blocks_for(packs, 64));
  body(std::integral_constant<int, 3>{}, blocks_for(packs, 96));
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

// What the blocks of a backward pass leave, `parts` sums for each of C channels, to be added up.
struct RowNormPartials {
  float *gamma, *beta;
  unsigned parts;
  int64_t C;
  RowNormPartials(Tape& tape, int64_t parts, int64_t C)
      : gamma(tape.scratch<float>(parts * C)),
        beta(tape.scratch<float>(parts * C)),
        parts(unsigned(parts)),
        C(C) {}
  void add_to(float* dgamma, float* dbeta) const {
    add_partials_gpu({{dgamma, gamma, parts, C, C}, {dbeta, beta, parts, C, C}});
  }
};

template <bool centered, class T>
void row_norm_backward_gpu(Tape& tape, T* dx, bool add, float* dgamma, float* dbeta, const T* dy,
                           const T* x, const float* mean, const float* rstd, const float* gamma,
                           int64_t rows, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  if (!is_held_in_registers<T>(gamma, C)) {
    const int V = vector_width<T>(C);
    const unsigned columns = blocks_for(C, 32 * V);
    const RowNormPartials sums(tape, row_parts(rows, columns, 32), C);
    float* row_sums = tape.scratch<float>(2 * rows);
    launch(V == full ? row_norm_row_sums_kernel<centered, full, T>
                     : row_norm_row_sums_kernel<centered, 1, T>,
           blocks_for(rows, 8), dim3(32, 8))(row_sums, dy, x, mean, rstd, gamma, rows, int(C));
    launch(V == full ? row_norm_columns_kernel<centered, full, T>
                     : row_norm_columns_kernel<centered, 1, T>,
           dim3(columns, sums.parts), dim3(32, 8))(dx, add, sums.gamma, sums.beta, row_sums, dy, x,
                                                   mean, rstd, gamma, rows, int(C));
    return sums.add_to(dgamma, dbeta);
  }
  with_packs_backward<T>(C, [&](auto packs, unsigned warps) {
    constexpr int N = packs();
    using Plan = RowNormBackward<N>;
    const int W = int(warps);
    require(rows < (int64_t(1) << 30), "a norm's ", rows, " rows are more than a kernel can count");
    // As many blocks as run at a time: then none has to wait, and partial sums are few. And no more
    // groups than it takes to be done after as many turns, or than there is shared memory for. (15
    // have barriers.)
    const size_t ring_of_a_warp = size_t(Plan::stages * (add ? 3 : 2) * N) * 32 * 16;
    const size_t static_shared = 2 * Plan::warps * sizeof(RowGradientSums);
    const int fit = int((shared_memory_of_a_block() - static_shared) / ring_of_a_warp);
    const int warps_at_most = std::min(Plan::warps, fit);
    const int most = W == 1 ? warps_at_most : std::min(warps_at_most / W, 15);
    const RowNormPartials sums(tape, row_parts(rows, 1, 8, Plan::blocks * multiprocessors()), C);
    const int64_t turns = (rows + sums.parts * most - 1) / (sums.parts * most);
    const unsigned groups = blocks_for(rows, sums.parts * turns);
    const size_t ring = ring_of_a_warp * size_t(W) * groups;
    launch_early(add ? row_norm_backward_kernel<centered, true, full, N, T>
                     : row_norm_backward_kernel<centered, false, full, N, T>,
                 sums.parts, dim3(32, warps, groups), ring)(
        dx, sums.gamma, sums.beta, dy, x, mean, rstd, gamma, 1 / float(C), int(rows), int(C));
    sums.add_to(dgamma, dbeta);
  });
}

}  // namespace dyt
