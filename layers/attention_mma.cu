// Attention on tensor cores: the forward pass in bf16, after FlashAttention-2 (arXiv 2307.08691).
//
// The mathematics and its names are in layers/attention.cu, whose plain kernels do the same with
// one multiplication per instruction; the tiles are explained in layers/attention_fragments.h. What
// is new against the plain kernel:
//
//   - Both products, s = q k' and p v, are tensor core instructions: 2,048 multiplications each.
//     q, k, v and p enter in bf16, sums, the softmax and its statistics are f32.
//   - p never leaves the registers. A lane holds of s just the numbers that it has to hold of the
//     left side of the next product.
//   - A tile of keys and values arrives by asynchronous copies while the one before it is being
//     used. With `stages` places for tiles, stages - 1 are under way; one barrier per step, after
//     which everybody has its tile and nobody still reads the one that is overwritten next.
//   - exp(scale (s - m)) is 2^(s c - m c) with c = scale log2(e): one multiply-add and one ex2.
//   - Only tiles that hold something hidden from one of the warp's queries are masked, and tiles in
//     which all is hidden are not looked at.
//
// Work: 4 D T_q T_k operations per head (half of it if causal). Bytes of device memory: q and y
// once, k and v once per tile of queries, of which all but the first come from the L2 cache: 8 D
// bytes per token and head. So per byte there are T / 2 operations, and from a few hundred
// tokens on the tensor cores are the limit; below that, it is memory.
#include "layers/attention_fragments.h"
#include "layers/attention_mma.h"

namespace dyt {
namespace {

using namespace attention_fragments;

// A block of 4 warps per 64 R queries of a head. Shared memory: 48 KiB at width 64 with R = 2 and
// two stages, 80 KiB at 128 with R = 1. Registers: R (W / 2 + 32) for o and s, about 230 of all
// kinds with W = 64 and R = 2, so two blocks fit on an SM.
template <int W, int R, int stages>
constexpr size_t forward_bytes = (owned<R> + 2 * stages * streamed) * W * sizeof(bf16);

template <int W, int R, int stages>
__global__ void __launch_bounds__(block_size, 2)
    attention_forward_mma_kernel(Heads<bf16> y, float* lse, Heads<const bf16> q,
                                 Heads<const bf16> k, Heads<const bf16> v, AttentionShape shape,
                                 TileOrder order) {
  constexpr int M = owned<R>, N = streamed;
  DYNAMIC_SHARED(bf16, shared);
  constexpr int q_tile = 0, k_tiles = M * W, v_tiles = k_tiles + stages * N * W;
  const Place at(order, M);
  const Lane<R> my;
  const int D = shape.D, kv = at.h / shape.group(), length = shape.length_of(at.b);
  const int queries = min(M, shape.T_q - at.first), row = at.first + my.row + my.g;
  const auto keys_of = [&](int query) { return shape.keys_of(query, length); };
  const int warp_first = at.first + my.row;
  const int keys = keys_of(at.first + queries - 1);  // that the last query sees
  const int keys_of_warp = my.row < queries ? keys_of(warp_first + 16 * R - 1) : 0;
  const int seen_by_all = keys_of(warp_first);  // of the warp
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
#pragma unroll
  for (int step = 0; step < stages - 1; ++step) load_step(step);
  const float c = float(shape.scale) * log2_e;
  float o[R][W / 8][4] = {}, m[R][2], l[R][2] = {};
#pragma unroll
  for (int r = 0; r < R; ++r) m[r][0] = m[r][1] = -INFINITY;
  for (int step = 0; step * N < keys; ++step) {
    const int first = step * N, tile = step % stages * N * W;
    wait_for_copies<stages - 2>();
    __syncthreads();  // everybody's part of this tile is here, and nobody reads the last one
    load_step(step + stages - 1);
    if (first >= keys_of_warp) continue;
    float s[R][N / 8][4];
    scores<W>(s, shared, q_tile, k_tiles + tile, 0, my);
    if (first + N > seen_by_all) {
      hide_columns(s, [&](int r) { return keys_of(row + r) - first - 2 * my.t; });
    }
    softmax_step(s, m, l, o, c);
    accumulate<W>(o, s, shared, v_tiles + tile, 0, my);
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = row + 16 * r + 8 * i;
      l[r][i] = group_sum(l[r][i]);
      if (my.t == 0 && query < shape.T_q) {
        lse[int64_t(at.b * shape.H + at.h) * shape.T_q + query] =
            float(shape.scale) * m[r][i] + logf(l[r][i]);
      }
      l[r][i] = 1 / l[r][i];
    }
  }
  if (keys <= 0) {  // q's copy is still under way
    wait_for_copies<0>();
    __syncthreads();
  }
  write_rows<W>(y.head(at.b, at.h, D) + at.first * y.row, y.row, queries, D, false, shared + q_tile,
                o, l, my);
}

}  // namespace

void attention_forward_mma(Heads<bf16> y, float* lse, Heads<const bf16> q, Heads<const bf16> k,
                           Heads<const bf16> v, const AttentionShape& shape) {
  with_tile(shape.D, shape.T_q, [&](auto width, auto rows) {
    constexpr int W = decltype(width)::value, R = decltype(rows)::value, stages = 2;
    const TileOrder order = shape.causal ? TileOrder::last_first : TileOrder::by_head;
    launch(attention_forward_mma_kernel<W, R, stages>,
           grid_of(order, shape.T_q, owned<R>, shape.H, shape.B), block_size,
           forward_bytes<W, R, stages>)(y, lse, q, k, v, shape, order);
  });
}

}  // namespace dyt
