// GELU, the Gaussian error linear unit (Hendrycks & Gimpel, arXiv 1606.08415), for tensors of any
// shape.
//
// (1) The mathematics, element by element:
//
//       erf    y = x Phi(x),  Phi(x) = (1 + erf(x / sqrt 2)) / 2, the normal distribution function
//       tanh   y = x (1 + tanh u) / 2,  u = sqrt(2 / pi) (x + 0.044715 x^3), as GPT-2 has it
//
//     Backward, with phi(x) = exp(-x^2 / 2) / sqrt(2 pi) the normal density:
//
//       erf    dx = dy (Phi(x) + x phi(x))
//       tanh   dx = dy (s + 2 x s (1 - s) du/dx),  s = (1 + tanh u) / 2 = 1 / (1 + exp(-2 u))
//
//     The formulas of one element are in gelu.h and, for kernels, gelu_kernel.h, for linear.cu to
//     fuse them with a bias. Nothing but x is kept: Phi is computed again in the backward pass.
#include "core/dispatch.h"
#include "core/kernel.h"
#include "layers/gelu.h"
#include "layers/gelu_kernel.h"

namespace dyt {
namespace {

// (2) The CPU loops -------------------------------------------------------------------------------

template <Gelu kind, class T>
void gelu_forward_cpu(T* y, const T* x, int64_t n) {
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i) y[i] = gelu_value<kind>(x[i]);
}

// `add` is a template argument because the compiler doesn't vectorise a loop of this size around a
// choice that could be made before it.
template <Gelu kind, bool add, class T>
void gelu_backward_cpu(T* dx, const T* dy, const T* x, int64_t n) {
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i) {
    dx[i] = (add ? dx[i] : T(0)) + dy[i] * gelu_slope<kind>(x[i]);
  }
}

// (3) The kernels: one thread per pack of V numbers -----------------------------------------------

// Moves 4 bytes per element in bf16.
template <Gelu kind, int V, class T>
__global__ void gelu_forward_kernel(T* y, const T* x, int64_t packs) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const Pack<T, V> in = load<V>(x + p * V);
  Pack<T, V> out;
#pragma unroll
  for (int i = 0; i < V; ++i) out.v[i] = T(gelu_in_kernel<kind>(float(in.v[i])));
  store<V>(y + p * V, out);
}

// Moves 6 bytes per element in bf16, 8 if dx is added to.
template <Gelu kind, int V, class T>
__global__ void gelu_backward_kernel(T* dx, bool add, const T* dy, const T* x, int64_t packs) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const Pack<T, V> in = load<V>(x + p * V), up = load<V>(dy + p * V);
  Pack<T, V> out;
  if (add) out = load<V>(dx + p * V);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float d = float(up.v[i]) * gelu_slope_in_kernel<kind>(float(in.v[i]));
    out.v[i] = T((add ? float(out.v[i]) : 0.0f) + d);
  }
  store<V>(dx + p * V, out);
}

template <Gelu kind, class T>
void gelu_forward_gpu(T* y, const T* x, int64_t n) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(n);
  launch(V == full ? gelu_forward_kernel<kind, full, T> : gelu_forward_kernel<kind, 1, T>,
         blocks_for(n / V, 256), 256)(y, x, n / V);
}

template <Gelu kind, class T>
void gelu_backward_gpu(T* dx, bool add, const T* dy, const T* x, int64_t n) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(n);
  launch(V == full ? gelu_backward_kernel<kind, full, T> : gelu_backward_kernel<kind, 1, T>,
         blocks_for(n / V, 256), 256)(dx, add, dy, x, n / V);
}

// (4) The op --------------------------------------------------------------------------------------

template <Gelu kind>
Tensor gelu_of_kind(Tape& tape, const Tensor& x) {
  const Tensor y = tape.empty(x.shape);
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) return gelu_forward_cpu<kind>(y.as<T>(), x.as<T>(), x.size());
    }
    if constexpr (gpu_computes<T>) gelu_forward_gpu<kind>(y.as<T>(), x.as<T>(), x.size());
  });
  tape.record(y, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const T* dy = tape.gradient_of_output<T>(y);
      const auto dx = tape.gradient<T>(x);
      if (!dx) return;
      if constexpr (cpu_computes<T>) {
        if (tape.on_cpu()) {
          const auto backward =
              dx.add ? gelu_backward_cpu<kind, true, T> : gelu_backward_cpu<kind, false, T>;
          return backward(dx.data, dy, x.as<T>(), x.size());
        }
      }
      if constexpr (gpu_computes<T>) {
        gelu_backward_gpu<kind>(dx.data, dx.add, dy, x.as<T>(), x.size());
      }
    });
  });
  return y;
}

}  // namespace

Tensor gelu(Tape& tape, const Tensor& x, Gelu kind) {
  return kind == Gelu::erf ? gelu_of_kind<Gelu::erf>(tape, x) : gelu_of_kind<Gelu::tanh>(tape, x);
}

}  // namespace dyt
