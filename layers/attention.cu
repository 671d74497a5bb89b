// Multi-head attention ("Attention Is All You Need", arXiv 1706.03762, section 3.2), grouped-query
// if there are fewer key heads than query heads (arXiv 2305.13245).
//
// (1) The mathematics, for one head of one sample. q, y (T_q, D); k, v (T_k, D); query i, key j:
//
//       s_ij = scale q_i . k_j,  scale = 1 / sqrt(D)      only keys j that query i may see
//       p_ij = exp(s_ij - lse_i),  lse_i = log sum_j exp(s_ij)             softmax over the keys
//       y_i  = sum_j p_ij v_j
//
//     and from dy, by the chain rule:
//
//       dv_j  = sum_i p_ij dy_i         dp_ij = dy_i . v_j
//       ds_ij = p_ij (dp_ij - delta_i),  delta_i = sum_j p_ij dp_ij = dy_i . y_i
//       dq_i  = scale sum_j ds_ij k_j   dk_j  = scale sum_i ds_ij q_i
//
//     A key head that serves several query heads gets the sum of what they send back. In a batch of
//     texts of different lengths the shorter ones end in padding: keys from length_b on are seen by
//     no query, and get no gradient. What queries in the padding give is finite and means nothing.
//
//     s and p are T_q x T_k numbers per head: for 1,024 tokens of GPT-2 small 48 MiB per sample and
//     layer in f32, many times what q, k and v take. So, after FlashAttention (arXiv 2205.14135,
//     2307.08691), they are never stored: a tile of queries meets one tile of keys after the other,
//     and what is known of the softmax so far is corrected at every step (the online softmax, arXiv
//     1805.02867). With m the running maximum of s_i, l = sum exp(s_ij - m) and o = sum
//     exp(s_ij - m) v_j over the keys met so far, a new tile of keys gives
//
//       m' = max(m, max_j s_ij)         l' = e^(m - m') l + sum_j exp(s_ij - m')
//                                       o' = e^(m - m') o + sum_j exp(s_ij - m') v_j
//
//     and at the end y_i = o / l and lse_i = m + log l. For the backward pass only lse (B, H, T_q)
//     is kept, one number per row; with it, each tile of p is computed again when it is needed.
//
// (2) The CPU loops are in layers/attention_cpu.h.
#include <type_traits>

#include "core/dispatch.h"
#include "core/kernel.h"
#include "layers/attention_bf16_cpu.h"
#include "layers/attention_cpu.h"
#include "layers/attention_mma.h"
#include "layers/attention_tiles.h"
#include "layers/texts.h"

namespace dyt {
namespace {

using namespace attention_tiles;

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

__device__ bool sees(const AttentionShape& shape, int length, int query, int key) {
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

// (4) The op -------------------------------------------------------------------------------------

// Queries, keys and values, or their gradients: in one packed qkv, or queries in one tensor and
// keys and values, packed, in another.
template <class T>
struct Parts {
  Heads<T> q, k, v;
  Parts(T* qkv, const AttentionShape& s) {
    const int64_t width = int64_t(s.H + 2 * s.KV) * s.D;
    q = {qkv, s.T_q * width, width};
    k = {qkv + s.H * s.D, s.T_q * width, width};
    v = {qkv + (s.H + s.KV) * s.D, s.T_q * width, width};
  }
  Parts(T* queries, T* kv, const AttentionShape& s) {
    const int64_t q_width = int64_t(s.H) * s.D, width = int64_t(2 * s.KV) * s.D;
    q = {queries, s.T_q * q_width, q_width};
    k = {kv, s.T_k * width, width};
    v = {kv + s.KV * s.D, s.T_k * width, width};
  }
};

template <class T>
Heads<T> rows_of(T* y, const AttentionShape& s) {
  return {y, int64_t(s.T_q) * s.H * s.D, int64_t(s.H) * s.D};
}

// Sizes, from queries (B, T_q, heads D) and what they look at, T_k tokens.
AttentionShape checked_shape(const Shape& q, int64_t T_k, int64_t D,
                             const AttentionOptions& options) {
  require(D >= 16 && D <= 128, "attention: heads of width 16 to 128 are supported, not ", D, " (",
          options.heads, " heads)");
  const int H = options.heads, KV = options.kv_heads ? options.kv_heads : H;
  return {q[0],   int(q[1]), int(T_k), H, KV, int(D), options.causal, 1 / std::sqrt(double(D)),
          nullptr};
}

void check_heads(const AttentionOptions& options) {
  const int H = options.heads, KV = options.kv_heads ? options.kv_heads : H;
  require(H > 0 && KV > 0 && H % KV == 0, "attention: ", H, " heads cannot share ", KV,
          " key and value heads evenly");
}

AttentionShape shape_of(const Tensor& qkv, const AttentionOptions& options) {
  check_heads(options);
  const int H = options.heads, KV = options.kv_heads ? options.kv_heads : H;
  require(qkv.shape.rank() == 3, "attention: qkv is (B, T, channels), not ", qkv.shape.text());
  const int64_t C = qkv.channels(), D = C / (H + 2 * KV);
  require(C == D * (H + 2 * KV), "attention: ", C, " channels of qkv cannot be cut into ", H,
          " query, ", KV, " key and ", KV, " value heads");
  return checked_shape(qkv.shape, qkv.shape[1], D, options);
}

AttentionShape cross_shape_of(const Tensor& q, const Tensor& kv, const AttentionOptions& options) {
  check_heads(options);
  const int H = options.heads, KV = options.kv_heads ? options.kv_heads : H;
  require(
      q.shape.rank() == 3 && kv.shape.rank() == 3 && q.shape[0] == kv.shape[0],
      "cross_attention: queries are (B, T_q, channels), keys and values (B, T_k, channels), not ",
      q.shape.text(), " and ", kv.shape.text());
  require(!options.causal,
          "cross_attention: there is no order between its queries and its keys; "
          "causal is for attention");
  const int64_t D = q.channels() / H;
  require(q.channels() == D * H && kv.channels() == 2 * KV * D, "cross_attention: queries ",
          q.shape.text(), " of ", H, " heads need keys and values of ", KV, " heads, ", 2 * KV * D,
          " channels, not ", kv.shape.text());
  return checked_shape(q.shape, kv.shape[1], D, options);
}

// Lengths (B) i32 into the shape. Kernels can't throw: there, a length below 1 makes y NaN.
void set_lengths(const Tape& tape, AttentionShape& shape, const Tensor* lengths) {
  if (!lengths) return;
  require(lengths->size() == shape.B, "attention: ", lengths->size(), " lengths for ", shape.B,
          " samples");
  shape.lengths = lengths->as<int32_t>();
  for (int64_t b = 0; tape.on_cpu() && b < shape.B; ++b) {
    require(shape.lengths[b] >= 1 && shape.lengths[b] <= shape.T_k, "attention: sample ", b,
            " has ", shape.lengths[b], " keys, which should be 1 to ", shape.T_k);
  }
}

// kv without data: all are packed in q.
template <class T>
Parts<const T> parts_of(const Tensor& q, const Tensor& kv, const AttentionShape& shape) {
  if (!kv.data) return Parts<const T>(q.as<T>(), shape);
  return Parts<const T>(q.as<T>(), kv.as<T>(), shape);
}

// The op, on queries q and keys and values kv, or with kv empty on a packed qkv in q.
Tensor attend(Tape& tape, const Tensor& q, const Tensor& kv, const AttentionShape& shape) {
  const Tensor y = tape.empty({shape.B, shape.T_q, shape.H * shape.D}, q.dtype);
  const Tensor lse = tape.constant({shape.B, shape.H, shape.T_q}, accumulator_of(q.dtype));
  on_either(tape, q.dtype, [&](auto t) {
    using T = decltype(t);
    const Parts<const T> in = parts_of<T>(q, kv, shape);
    const Heads<T> out = rows_of(y.as<T>(), shape);
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        if constexpr (std::is_same_v<T, float>) {
          if (attends_in_bf16()) {
            return attention_forward_bf16_cpu(out, lse.as<T>(), in.q, in.k, in.v, shape);
          }
        }
        return attention_forward_cpu<T>(out, lse.as<T>(), in.q, in.k, in.v, shape);
      }
    }
    if constexpr (gpu_computes<T>) {
      attention_forward_gpu<T>(out, lse.as<float>(), in.q, in.k, in.v, shape);
    }
  });
  tape.record(y, [=, &tape] {
    on_either(tape, q.dtype, [&](auto t) {
      using T = decltype(t);
      const bool packed = !kv.data;
      const auto dq = tape.gradient<T>(q);
      if (!dq) return;
      const auto dkv = packed ? dq : tape.gradient<T>(kv);
      const Parts<T> out = packed ? Parts<T>(dq.data, shape) : Parts<T>(dq.data, dkv.data, shape);
      const Parts<const T> in = parts_of<T>(q, kv, shape);
      const Heads<const T> dy = rows_of(tape.gradient_of_output<T>(y), shape);
      if constexpr (cpu_computes<T>) {
        if (tape.on_cpu()) {
          if constexpr (std::is_same_v<T, float>) {
            if (attends_in_bf16()) {
              return attention_backward_bf16_cpu(out.q, out.k, out.v, dq.add, dkv.add, dy,
                                                 lse.as<T>(), in.q, in.k, in.v, shape);
            }
          }
          return attention_backward_cpu<T>(out.q, out.k, out.v, dq.add, dkv.add, dy, lse.as<T>(),
                                           in.q, in.k, in.v, shape);
        }
      }
      if constexpr (gpu_computes<T>) {
        attention_backward_gpu<T>(tape, out.q, out.k, out.v, dq.add, dkv.add, dy,
                                  rows_of<const T>(y.as<T>(), shape), lse.as<float>(), in.q, in.k,
                                  in.v, shape);
      }
    });
  });
  return y;
}

}  // namespace

Tensor attention(Tape& tape, const Tensor& qkv, const AttentionOptions& options) {
  return attend(tape, qkv, {}, shape_of(qkv, options));
}

Tensor attention(Tape& tape, const Tensor& qkv, const AttentionOptions& options,
                 const Tensor& lengths) {
  AttentionShape shape = shape_of(qkv, options);
  set_lengths(tape, shape, &lengths);
  return attend(tape, qkv, {}, shape);
}

Tensor cross_attention(Tape& tape, const Tensor& q, const Tensor& kv,
                       const AttentionOptions& options, const Tensor* lengths) {
  AttentionShape shape = cross_shape_of(q, kv, options);
  set_lengths(tape, shape, lengths);
  require(!tape.training || bool(q.grad) == bool(kv.grad),
          "cross_attention: queries and keys must both want a gradient, or neither");
  return attend(tape, q, kv, shape);
}

// (5) With a cache, for writing text token by token
// -------------------------------------------------

namespace {

// The keys and values of a packed qkv to places past .. past + T_q - 1 of the cache. One thread per
// number of keys; moves 8 bytes each in bf16.
template <class T>
__global__ void fill_cache_kernel(T* keys, T* values, const T* qkv, AttentionShape shape,
                                  int64_t capacity) {
  const int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, width = shape.KV * shape.D;
  if (n >= shape.B * shape.T_q * width) return;
  const int64_t c = n % width, row = n / width, b = row / shape.T_q, t = row % shape.T_q;
  const T* const from = qkv + row * (shape.H + 2 * shape.KV) * shape.D + shape.H * shape.D + c;
  const int64_t to = (b * capacity + shape.T_k - shape.T_q + t) * width + c;
  keys[to] = from[0];
  values[to] = from[width];
}

template <class T>
void fill_cache_cpu(Heads<T> keys, Heads<T> values, Heads<const T> k, Heads<const T> v,
                    const AttentionShape& shape) {
  const int64_t past = shape.T_k - shape.T_q, width = shape.KV * shape.D;
  for (int64_t b = 0; b < shape.B; ++b) {
    for (int64_t t = 0; t < shape.T_q; ++t) {
      std::copy_n(k.head(b, 0, 0) + t * k.row, width, keys.head(b, 0, 0) + (past + t) * width);
      std::copy_n(v.head(b, 0, 0) + t * v.row, width, values.head(b, 0, 0) + (past + t) * width);
    }
  }
}

}  // namespace

Tensor attention_with_cache(Tape& tape, const Tensor& qkv, const AttentionOptions& options,
                            const KeyValueCache& cache) {
  AttentionShape shape = shape_of(qkv, options);
  shape.causal = true;
  require(cache.keys && cache.values && cache.past >= 0 && cache.past + shape.T_q <= cache.capacity,
          "attention: a cache for ", cache.capacity, " tokens, ", cache.past,
          " of them known, has no room for ", shape.T_q, " more");
  require(!tape.training, "attention with a cache has no gradient: set tape.training to false");
  shape.T_k = int(cache.past) + shape.T_q;
  const int64_t width = shape.KV * shape.D, sample = cache.capacity * width;
  const Tensor y = tape.empty({shape.B, shape.T_q, shape.H * shape.D});
  const Tensor lse = tape.constant({shape.B, shape.H, shape.T_q}, accumulator_of(qkv.dtype));
  on_either(tape, qkv.dtype, [&](auto t) {
    using T = decltype(t);
    const Parts<const T> in(qkv.as<T>(), shape);
    T *const keys = static_cast<T*>(cache.keys), *const values = static_cast<T*>(cache.values);
    const Heads<const T> k{keys, sample, width}, v{values, sample, width};
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        fill_cache_cpu<T>({keys, sample, width}, {values, sample, width}, in.k, in.v, shape);
        return attention_forward_cpu<T>(rows_of(y.as<T>(), shape), lse.as<T>(), in.q, k, v, shape);
      }
    }
    if constexpr (gpu_computes<T>) {
      launch(fill_cache_kernel<T>, blocks_for(shape.B * shape.T_q * width, 256), 256)(
          keys, values, qkv.as<T>(), shape, cache.capacity);
      attention_forward_gpu<T>(rows_of(y.as<T>(), shape), lse.as<float>(), in.q, k, v, shape);
    }
  });
  return y;
}

}  // namespace dyt
