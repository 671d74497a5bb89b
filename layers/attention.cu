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
// (2), (3) The CPU loops are in layers/attention_cpu.h, the kernels in layers/attention_kernels.h.
#include "layers/attention_bf16_cpu.h"
#include "layers/attention_cpu.h"
#include "layers/attention_kernels.h"
#include "layers/texts.h"

namespace dyt {
namespace {

using attention_tiles::attention_backward_gpu, attention_tiles::attention_forward_gpu;

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

// (5) With a cache, for writing text token by token -----------------------------------------------

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
