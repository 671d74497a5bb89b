// Rotary position embedding (RoFormer, arXiv 2104.09864, section 3.2), in Hugging Face's
// convention, which their LLaMA weights are made for.
//
// (1) The mathematics. Of every head's D numbers, i and i + D/2 are a point in a plane, for i in
//     {0 .. D/2 - 1}; token t turns it by an angle that grows with t, quickly for small i, slowly
//     for large:
//
//       angle(t, i) = (first + t) theta^(-2 i / D)
//       y_i       = cos x_i - sin x_(i + D/2)
//       y_(i+D/2) = sin x_i + cos x_(i + D/2)
//
//     in queries and keys; values pass unturned. A product q . k of two turned vectors depends on
//     the difference of their positions only, which is the point of it. Turning keeps lengths, so
//     backward is the turn by -angle:
//
//       dx = dy turned back
//
//     (The paper pairs neighbours, 2i and 2i + 1: the same up to the order of a head's numbers.)
//
//     Angles go up to the length of the text, where f32 has few digits left behind the point: they
//     are computed in f64, once per token for all heads, and their cosines and sines kept.
#include <cmath>

#include "core/dispatch.h"
#include "core/kernel.h"
#include "layers/layers.h"

namespace dyt {
namespace {

// turn (T, 2, D/2): for each token, the cosines of its angles, then their sines.
template <class A>
HOST_DEVICE inline void turn_at(A* turn, int64_t t, int64_t i, int64_t half, double theta,
                                int64_t first) {
  const double angle = double(first + t) * pow(theta, -double(i) / double(half));
  turn[t * 2 * half + i] = A(cos(angle));
  turn[(t * 2 + 1) * half + i] = A(sin(angle));
}

// (2) The CPU loops -------------------------------------------------------------------------------

template <class T>
void turns_cpu(T* turn, int64_t tokens, int64_t half, double theta, int64_t first) {
#pragma omp parallel for
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < half; ++i) turn_at(turn, t, i, half, theta, first);
  }
}

// y = x turned in the first `turned` of `heads` heads of width 2 half, or turned back if sign is
// -1; added to y if `add`.
template <class T>
void rope_cpu(T* y, bool add, const T* x, const T* turn, T sign, int64_t rows, int64_t tokens,
              int64_t heads, int64_t turned, int64_t half) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T *cosine = turn + r % tokens * 2 * half, *sine = cosine + half;
    for (int64_t h = 0; h < heads; ++h) {
      const T *a = x + (r * heads + h) * 2 * half, *b = a + half;
      T *y_a = y + (r * heads + h) * 2 * half, *y_b = y_a + half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const T c = h < turned ? cosine[i] : T(1);
        const T s = h < turned ? sign * sine[i] : T(0);
        const T out_a = c * a[i] - s * b[i], out_b = s * a[i] + c * b[i];
        y_a[i] = (add ? y_a[i] : T(0)) + out_a;
        y_b[i] = (add ? y_b[i] : T(0)) + out_b;
      }
    }
  }
}

// (3) The kernels ---------------------------------------------------------------------------------

// One thread per angle.
__global__ void turns_kernel(float* turn, int64_t tokens, int64_t half, double theta,
                             int64_t first) {
  const int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n < tokens * half) turn_at(turn, n / half, n % half, half, theta, first);
}

// One thread per pack of V pairs. Reads x and writes y, 4 bytes per element in bf16, 6 if y is
// added to; the angles are in the cache after the first head. They, too, are loaded by 16 bytes:
// one by one they would be more loads than x's, eight times. Three divisions find a thread's place,
// and of 64-bit numbers they would take as long as all the turning.
template <bool add, int V, class T>
__global__ void rope_kernel(T* y, const T* x, const float* turn, float sign, unsigned packs,
                            unsigned tokens, unsigned heads, unsigned turned, unsigned half) {
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const unsigned per_head = half / V, i = p % per_head * V;
  const unsigned head = p / per_head, row = head / heads, h = head % heads;  // head: of all rows
  const size_t at = size_t(head) * 2 * half + i;
  const Pack<T, V> a = load<V>(x + at), b = load<V>(x + at + half);
  Pack<T, V> before_a{}, before_b{};
  if (add) before_a = load<V>(y + at), before_b = load<V>(y + at + half);
  Pack<float, V> cosine, sine;
#pragma unroll
  for (int k = 0; k < V; ++k) cosine.v[k] = 1, sine.v[k] = 0;
  if (h < turned) {
    const float* from = turn + size_t(row % tokens) * 2 * half + i;
    cosine = load<V>(from), sine = load<V>(from + half);
  }
  float out_a[V], out_b[V];
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const float c = cosine.v[k], s = sign * sine.v[k], a_k = a.v[k], b_k = b.v[k];
    out_a[k] = c * a_k - s * b_k, out_b[k] = s * a_k + c * b_k;
    if (add) out_a[k] += float(before_a.v[k]), out_b[k] += float(before_b.v[k]);
  }
  store<V>(y + at, out_a);
  store<V>(y + at + half, out_b);
}

template <bool add, class T>
void rope_gpu(T* y, const T* x, const float* turn, float sign, int64_t rows, int64_t tokens,
              int64_t heads, int64_t turned, int64_t half) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(half);
  const int64_t packs = rows * heads * half / V;
  require(packs < (int64_t(1) << 32) - 256, "rope: ", packs,
          " packs are more than a kernel can count");
  launch(V == full ? rope_kernel<add, full, T> : rope_kernel<add, 1, T>, blocks_for(packs, 256),
         256)(y, x, turn, sign, unsigned(packs), unsigned(tokens), unsigned(heads),
              unsigned(turned), unsigned(half));
}

template <class T>
void rope_turn(const Tape& tape, T* y, bool add, const T* x, const Tensor& turn, int sign,
               int64_t rows, int64_t heads, int64_t turned) {
  const int64_t tokens = turn.shape[0], half = turn.shape[2];
  if constexpr (cpu_computes<T>) {
    if (tape.on_cpu()) {
      return rope_cpu(y, add, x, turn.as<T>(), T(sign), rows, tokens, heads, turned, half);
    }
  }
  if constexpr (gpu_computes<T>) {
    with_bool(add, [&](auto adds) {
      rope_gpu<adds(), T>(y, x, turn.as<float>(), float(sign), rows, tokens, heads, turned, half);
    });
  }
}

}  // namespace

// (4) The op --------------------------------------------------------------------------------------

Tensor rope(Tape& tape, const Tensor& qkv, const AttentionOptions& options, double theta,
            int64_t first) {
  const int64_t H = options.heads, KV = options.kv_heads ? options.kv_heads : H;
  const int64_t heads = H + 2 * KV, C = qkv.channels();
  require(qkv.shape.rank() == 3, "rope: qkv is (B, T, channels), not ", qkv.shape.text());
  require(H > 0 && KV > 0 && C % (2 * heads) == 0, "rope: ", C,
          " channels of qkv cannot be cut into ", H, " query, ", KV, " key and ", KV,
          " value heads of an even width");
  require(theta > 0 && first >= 0, "rope: theta (", theta,
          ") must be positive, and the first position (", first, ") not negative");
  const int64_t tokens = qkv.shape[1], half = C / heads / 2, rows = qkv.rows();
  const Tensor turn = tape.constant({tokens, 2, half}, accumulator_of(qkv.dtype));
  const Tensor y = tape.empty(qkv.shape);
  on_either(tape, qkv.dtype, [&](auto t) {
    using T = decltype(t);
    if (tape.on_cpu()) {
      turns_cpu(turn.as<Acc<T>>(), tokens, half, theta, first);
    } else {
      if constexpr (gpu_computes<T>) {
        launch(turns_kernel, blocks_for(tokens * half, 128), 128)(turn.as<float>(), tokens, half,
                                                                  theta, first);
      }
    }
    rope_turn(tape, y.as<T>(), false, static_cast<const T*>(qkv.as<T>()), turn, 1, rows, heads,
              H + KV);
  });
  tape.record(y, [=, &tape] {
    on_either(tape, qkv.dtype, [&](auto t) {
      using T = decltype(t);
      const auto dqkv = tape.gradient<T>(qkv);
      if (!dqkv) return;
      rope_turn(tape, dqkv.data, dqkv.add, tape.gradient_of_output<T>(y), turn, -1, rows, heads,
                H + KV);
    });
  });
  return y;
}

}  // namespace dyt
