// The kernels of the backward pass that LayerNorm and RMSNorm share; layernorm.cu and rmsnorm.cu
// have the mathematics, row_norm.h the forward pass and the letters. Only .cu files include this.
#pragma once
#include "core/reduce.h"
#include "core/tape.h"
#include "layers/column_walk.h"
#include "layers/row_norm.h"

namespace dyt {

// (3) The kernels ---------------------------------------------------------------------------------

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

// For the backward pass, where W may be any number up to 8: so few packs to a lane that gamma, g
// and xhat stay in registers, if that can be.
template <class T, class F>
void with_packs_backward(int64_t C, F&& body) {
  const unsigned packs = unsigned(C * sizeof(T) / 16);
  if (packs <= 4 * 32) return body(std::integral_constant<int, 1>{}, blocks_for(packs, 32));
  if (packs <= 8 * 64) return body(std::integral_constant<int, 2>{}, blocks_for(packs, 64));
  body(std::integral_constant<int, 3>{}, blocks_for(packs, 96));
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
