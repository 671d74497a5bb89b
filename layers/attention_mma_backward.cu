// Attention on tensor cores: the gradients, in bf16, after FlashAttention-2 (arXiv 2307.08691). See
// layers/attention_mma.cu for the forward pass and layers/attention.cu for the mathematics.
//
// Two kernels, as in the plain version, so that every sum is a loop of one warp and no number is
// added to by two blocks:
//
//   dq      a warp owns 16 R queries and walks over the keys:     s = q k'   dp = dy v'   dq += ds
//   k dk, dv  a warp owns 16 R keys and walks over their queries:   s' = k q'  dp' = v dy'
//                                                                 dv += p' dy   dk += ds' q
//
// The second one computes s and dp turned over, with a row per key, because then p' and ds' lie in
// the registers as the left side of the next products, as p does in the forward pass: nothing is
// exchanged between threads. Price of having two kernels: 7 products instead of 5, 14 D T_q T_k
// operations per head instead of 10. What it saves is atomic additions to dq in f32 (4 D T_k / 64
// bytes per query, in an order that changes from run to run) or a walk in fixed order.
//
// Bytes of device memory per token and head: the first kernel reads q, dy, y, and k, v once per
// tile of queries, and writes dq; the second reads k, v, and q, dy once per tile of keys, and
// writes dk, dv. Not counting what comes from the L2 cache, 22 D.
#include "layers/attention_fragments.h"
#include "layers/attention_mma.h"

namespace dyt {
namespace {

using namespace attention_fragments;

// Columns of s and dp at a time: of 64 streamed rows, so many are in registers at once.
constexpr int at_once = 32;

// A block of 4 warps per 64 R queries of a head; dq and delta (B, H, T_q). Shared memory: 64 KiB at
// width 64 with R = 2, 96 KiB at 128 with R = 1: two blocks on an SM of sm_90.
template <int W, int R, int stages>
constexpr size_t backward_bytes = (2 * owned<R> + 2 * stages * streamed) * W * sizeof(bf16);

template <int W, int R, int stages>
__global__ void __launch_bounds__(block_size, 2)
    attention_backward_q_mma_kernel(Heads<bf16> dq, bool add, float* delta, Heads<const bf16> dy,
                                    Heads<const bf16> y, const float* lse, Heads<const bf16> q,
                                    Heads<const bf16> k, Heads<const bf16> v, AttentionShape shape,
                                    TileOrder order) {
  constexpr int M = owned<R>, N = streamed, C = at_once / 8;
  constexpr int q_tile = 0, dy_tile = M * W, k_tiles = 2 * M * W,
                v_tiles = k_tiles + stages * N * W;
  DYNAMIC_SHARED(bf16, shared);
  const Place at(order, M);
  const Lane<R> my;
  const int D = shape.D, kv = at.h / shape.group(), length = shape.length_of(at.b);
  const int queries = min(M, shape.T_q - at.first), row = at.first + my.row + my.g;
  const auto keys_of = [&](int query) { return shape.keys_of(query, length); };
  const int keys = keys_of(at.first + queries - 1);  // that the last query sees
  const int keys_of_warp = my.row < queries ? keys_of(at.first + my.row + 16 * R - 1) : 0;
  const int seen_by_all = keys_of(at.first + my.row);  // of the warp
  const bf16* const k_head = k.head(at.b, kv, D);
  const bf16* const v_head = v.head(at.b, kv, D);
  const auto load_step = [&](int step) {
    const int first = step * N, to = step % stages * N * W;
    if (first < keys) {
      load_tile<N, W>(shared + k_tiles + to, k_head, k.row, first, length, D);
      load_tile<N, W>(shared + v_tiles + to, v_head, v.row, first, length, D);
    }
    commit_copies();
  };

  load_tile<M, W>(shared + q_tile, q.head(at.b, at.h, D), q.row, at.first, shape.T_q, D);
  load_tile<M, W>(shared + dy_tile, dy.head(at.b, at.h, D), dy.row, at.first, shape.T_q, D);
  commit_copies();
#pragma unroll
  for (int step = 0; step < stages - 1; ++step) load_step(step);
  wait_for_copies<stages - 1>();
  __syncthreads();
  float delta_r[R][2], lse_r[R][2];
  delta_of_rows<W>(
      delta_r, [&](int r, int c) { return shared + dy_tile + chunk_at<W>(r, c); },
      y.head(at.b, at.h, D) + at.first * y.row, y.row, queries, D, my);
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = row + 16 * r + 8 * i;
      const int64_t statistic = int64_t(at.b * shape.H + at.h) * shape.T_q + query;
      lse_r[r][i] = query < shape.T_q ? log2_e * lse[statistic] : 0.0f;
      if (my.t == 0 && query < shape.T_q) delta[statistic] = delta_r[r][i];
    }
  }
  const float c = float(shape.scale) * log2_e;
  float sums[R][W / 8][4] = {};
  for (int step = 0; step * N < keys; ++step) {
    wait_for_copies<stages - 2>();
    __syncthreads();  // everybody's part of this tile is here, and nobody reads the last one
    load_step(step + stages - 1);
    const int tile = step % stages * N * W;
#pragma unroll 1
    for (int part = 0; part < N; part += at_once) {
      const int first = step * N + part;
      if (first >= keys_of_warp) break;
      float s[R][C][4], ds[R][C][4];
      scores<W>(s, shared, q_tile, k_tiles + tile, part, my);
      scores<W>(ds, shared, dy_tile, v_tiles + tile, part, my);
      if (first + at_once > seen_by_all) {
        hide_columns(s, [&](int r) { return keys_of(row + r) - first - 2 * my.t; });
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int n = 0; n < C; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float p = exp2_approx(c * s[r][n][e] - lse_r[r][e / 2]);
            ds[r][n][e] = p * (ds[r][n][e] - delta_r[r][e / 2]);
          }
        }
      }
      accumulate<W>(sums, ds, shared, k_tiles + tile, part, my);
    }
  }
  float factor[R][2];
#pragma unroll
  for (int r = 0; r < R; ++r) factor[r][0] = factor[r][1] = float(shape.scale);
  write_rows<W>(dq.head(at.b, at.h, D) + at.first * dq.row, dq.row, queries, D, add,
                shared + q_tile, sums, factor, my);
}

// A block of 4 warps per 64 R keys of a key head; dk and dv. It walks over the queries that see
// them, of every query head that this key head serves; lse and delta of the queries come with the
// tiles. Queries that don't exist are zeros, and so is what they add. Shared memory as above, and 1
// KiB.
template <int W, int R, int stages>
constexpr size_t backward_kv_bytes = backward_bytes<W, R, stages> +
                                     2 * stages* streamed * sizeof(float);

template <int W, int R, int stages>
__global__ void __launch_bounds__(block_size, 2)
    attention_backward_kv_mma_kernel(Heads<bf16> dk, Heads<bf16> dv, bool add, Heads<const bf16> dy,
                                     const float* lse, const float* delta, Heads<const bf16> q,
                                     Heads<const bf16> k, Heads<const bf16> v, AttentionShape shape,
                                     TileOrder order) {
  constexpr int M = owned<R>, N = streamed, C = at_once / 8;
  constexpr int k_tile = 0, v_tile = M * W, q_tiles = 2 * M * W;
  constexpr int dy_tiles = q_tiles + stages * N * W;
  DYNAMIC_SHARED(bf16, shared);
  float* const lse_tiles = reinterpret_cast<float*>(shared + dy_tiles + stages * N * W);
  float* const delta_tiles = lse_tiles + stages * N;
  const Place at(order, M);
  const Lane<R> my;
  const int D = shape.D, length = shape.length_of(at.b), keys = min(M, shape.T_k - at.first);
  const int warp_first = at.first + my.row;
  const QueryWalk walk(shape, at);
  QueryWalk::Step next = walk.start(at.first), step = next;
  const auto load_step = [&](int stage) {
    if (!walk.ends(next)) {
      const auto [h, first] = next;
      const int left = shape.T_q - first, to = stage * N * W;
      load_tile<N, W>(shared + q_tiles + to, q.head(at.b, h, D), q.row, first, shape.T_q, D);
      load_tile<N, W>(shared + dy_tiles + to, dy.head(at.b, h, D), dy.row, first, shape.T_q, D);
      const int64_t statistics = int64_t(at.b * shape.H + h) * shape.T_q + first;
      const int i = int(threadIdx.x) % N, of_i = i < left ? i : 0, place = stage * N + i;
      if (int(threadIdx.x) < N) {
        copy_async<4>(lse_tiles + place, lse + statistics + of_i, i < left);
      } else {
        copy_async<4>(delta_tiles + place, delta + statistics + of_i, i < left);
      }
      walk.advance(next);
    }
    commit_copies();
  };

  load_tile<M, W>(shared + k_tile, k.head(at.b, at.h, D), k.row, at.first, length, D);
  load_tile<M, W>(shared + v_tile, v.head(at.b, at.h, D), v.row, at.first, length, D);
#pragma unroll
  for (int stage = 0; stage < stages - 1; ++stage) load_step(stage);
  const float c = float(shape.scale) * log2_e;
  float dk_sums[R][W / 8][4] = {}, dv_sums[R][W / 8][4] = {};
  for (int stage = 0; !walk.ends(step); stage = (stage + 1) % stages, walk.advance(step)) {
    wait_for_copies<stages - 2>();
    __syncthreads();  // everybody's part of this tile is here, and nobody reads the last one
    load_step((stage + stages - 1) % stages);
    const int tile = stage * N * W;
#pragma unroll 1
    for (int part = 0; part < N; part += at_once) {
      const int first = step.first + part;
      if (first + at_once <= walk.first_query(warp_first) || first >= shape.T_q) continue;
      float p[R][C][4], ds[R][C][4];
      scores<W>(p, shared, k_tile, q_tiles + tile, part, my);
      scores<W>(ds, shared, v_tile, dy_tiles + tile, part, my);
      if (first < walk.first_query(warp_first + 16 * R - 1)) {
        const int key = warp_first + my.g;
        hide_first_columns(p, [&](int r) { return walk.first_query(key + r) - first - 2 * my.t; });
      }
#pragma unroll
      for (int n = 0; n < C; ++n) {
        const int column = stage * N + part + 8 * n + 2 * my.t;
        const auto lse_n = load<2>(lse_tiles + column), delta_n = load<2>(delta_tiles + column);
#pragma unroll
        for (int r = 0; r < R; ++r) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            p[r][n][e] = exp2_approx(c * p[r][n][e] - log2_e * lse_n.v[e % 2]);
            ds[r][n][e] = p[r][n][e] * (ds[r][n][e] - delta_n.v[e % 2]);
          }
        }
      }
      accumulate<W>(dv_sums, p, shared, dy_tiles + tile, part, my);
      accumulate<W>(dk_sums, ds, shared, q_tiles + tile, part, my);
    }
  }
  float one[R][2], factor[R][2];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    one[r][0] = one[r][1] = 1;
    factor[r][0] = factor[r][1] = float(shape.scale);
  }
  wait_for_copies<0>();
  __syncthreads();  // k and v are here, even if no query sees them
  write_rows<W>(dv.head(at.b, at.h, D) + at.first * dv.row, dv.row, keys, D, add, shared + v_tile,
                dv_sums, one, my);
  write_rows<W>(dk.head(at.b, at.h, D) + at.first * dk.row, dk.row, keys, D, add, shared + k_tile,
                dk_sums, factor, my);
}

}  // namespace

void attention_backward_mma(Tape& tape, Heads<bf16> dq, Heads<bf16> dk, Heads<bf16> dv, bool add_q,
                            bool add_kv, Heads<const bf16> dy, Heads<const bf16> y,
                            const float* lse, Heads<const bf16> q, Heads<const bf16> k,
                            Heads<const bf16> v, const AttentionShape& shape) {
  constexpr int stages = 2;
  float* const delta = tape.scratch<float>(shape.B * shape.H * shape.T_q);
  with_tile(shape.D, shape.T_q, [&](auto width, auto rows) {
    constexpr int W = decltype(width)::value, R = decltype(rows)::value;
    const TileOrder order = shape.causal ? TileOrder::last_first : TileOrder::by_head;
    launch(attention_backward_q_mma_kernel<W, R, stages>,
           grid_of(order, shape.T_q, owned<R>, shape.H, shape.B), block_size,
           backward_bytes<W, R, stages>)(dq, add_q, delta, dy, y, lse, q, k, v, shape, order);
  });
  with_tile(shape.D, shape.T_k, [&](auto width, auto rows) {
    constexpr int W = decltype(width)::value, R = decltype(rows)::value;
    const TileOrder order = shape.causal ? TileOrder::first_first : TileOrder::by_head;
    launch(attention_backward_kv_mma_kernel<W, R, stages>,
           grid_of(order, shape.T_k, owned<R>, shape.KV, shape.B), block_size,
           backward_kv_bytes<W, R, stages>)(dk, dv, add_kv, dy, lse, delta, q, k, v, shape, order);
  });
}

}  // namespace dyt
