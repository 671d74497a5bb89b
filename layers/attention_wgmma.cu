// Attention on the tensor cores of Hopper's warpgroups: the forward pass in bf16, for heads of
// width 64 and 128.
//
// The same walk over tiles of keys as in layers/attention_mma.cu, with the same softmax. New:
//
//   - The products are wgmma: four warps start one of (64, 16) (16, 64 or 128) with a single
//     instruction and go on. mma.sync, at (16, 16) (16, 8), keeps Hopper's tensor cores no more
//     than about 63% busy (arXiv 2402.13499).
//   - The tensor cores themselves read q, k and v from shared memory: no ldmatrix, no registers for
//     fragments, and v without being transposed. While they have the first product to do, the next
//     tiles are asked for.
//   - A block is two warpgroups of 64 queries each; both use the same tiles of keys and values. Two
//     blocks fit on an SM, so it has four warpgroups: while one computes exponentials, the tensor
//     cores compute another's products. Both take equally long: at width 64, a tile of (64, 64)
//     scores is 256 clocks of the tensor cores (2,048 multiplications a clock) and 256 of the units
//     for ex2 (16 a clock).
//
// Work and bytes are those of attention_mma.cu, with 128 queries to a block at either width.
#include "layers/attention_warpgroups.h"
#include "layers/attention_wgmma.h"

namespace dyt {
namespace {

using namespace attention_warpgroups;

// Keys of a tile: at width 128 fewer, because o takes as many more registers.
template <int W>
constexpr int keys_at_once = W == 64 ? 128 : 64;
constexpr int stages = 2;

// Two blocks on an SM: 128 registers a thread, of which o and s take 96; shared memory 80 KiB at
// width 64, 96 KiB at 128.
template <int W>
constexpr size_t forward_bytes = (owned_rows + 2 * stages * keys_at_once<W>)*W * sizeof(bf16);

template <int W>
__global__ void __launch_bounds__(max_threads, 2)
    attention_forward_wgmma_kernel(Heads<bf16> y, float* lse, Heads<const bf16> q,
                                   Heads<const bf16> k, Heads<const bf16> v, AttentionShape shape,
                                   TileOrder order) {
#if defined(WARPGROUPS)
  constexpr int M = owned_rows, N = keys_at_once<W>;
  DYNAMIC_SHARED_TILES(bf16, q_tile);
  bf16 *const k_tiles = q_tile + M * W, *const v_tiles = k_tiles + stages * N * W;
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
  load_step(0);
  const float c = float(shape.scale) * log2_e;
  float o[1][W / 8][4] = {}, m[1][2] = {{-INFINITY, -INFINITY}}, l[1][2] = {};
  for (int first = 0; first < keys; first += N) {
    const int tile = first % (stages * N) * W;
    wait_for_copies<0>();
    fence_async_proxy();
    __syncthreads();  // everybody's part of this tile is here, and nobody reads the last one
    if (first >= keys_of_group) {
      load_step(first + N);
      continue;
    }
    float s[1][N / 8][4];
    warpgroup_fence();
    start_scores<W, N>(s[0], k_major(q_tile + group_row * 64), k_major(k_tiles + tile));
    load_step(first + N);  // meanwhile
    warpgroup_wait<0>(s[0]);
    if (first + N > seen_by_all) {
      hide_columns(s, [&](int r) { return keys_of(row + r) - first - 2 * my.t; });
    }
    softmax_step(s, m, l, o, c);
    uint32_t p[N / 16][4];
    pack_left<N>(p, s[0]);
    warpgroup_fence(o[0], p);
    start_sums<W, N>(o[0], p, mn_major<N>(v_tiles + tile));
    warpgroup_wait<0>(o[0]);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = row + 8 * i;
    l[0][i] = group_sum(l[0][i]);
    if (my.t == 0 && query < shape.T_q) {
      lse[int64_t(at.b * shape.H + at.h) * shape.T_q + query] =
          float(shape.scale) * m[0][i] + logf(l[0][i]);
    }
    l[0][i] = 1 / l[0][i];
  }
  wait_for_copies<0>();
  __syncthreads();  // q is here, even if there are no keys, and nobody reads it any more
  write_rows<W>(y.head(at.b, at.h, W) + at.first * y.row, y.row, queries, W, false, q_tile, o, l,
                my);
#endif
}

}  // namespace

void attention_forward_wgmma(Heads<bf16> y, float* lse, Heads<const bf16> q, Heads<const bf16> k,
                             Heads<const bf16> v, const AttentionShape& shape) {
  with_width(shape.D, [&](auto width) {
    constexpr int W = decltype(width)::value;
    const TileOrder order = shape.causal ? TileOrder::last_first : TileOrder::by_head;
    launch(attention_forward_wgmma_kernel<W>,
           grid_of(order, shape.T_q, owned_rows, shape.H, shape.B), threads,
           forward_bytes<W>)(y, lse, q, k, v, shape, order);
  });
}

}  // namespace dyt
