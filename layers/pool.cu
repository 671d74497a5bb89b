// From tokens to one vector per sample: the mean over tokens, or one token (the class token).
//
// (1) The mathematics. Taking token t is the mean over the range [t, t + 1): both are one op. With
//     x (B, T, C), y (B, C) and the range [first, last):
//
//       y[b, c] = 1 / (last - first) * sum over first <= t < last of  x[b, t, c]
//
//     Backward: dx[b, t, c] = dy[b, c] / (last - first) within the range, 0 outside.
#include "core/dispatch.h"
#include "core/kernel.h"
#include "layers/activations_bf16.h"
#include "layers/layers.h"

namespace dyt {
namespace {

struct Range {
  int64_t first, last;
  HOST_DEVICE bool contains(int64_t t) const { return first <= t && t < last; }
};

// (2) The CPU loops -------------------------------------------------------------------------------

template <class T>
void pool_forward_cpu(T* y, const T* x, Range range, int64_t B, int64_t tokens, int64_t C) {
  const T scale = T(1) / T(range.last - range.first);
#pragma omp parallel for
  for (int64_t b = 0; b < B; ++b) {
    T* y_b = y + b * C;
    for (int64_t t = range.first; t < range.last; ++t) {
      const T* x_t = x + (b * tokens + t) * C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) y_b[c] = (t == range.first ? T(0) : y_b[c]) + x_t[c];
    }
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) y_b[c] *= scale;
  }
}

template <class T>
void pool_backward_cpu(T* dx, bool add, const T* dy, Range range, int64_t B, int64_t tokens,
                       int64_t C) {
  const T scale = T(1) / T(range.last - range.first);
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t t = 0; t < tokens; ++t) {
      const T factor = range.contains(t) ? scale : T(0);
      T* dx_t = dx + (b * tokens + t) * C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) dx_t[c] = (add ? dx_t[c] : T(0)) + factor * dy[b * C + c];
    }
  }
}

// (3) The kernels ---------------------------------------------------------------------------------

// A block of 32 x 8 threads owns 32 packs of channels of sample blockIdx.x: thread (x, y) adds the
// tokens y, y + 8, y + 16 ... of its pack, then the 8 sums of a channel meet in shared memory.
// Moves 2 bytes per element of x in bf16.
template <int V, class T>
__global__ void __launch_bounds__(256)
    pool_forward_kernel(T* y, const T* x, Range range, int64_t tokens, int64_t C) {
  SHARED(float, tile, [8][32 * V]);
  const int64_t b = blockIdx.x;
  const int64_t c = (int64_t(blockIdx.y) * 32 + threadIdx.x) * V;  // first channel of the pack
  float sum[V] = {};
  if (c < C) {
    for (int64_t t = range.first + threadIdx.y; t < range.last; t += 8) {
      const Pack<T, V> in = load<V>(x + (b * tokens + t) * C + c);
#pragma unroll
      for (int i = 0; i < V; ++i) sum[i] += float(in.v[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) tile[threadIdx.y][i * 32 + threadIdx.x] = sum[i];
  __syncthreads();
  if (threadIdx.y > 0 || c >= C) return;
  const float scale = 1.0f / float(range.last - range.first);
  Pack<T, V> out;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    float total = 0;
    for (int k = 0; k < 8; ++k) total += tile[k][i * 32 + threadIdx.x];
    out.v[i] = T(total * scale);
  }
  store<V>(y + b * C + c, out);
}

// One thread per pack of dx; writes 2 bytes per element in bf16, and reads as many if dx is added
// to. dy comes from the cache.
template <int V, class T>
__global__ void pool_backward_kernel(T* dx, bool add, const T* dy, Range range, unsigned packs,
                                     unsigned tokens, unsigned packs_per_row) {
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const unsigned row = p / packs_per_row, b = row / tokens;
  const bool inside = range.contains(row - b * tokens);
  if (add && !inside) return;
  const float scale = inside ? 1.0f / float(range.last - range.first) : 0.0f;
  const Pack<T, V> up = load<V>(dy + size_t(b * packs_per_row + p % packs_per_row) * V);
  Pack<T, V> out;
  if (add) out = load<V>(dx + size_t(p) * V);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    out.v[i] = T((add ? float(out.v[i]) : 0.0f) + scale * float(up.v[i]));
  }
  store<V>(dx + size_t(p) * V, out);
}

template <class T>
void pool_forward_gpu(T* y, const T* x, Range range, int64_t B, int64_t tokens, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(C);
  launch(V == full ? pool_forward_kernel<full, T> : pool_forward_kernel<1, T>,
         dim3(unsigned(B), blocks_for(C, 32 * V)), dim3(32, 8))(y, x, range, tokens, C);
}

template <class T>
void pool_backward_gpu(T* dx, bool add, const T* dy, Range range, int64_t B, int64_t tokens,
                       int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(C);
  const int64_t packs = B * tokens * C / V;
  require(packs < (int64_t(1) << 32), "pool: ", packs, " packs are more than a kernel can count");
  launch(V == full ? pool_backward_kernel<full, T> : pool_backward_kernel<1, T>,
         blocks_for(packs, 256),
         256)(dx, add, dy, range, unsigned(packs), unsigned(tokens), unsigned(C / V));
}

// (4) The ops -------------------------------------------------------------------------------------

Tensor pool(Tape& tape, const Tensor& x, Range range) {
  const int64_t B = x.shape[0], tokens = x.shape[1], C = x.shape[2];
  const Tensor y = tape.empty({B, C});
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) return pool_forward_cpu(y.as<T>(), x.as<T>(), range, B, tokens, C);
    }
    if constexpr (gpu_computes<T>) pool_forward_gpu(y.as<T>(), x.as<T>(), range, B, tokens, C);
  });
  tape.record(y, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const T* dy = tape.gradient_of_output<T>(y);
      const auto dx = tape.gradient<T>(x);
      if (!dx) return;
      if constexpr (cpu_computes<T>) {
        if (tape.on_cpu()) return pool_backward_cpu(dx.data, dx.add, dy, range, B, tokens, C);
      }
      if constexpr (gpu_computes<T>) pool_backward_gpu(dx.data, dx.add, dy, range, B, tokens, C);
    });
  });
  return y;
}

}  // namespace

Tensor mean_pool(Tape& tape, const Tensor& x, int64_t skip) {
  require(x.shape.rank() == 3, "mean_pool: x is (B, T, C), not ", x.shape.text());
  require(skip >= 0 && skip < x.shape[1], "mean_pool: skipping ", skip, " of ", x.shape[1],
          " tokens leaves none; skip 0 to ", x.shape[1] - 1);
  if (is_bf16_on_cpu(tape, x)) return mean_pool(tape, widened(tape, x), skip);
  return pool(tape, x, {skip, x.shape[1]});
}

Tensor take_token(Tape& tape, const Tensor& x, int64_t token) {
  require(x.shape.rank() == 3, "take_token: x is (B, T, C), not ", x.shape.text());
  require(token >= 0 && token < x.shape[1], "take_token: there is no token ", token, " among ",
          x.shape[1], "; choose 0 to ", x.shape[1] - 1);
  return pool(tape, x, {token, token + 1});
}

}  // namespace dyt
