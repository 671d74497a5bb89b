// Attention on the tensor cores of Hopper's warpgroups: the gradients in bf16, for heads of width
// 64 and 128.
//
// The two kernels of layers/attention_mma_backward.cu, in the same order and with the same 14 D T_q
// T_k operations: every sum is a loop of one warpgroup. New, besides what layers/attention_wgmma.cu
// says of the forward pass:
//
//   - Tiles of 64 streamed rows are taken whole: s and dp are (64, 64) to a warpgroup. In both
//     products the tensor cores read either side from shared memory, in the next ones, p' dy, ds' q
//     and ds k, only the right one.
//   - Products are started as soon as their sides are there and waited for when the numbers are
//     wanted: dp is multiplied while p = 2^(s - lse) is computed from s, and dv grows while ds is
//     computed from dp.
#include "layers/attention_warpgroups.h"
#include "layers/attention_wgmma.h"

namespace dyt {
namespace {

using namespace attention_warpgroups;

constexpr int stages = 2, N = streamed;

// Registers (nvcc 13): dq 122 at width 64, so two blocks fit on an SM, and 180 at 128; dk and dv
// 191 and 238, one block. Shared memory: 64 KiB at width 64, 128 KiB at 128; dk and dv 1 KiB more.
template <int W>
constexpr size_t backward_bytes = (2 * owned_rows + 2 * stages * N) * W * sizeof(bf16);
template <int W>
constexpr size_t backward_kv_bytes = backward_bytes<W> + 2 * stages* N * sizeof(float);

// A block of two warpgroups per 128 queries of a head; dq and delta (B, H, T_q).
template <int W>
__global__ void __launch_bounds__(max_threads, W == 64 ? 2 : 1)
    attention_backward_q_wgmma_kernel(Heads<bf16> dq, bool add, float* delta, Heads<const bf16> dy,
                                      Heads<const bf16> y, const float* lse, Heads<const bf16> q,
                                      Heads<const bf16> k, Heads<const bf16> v,
                                      AttentionShape shape, TileOrder order) {
#if defined(WARPGROUPS)
  constexpr int M = owned_rows;
  DYNAMIC_SHARED_TILES(bf16, q_tile);
  bf16 *const dy_tile = q_tile + M * W, *const k_tiles = dy_tile + M * W;
  bf16* const v_tiles = k_tiles + stages * N * W;
  const Place at(order, M);
  const Lane<1> my;
  const int kv = at.h / shape.group(), length = shape.length_of(at.b);
  const int queries = min(M, shape.T_q - at.first), row = at.first + my.row + my.g;
  const auto keys_of = [&](int query) { return shape.keys_of(query, length); };
  const int keys = keys_of(at.first + queries - 1);  // that the last query sees
  const int group_row = row_of_group();
  const int keys_of_group = group_row < queries ? keys_of(at.first + group_row + 63) : 0;
  const int seen_by_all = keys_of(at.first + my.row);  // of the warp
  const bf16* const k_head = k.head(at.b, kv, W);
  const bf16* const v_head = v.head(at.b, kv, W);
  const auto load_step = [&](int first) {
    const int to = first % (stages * N) * W;
    if (first < keys) {
      load_panels<N, W>(k_tiles + to, k_head, k.row, first, length);
      load_panels<N, W>(v_tiles + to, v_head, v.row, first, length);
    }
    commit_copies();
  };

  load_panels<M, W>(q_tile, q.head(at.b, at.h, W), q.row, at.first, shape.T_q);
  load_panels<M, W>(dy_tile, dy.head(at.b, at.h, W), dy.row, at.first, shape.T_q);
  commit_copies();
  load_step(0);
  wait_for_copies<1>();
  __syncthreads();
  float delta_r[1][2], lse_r[2];
  delta_of_rows<W>(
      delta_r, [&](int r, int c) { return dy_tile + chunk_in_panels<M>(r, c); },
      y.head(at.b, at.h, W) + at.first * y.row, y.row, queries, W, my);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = row + 8 * i;
    const int64_t statistic = int64_t(at.b * shape.H + at.h) * shape.T_q + query;
    lse_r[i] = query < shape.T_q ? log2_e * lse[statistic] : 0.0f;
    if (my.t == 0 && query < shape.T_q) delta[statistic] = delta_r[0][i];
  }
  const float c = float(shape.scale) * log2_e;
  float sums[1][W / 8][4] = {};
  for (int first = 0; first < keys; first += N) {
    const int tile = first % (stages * N) * W;
    wait_for_copies<0>();
    fence_async_proxy();
    __syncthreads();  // everybody's part of this tile is here, and nobody reads the last one
    if (first >= keys_of_group) {
      load_step(first + N);
      continue;
    }
    float s[1][N / 8][4], ds[N / 8][4];
    warpgroup_fence();
    start_scores<W, N>(s[0], k_major(q_tile + group_row * 64), k_major(k_tiles + tile));
    start_scores<W, N>(ds, k_major(dy_tile + group_row * 64), k_major(v_tiles + tile));
    load_step(first + N);  // meanwhile
    warpgroup_wait<1>(s[0]);
    if (first + N > seen_by_all) {
      hide_columns(s, [&](int r) { return keys_of(row + r) - first - 2 * my.t; });
    }
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[0][n][e] = exp2_approx(c * s[0][n][e] - lse_r[e / 2]);
    }
    warpgroup_wait<0>(ds);
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) ds[n][e] = s[0][n][e] * (ds[n][e] - delta_r[0][e / 2]);
    }
    uint32_t left[N / 16][4];
    pack_left<N>(left, ds);
    warpgroup_fence(sums[0], left);
    start_sums<W, N>(sums[0], left, mn_major<N>(k_tiles + tile));
    warpgroup_wait<0>(sums[0]);
  }
  const float factor[1][2] = {{float(shape.scale), float(shape.scale)}};
  wait_for_copies<0>();
  __syncthreads();  // q is here, even if there are no keys, and nobody reads it any more
  write_rows<W>(dq.head(at.b, at.h, W) + at.first * dq.row, dq.row, queries, W, add, q_tile, sums,
                factor, my);
#endif
}

// A block of two warpgroups per 128 keys of a key head; dk and dv. It walks over the queries that
// see them, of every query head that this key head serves; lse and delta of the queries come with
// the tiles. Queries that don't exist are zeros, and so is what they add.
template <int W>
__global__ void __launch_bounds__(max_threads, 1)
    attention_backward_kv_wgmma_kernel(Heads<bf16> dk, Heads<bf16> dv, bool add,
                                       Heads<const bf16> dy, const float* lse, const float* delta,
                                       Heads<const bf16> q, Heads<const bf16> k,
                                       Heads<const bf16> v, AttentionShape shape, TileOrder order) {
#if defined(WARPGROUPS)
  constexpr int M = owned_rows;
  DYNAMIC_SHARED_TILES(bf16, k_tile);
  bf16 *const v_tile = k_tile + M * W, *const q_tiles = v_tile + M * W;
  bf16* const dy_tiles = q_tiles + stages * N * W;
  float* const lse_tiles = reinterpret_cast<float*>(dy_tiles + stages * N * W);
  float* const delta_tiles = lse_tiles + stages * N;
  const Place at(order, M);
  const Lane<1> my;
  const int length = shape.length_of(at.b), keys = min(M, shape.T_k - at.first);
  const int group_row = row_of_group(), warp_first = at.first + my.row;
  const QueryWalk walk(shape, at);
  QueryWalk::Step next = walk.start(at.first), step = next;
  const auto load_step = [&](int stage) {
    if (!walk.ends(next)) {
      const auto [h, first] = next;
      const int left = shape.T_q - first, to = stage * N * W;
      load_panels<N, W>(q_tiles + to, q.head(at.b, h, W), q.row, first, shape.T_q);
      load_panels<N, W>(dy_tiles + to, dy.head(at.b, h, W), dy.row, first, shape.T_q);
      const int64_t statistics = int64_t(at.b * shape.H + h) * shape.T_q + first;
      const int i = int(threadIdx.x) % N, of_i = i < left ? i : 0, place = stage * N + i;
      if (int(threadIdx.x) < N) {
        copy_async<4>(lse_tiles + place, lse + statistics + of_i, i < left);
      } else if (int(threadIdx.x) < 2 * N) {
        copy_async<4>(delta_tiles + place, delta + statistics + of_i, i < left);
      }
      walk.advance(next);
    }
    commit_copies();
  };

  load_panels<M, W>(k_tile, k.head(at.b, at.h, W), k.row, at.first, length);
  load_panels<M, W>(v_tile, v.head(at.b, at.h, W), v.row, at.first, length);
  load_step(0);
  const float c = float(shape.scale) * log2_e;
  float dk_sums[1][W / 8][4] = {}, dv_sums[1][W / 8][4] = {};
  for (int stage = 0; !walk.ends(step); stage = (stage + 1) % stages, walk.advance(step)) {
    wait_for_copies<0>();
    fence_async_proxy();
    __syncthreads();  // everybody's part of this tile is here, and nobody reads the last one
    const int tile = stage * N * W, first = step.first;
    if (first + N <= walk.first_query(at.first + group_row)) {
      load_step((stage + 1) % stages);
      continue;
    }
    float p[1][N / 8][4], ds[N / 8][4];
    warpgroup_fence();
    start_scores<W, N>(p[0], k_major(k_tile + group_row * 64), k_major(q_tiles + tile));
    start_scores<W, N>(ds, k_major(v_tile + group_row * 64), k_major(dy_tiles + tile));
    load_step((stage + 1) % stages);  // meanwhile
    warpgroup_wait<1>(p[0]);
    if (first < walk.first_query(warp_first + 15)) {
      const int key = warp_first + my.g;
      hide_first_columns(p, [&](int r) { return walk.first_query(key + r) - first - 2 * my.t; });
    }
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
      const auto lse_n = load<2>(lse_tiles + stage * N + 8 * n + 2 * my.t);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        p[0][n][e] = exp2_approx(c * p[0][n][e] - log2_e * lse_n.v[e % 2]);
      }
    }
    uint32_t p_left[N / 16][4], ds_left[N / 16][4];
    pack_left<N>(p_left, p[0]);
    warpgroup_fence(dv_sums[0], p_left);
    start_sums<W, N>(dv_sums[0], p_left, mn_major<N>(dy_tiles + tile));
    warpgroup_wait<1>(ds);
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
      const auto delta_n = load<2>(delta_tiles + stage * N + 8 * n + 2 * my.t);
#pragma unroll
      for (int e = 0; e < 4; ++e) ds[n][e] = p[0][n][e] * (ds[n][e] - delta_n.v[e % 2]);
    }
    pack_left<N>(ds_left, ds);
    warpgroup_fence(dk_sums[0], ds_left);
    start_sums<W, N>(dk_sums[0], ds_left, mn_major<N>(q_tiles + tile));
    warpgroup_wait<0>(dv_sums[0], dk_sums[0]);
  }
  const float one[1][2] = {{1, 1}}, factor[1][2] = {{float(shape.scale), float(shape.scale)}};
  wait_for_copies<0>();
  __syncthreads();  // k and v are here, even if no query sees them, and nobody reads them any more
  write_rows<W>(dv.head(at.b, at.h, W) + at.first * dv.row, dv.row, keys, W, add, v_tile, dv_sums,
                one, my);
  write_rows<W>(dk.head(at.b, at.h, W) + at.first * dk.row, dk.row, keys, W, add, k_tile, dk_sums,
                factor, my);
#endif
}

}  // namespace

void attention_backward_wgmma(Tape& tape, Heads<bf16> dq, Heads<bf16> dk, Heads<bf16> dv,
                              bool add_q, bool add_kv, Heads<const bf16> dy, Heads<const bf16> y,
                              const float* lse, Heads<const bf16> q, Heads<const bf16> k,
                              Heads<const bf16> v, const AttentionShape& shape) {
  float* const delta = tape.scratch<float>(shape.B * shape.H * shape.T_q);
  with_width(shape.D, [&](auto width) {
    constexpr int W = decltype(width)::value;
    const TileOrder q_order = shape.causal ? TileOrder::last_first : TileOrder::by_head;
    const TileOrder kv_order = shape.causal ? TileOrder::first_first : TileOrder::by_head;
    launch(attention_backward_q_wgmma_kernel<W>,
           grid_of(q_order, shape.T_q, owned_rows, shape.H, shape.B), threads,
           backward_bytes<W>)(dq, add_q, delta, dy, y, lse, q, k, v, shape, q_order);
    launch(attention_backward_kv_wgmma_kernel<W>,
           grid_of(kv_order, shape.T_k, owned_rows, shape.KV, shape.B), threads,
           backward_kv_bytes<W>)(dk, dv, add_kv, dy, lse, delta, q, k, v, shape, kv_order);
  });
}

}  // namespace dyt
