// The kernels of attention.cu, which has the mathematics: of any width and number type, on ordinary
// arithmetic. In bf16, tensor cores take over where they can (attention_mma.h). Only .cu files
// include this.
#pragma once
#include <type_traits>

#include "core/dispatch.h"
#include "core/kernel.h"
#include "layers/attention_tiles.h"
#include "layers/attention_wgmma.h"

namespace dyt::attention_tiles {

// (3) The kernels --------------------------------------------------------------------------------
//
// The vocabulary of tiles is in layers/attention_tiles.h: a block of 16 x 16 threads owns a tile of
// rows and streams the other side's tiles of 32 rows past it; R owned and C streamed rows per
// thread. W is the head width D rounded up to 32, 64 or 128.

// The tile, head and sample of this block: all tiles of a head run side by side, so that they share
// its keys in the cache.
struct Place {
  int first, h;  // first row of the tile
  int64_t b;
  __device__ Place(int rows, int heads, int tile) {
    const int tiles = (rows + tile - 1) / tile, pair = int(blockIdx.x) / tiles;
    first = int(blockIdx.x) % tiles * tile;
    b = pair / heads;
    h = pair % heads;
  }
};

__device__ inline bool sees(const AttentionShape& shape, int length, int query, int key) {
  return key < shape.keys_of(query, length);
}

// A block per 64 queries of a head; y and lse. Of device memory it reads q once and k and v once
// per tile of queries (from the cache, but for the first), and writes y: 8 D bytes per token and
// head in bf16. Shared memory: 43 KiB at width 64, 75 KiB at 128.
template <int W>
constexpr int forward_rows = 64;
template <int W>
constexpr int forward_shared = tile_size<forward_rows<W>, W> + 2 * tile_size<streamed, W> +
                               tile_size<forward_rows<W>, streamed>;

template <int W, class T>
__global__ void __launch_bounds__(block_size, 2)
    attention_forward_kernel(Heads<T> y, float* lse, Heads<const T> q, Heads<const T> k,
                             Heads<const T> v, AttentionShape shape, bool wide) {
  constexpr int M = forward_rows<W>, N = streamed, R = M / side, C = N / side;
  DYNAMIC_SHARED(float, shared);
  float* const q_tile = shared;
  float* const k_tile = q_tile + tile_size<M, W>;
  float* const v_tile = k_tile + tile_size<N, W>;
  float* const p_tile = v_tile + tile_size<N, W>;
  const Place at(shape.T_q, shape.H, M);
  const int D = shape.D;
  const float scale = float(shape.scale);
  const int kv = at.h / shape.group(), row = at.first + int(threadIdx.y) * R;
  const int queries = min(M, shape.T_q - at.first);
  const int length = shape.length_of(at.b), last = warp_row<R>(at.first) + 2 * R - 1;
  const int keys = shape.keys_of(at.first + queries - 1, length);  // that the last query sees
  const int keys_of_warp = last - 2 * R + 1 < shape.T_q ? shape.keys_of(last, length) : 0;

  load_tile<M, W>(q_tile, q.head(at.b, at.h, D) + at.first * q.row, q.row, queries, D, wide);
  float o[R][W / side] = {}, m[R], l[R] = {};
#pragma unroll
  for (int r = 0; r < R; ++r) m[r] = -INFINITY;
  for (int first = 0; first < keys; first += N) {
    __syncthreads();  // the last step has been read
    load_tile<N, W>(k_tile, k.head(at.b, kv, D) + first * k.row, k.row, length - first, D, wide);
    load_tile<N, W>(v_tile, v.head(at.b, kv, D) + first * v.row, v.row, length - first, D, wide);
    __syncthreads();
    if (first >= keys_of_warp) continue;
    float p[R][C];
    scores<W>(p, q_tile, k_tile, D);
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const bool seen = sees(shape, length, row + r, first + int(threadIdx.x) + c * side);
        p[r][c] = seen ? scale * p[r][c] : -INFINITY;
      }
      // Key 0 is seen by every query (a length is at least 1), so the maximum is finite from the
      // first step on.
      const float highest = fmaxf(m[r], row_max(p[r]));
      const float correction = __expf(m[r] - highest);
#pragma unroll
      for (int c = 0; c < C; ++c) p[r][c] = __expf(p[r][c] - highest);
      l[r] = correction * l[r] + row_sum(p[r]);
      m[r] = highest;
#pragma unroll
      for (int c = 0; c < W / side; ++c) o[r][c] *= correction;
    }
    put_tile(p_tile, p);
    accumulate<W>(o, p_tile, v_tile);
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    if (threadIdx.x == 0 && row + r < shape.T_q) {
      lse[(at.b * shape.H + at.h) * shape.T_q + row + r] = m[r] + logf(l[r]);
    }
    l[r] = 1 / l[r];
  }
  write_rows<W>(y.head(at.b, at.h, D) + at.first * y.row, y.row, queries, D, wide, false, o, l);
}

// delta (B, H, T_q) = dy . y, a warp per row of a head. Reads dy and y, 4 D bytes per row in bf16.
template <class T>
__global__ void attention_delta_kernel(float* delta, Heads<const T> dy, Heads<const T> y,
                                       AttentionShape shape) {
  const int64_t n = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;  // (b, t, h), heads fastest
  if (n >= shape.B * shape.T_q * shape.H) return;                    // the whole warp
  const int64_t h = n % shape.H, t = n / shape.H % shape.T_q, b = n / shape.H / shape.T_q;
  const T* const dy_t = dy.head(b, h, shape.D) + t * dy.row;
  const T* const y_t = y.head(b, h, shape.D) + t * y.row;
  float sum = 0;
  for (int d = int(threadIdx.x); d < shape.D; d += 32) sum += float(dy_t[d]) * float(y_t[d]);
  sum = warp_sum(sum);
  if (threadIdx.x == 0) delta[(b * shape.H + h) * shape.T_q + t] = sum;
}

// The backward kernels own 64 rows, 32 of the widest heads: 60 KiB of shared memory at width 64, 71
// at 128.
template <int W>
constexpr int backward_rows = W <= 64 ? 64 : 32;
template <int W>
constexpr int backward_shared = 2 * tile_size<backward_rows<W>, W> + 2 * tile_size<streamed, W> +
                                tile_size<backward_rows<W>, streamed>;

// dq: a block per tile of queries, which walks over their keys as in the forward pass.
template <int W, class T>
__global__ void __launch_bounds__(block_size, 2)
    attention_backward_q_kernel(Heads<T> dq, bool add, Heads<const T> dy, const float* lse,
                                const float* delta, Heads<const T> q, Heads<const T> k,
                                Heads<const T> v, AttentionShape shape, bool wide) {
  constexpr int M = backward_rows<W>, N = streamed, R = M / side, C = N / side;
  DYNAMIC_SHARED(float, shared);
  float* const q_tile = shared;
  float* const dy_tile = q_tile + tile_size<M, W>;
  float* const k_tile = dy_tile + tile_size<M, W>;
  float* const v_tile = k_tile + tile_size<N, W>;
  float* const ds_tile = v_tile + tile_size<N, W>;
  const Place at(shape.T_q, shape.H, M);
  const int D = shape.D;
  const float scale = float(shape.scale);
  const int kv = at.h / shape.group(), row = at.first + int(threadIdx.y) * R;
  const int queries = min(M, shape.T_q - at.first);
  const int length = shape.length_of(at.b), last = warp_row<R>(at.first) + 2 * R - 1;
  const int keys = shape.keys_of(at.first + queries - 1, length);
  const int keys_of_warp = last - 2 * R + 1 < shape.T_q ? shape.keys_of(last, length) : 0;

  load_tile<M, W>(q_tile, q.head(at.b, at.h, D) + at.first * q.row, q.row, queries, D, wide);
  load_tile<M, W>(dy_tile, dy.head(at.b, at.h, D) + at.first * dy.row, dy.row, queries, D, wide);
  float sums[R][W / side] = {}, lse_r[R] = {}, delta_r[R] = {}, factor[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t statistic = (at.b * shape.H + at.h) * shape.T_q + row + r;
    if (row + r < shape.T_q) lse_r[r] = lse[statistic], delta_r[r] = delta[statistic];
    factor[r] = scale;
  }
  for (int first = 0; first < keys; first += N) {
    __syncthreads();  // the last step has been read
    load_tile<N, W>(k_tile, k.head(at.b, kv, D) + first * k.row, k.row, length - first, D, wide);
    load_tile<N, W>(v_tile, v.head(at.b, kv, D) + first * v.row, v.row, length - first, D, wide);
    __syncthreads();
    if (first >= keys_of_warp) continue;
    float s[R][C], ds[R][C];
    scores<W>(s, q_tile, k_tile, D);
    scores<W>(ds, dy_tile, v_tile, D);
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const bool seen = sees(shape, length, row + r, first + int(threadIdx.x) + c * side);
        const float p = seen ? __expf(scale * s[r][c] - lse_r[r]) : 0.0f;
        ds[r][c] = p * (ds[r][c] - delta_r[r]);
      }
    }
    put_tile(ds_tile, ds);
    accumulate<W>(sums, ds_tile, k_tile);
  }
  write_rows<W>(dq.head(at.b, at.h, D) + at.first * dq.row, dq.row, queries, D, wide, add, sums,
                factor);
}

// dk, dv: a block per tile of keys, which walks over the queries that see them, of every query head
// that this key head serves. Scores are here k q', a row per key, so nothing has to be turned over.
template <int W, class T>
__global__ void __launch_bounds__(block_size, 2)
    attention_backward_kv_kernel(Heads<T> dk, Heads<T> dv, bool add, Heads<const T> dy,
                                 const float* lse, const float* delta, Heads<const T> q,
                                 Heads<const T> k, Heads<const T> v, AttentionShape shape,
                                 bool wide) {
  constexpr int M = backward_rows<W>, N = streamed, R = M / side, C = N / side;
  DYNAMIC_SHARED(float, shared);
  float* const k_tile = shared;
  float* const v_tile = k_tile + tile_size<M, W>;
  float* const q_tile = v_tile + tile_size<M, W>;
  float* const dy_tile = q_tile + tile_size<N, W>;
  float* const p_tile = dy_tile + tile_size<N, W>;  // p, then ds
  const Place at(shape.T_k, shape.KV, M);
  const int D = shape.D;
  const float scale = float(shape.scale);
  const int row = at.first + int(threadIdx.y) * R, keys = min(M, shape.T_k - at.first);
  const int length = shape.length_of(at.b);
  const int queries = at.first < length ? shape.T_q : 0;  // padding is seen by none
  const int earliest = shape.causal ? at.first - (shape.T_k - shape.T_q) : 0;  // query to see it

  load_tile<M, W>(k_tile, k.head(at.b, at.h, D) + at.first * k.row, k.row, keys, D, wide);
  load_tile<M, W>(v_tile, v.head(at.b, at.h, D) + at.first * v.row, v.row, keys, D, wide);
  float dk_sums[R][W / side] = {}, dv_sums[R][W / side] = {}, one[R], factor[R];
#pragma unroll
  for (int r = 0; r < R; ++r) one[r] = 1, factor[r] = scale;
  for (int h = at.h * shape.group(); h < (at.h + 1) * shape.group(); ++h) {
    const int64_t statistics = (at.b * shape.H + h) * shape.T_q;
    for (int first = max(0, earliest) / N * N; first < queries; first += N) {
      const int left = shape.T_q - first;
      __syncthreads();  // the last step has been read
      load_tile<N, W>(q_tile, q.head(at.b, h, D) + first * q.row, q.row, left, D, wide);
      load_tile<N, W>(dy_tile, dy.head(at.b, h, D) + first * dy.row, dy.row, left, D, wide);
      __syncthreads();
      if (warp_row<R>(at.first) >= shape.keys_of(first + N - 1, length)) continue;
      float p[R][C], ds[R][C];
      scores<W>(p, k_tile, q_tile, D);
      scores<W>(ds, v_tile, dy_tile, D);
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const int query = first + int(threadIdx.x) + c * side;
        const bool exists = query < shape.T_q;
        const float lse_c = exists ? lse[statistics + query] : 0.0f;
        const float delta_c = exists ? delta[statistics + query] : 0.0f;
#pragma unroll
        for (int r = 0; r < R; ++r) {
          const bool seen = exists && sees(shape, length, query, row + r);
          p[r][c] = seen ? __expf(scale * p[r][c] - lse_c) : 0.0f;
          ds[r][c] = p[r][c] * (ds[r][c] - delta_c);
        }
      }
      put_tile(p_tile, p);
      accumulate<W>(dv_sums, p_tile, dy_tile);
      put_tile(p_tile, ds);
      accumulate<W>(dk_sums, p_tile, q_tile);
    }
  }
  write_rows<W>(dv.head(at.b, at.h, D) + at.first * dv.row, dv.row, keys, D, wide, add, dv_sums,
                one);
  write_rows<W>(dk.head(at.b, at.h, D) + at.first * dk.row, dk.row, keys, D, wide, add, dk_sums,
                factor);
}

// Calls body with the tile width W for heads of width D as a constant.
template <class F>
void with_tile_width(int64_t D, F&& body) {
  if (D <= 32) return body(std::integral_constant<int, 32>{});
  if (D <= 64) return body(std::integral_constant<int, 64>{});
  return body(std::integral_constant<int, 128>{});
}

// Whether rows of D numbers can be read and written 16 bytes at a time.
template <class... T>
bool is_wide(int64_t D, const Heads<T>&... heads) {
  const auto fits = [&](const auto& x) {
    const int64_t full = 16 / sizeof(*x.data);
    return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.row % full == 0 &&
           x.sample % full == 0 && D % full == 0;
  };
  return (fits(heads) && ...);
}

template <class T>
void attention_forward_gpu(Heads<T> y, float* lse, Heads<const T> q, Heads<const T> k,
                           Heads<const T> v, const AttentionShape& shape) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (fits_tensor_cores(shape, y, q, k, v)) {
      if (fits_warpgroups(shape, q, k, v)) return attention_forward_wgmma(y, lse, q, k, v, shape);
      return attention_forward_mma(y, lse, q, k, v, shape);
    }
  }
  const bool wide = is_wide(shape.D, y, q, k, v);
  with_tile_width(shape.D, [&](auto width) {
    constexpr int W = decltype(width)::value;
    const unsigned tiles = blocks_for(shape.T_q, forward_rows<W>);
    launch(attention_forward_kernel<W, T>, unsigned(shape.B * shape.H) * tiles, dim3(side, side),
           forward_shared<W> * sizeof(float))(y, lse, q, k, v, shape, wide);
  });
}

template <class T>
void attention_backward_gpu(Tape& tape, Heads<T> dq, Heads<T> dk, Heads<T> dv, bool add_q,
                            bool add_kv, Heads<const T> dy, Heads<const T> y, const float* lse,
                            Heads<const T> q, Heads<const T> k, Heads<const T> v,
                            const AttentionShape& shape) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (fits_tensor_cores(shape, dq, dk, dv, dy, y, q, k, v)) {
      if (fits_warpgroups(shape, dy, q, k, v)) {
        return attention_backward_wgmma(tape, dq, dk, dv, add_q, add_kv, dy, y, lse, q, k, v,
                                        shape);
      }
      return attention_backward_mma(tape, dq, dk, dv, add_q, add_kv, dy, y, lse, q, k, v, shape);
    }
  }
  const int64_t rows = shape.B * shape.H * shape.T_q;
  float* const delta = tape.scratch<float>(rows);
  launch(attention_delta_kernel<T>, blocks_for(rows, 8), dim3(32, 8))(delta, dy, y, shape);
  const bool wide = is_wide(shape.D, dq, dk, dv, dy, q, k, v);
  with_tile_width(shape.D, [&](auto width) {
    constexpr int W = decltype(width)::value, bytes = backward_shared<W> * sizeof(float);
    const unsigned q_tiles = blocks_for(shape.T_q, backward_rows<W>);
    const unsigned k_tiles = blocks_for(shape.T_k, backward_rows<W>);
    launch(attention_backward_q_kernel<W, T>, unsigned(shape.B * shape.H) * q_tiles,
           dim3(side, side), bytes)(dq, add_q, dy, lse, delta, q, k, v, shape, wide);
    launch(attention_backward_kv_kernel<W, T>, unsigned(shape.B * shape.KV) * k_tiles,
           dim3(side, side), bytes)(dk, dv, add_kv, dy, lse, delta, q, k, v, shape, wide);
  });
}

}  // namespace dyt::attention_tiles
