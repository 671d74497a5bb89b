// Activations that look at one number at a time: ReLU, ResNet's and VGG's, and SiLU
// ("Sigmoid-Weighted Linear Units", arXiv 1702.03118; also known as Swish).
//
// (1) The mathematics. x, residual, y of any shape:
//
//       relu: y = max(0, x)  or  max(0, x + residual), where a ResNet block ends
//             dx = dresidual = dy where y > 0, else 0
//       silu: y = x s, s = 1 / (1 + exp(-x))
//             dx = dy s (1 + x (1 - s))
//
//     ReLU's derivative can be read off y, so nothing else is kept, and dx is made where dy lies. A
//     NaN stays one: a run that diverged should show it.
#include "core/cpu_math.h"
#include "core/dispatch.h"
#include "core/gradient.h"
#include "core/kernel.h"
#include "layers/gelu_kernel.h"
#include "layers/layers.h"
#include "layers/relu.h"

namespace dyt {
namespace {

template <class A>
A silu_value(A x) {
  return x / (1 + cpu::exp(-x));
}
template <class A>
A silu_slope(A x) {
  const A s = 1 / (1 + cpu::exp(-x));
  return s * (1 + x * (1 - s));
}

// (2) The CPU loops -------------------------------------------------------------------------------

// (of ReLU, they are in relu.h)

template <class T>
void silu_forward_cpu(T* y, const T* x, int64_t n) {
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i) y[i] = silu_value(x[i]);
}

template <class T>
void silu_backward_cpu(T* dx, bool add, const T* dy, const T* x, int64_t n) {
  if (add) {
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) dx[i] += dy[i] * silu_slope(x[i]);
  } else {
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) dx[i] = dy[i] * silu_slope(x[i]);
  }
}

// (3) The kernels: one thread per pack of V numbers -----------------------------------------------

// Moves 4 bytes per element in bf16, 6 with a residual.
template <int V, class T>
__global__ void relu_forward_kernel(T* y, const T* x, const T* residual, int64_t packs) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const Pack<T, V> in = load<V>(x + p * V);
  Pack<T, V> more, out;
  if (residual) more = load<V>(residual + p * V);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    out.v[i] = T(relu_value(float(in.v[i]) + (residual ? float(more.v[i]) : 0.0f)));
  }
  store<V>(y + p * V, out);
}

// Moves 6 bytes per element in bf16, and 2 or 4 more with a copy.
template <int V, class T>
__global__ void relu_backward_kernel(T* dy, T* copy, bool add, const T* y, int64_t packs) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const Pack<T, V> out = load<V>(y + p * V);
  Pack<T, V> up = load<V>(dy + p * V), other;
  if (copy && add) other = load<V>(copy + p * V);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (!(float(out.v[i]) > 0)) up.v[i] = T(0.0f);
    other.v[i] = copy && add ? T(float(other.v[i]) + float(up.v[i])) : up.v[i];
  }
  store<V>(dy + p * V, up);
  if (copy) store<V>(copy + p * V, other);
}

// Moves 4 bytes per element in bf16.
template <int V, class T>
__global__ void silu_forward_kernel(T* y, const T* x, int64_t packs) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const Pack<T, V> in = load<V>(x + p * V);
  Pack<T, V> out;
#pragma unroll
  for (int i = 0; i < V; ++i) out.v[i] = T(silu_in_kernel(float(in.v[i])));
  store<V>(y + p * V, out);
}

// Moves 6 bytes per element in bf16, 8 if dx is added to.
template <int V, class T>
__global__ void silu_backward_kernel(T* dx, bool add, const T* dy, const T* x, int64_t packs) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const Pack<T, V> in = load<V>(x + p * V), up = load<V>(dy + p * V);
  Pack<T, V> out;
  if (add) out = load<V>(dx + p * V);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float d = float(up.v[i]) * silu_slope_in_kernel(float(in.v[i]));
    out.v[i] = T((add ? float(out.v[i]) : 0.0f) + d);
  }
  store<V>(dx + p * V, out);
}

// Launches the kernel for V numbers at a time, with V as template argument of body(V) to choose it.
template <class T, class Body>
void launch_over_packs(int64_t n, Body&& body) {
  constexpr int full = 16 / sizeof(T);
  if (vector_width<T>(n) == full) return body(std::integral_constant<int, full>{});
  body(std::integral_constant<int, 1>{});
}

// (4) The ops -------------------------------------------------------------------------------------

template <class T>
void relu_forward(const Tape& tape, T* y, const T* x, const T* residual, int64_t n) {
  if (tape.on_cpu()) return relu_forward_cpu(y, x, residual, n);
  if constexpr (gpu_computes<T>) {
    launch_over_packs<T>(n, [&](auto v) {
      constexpr int V = decltype(v)::value;
      launch(relu_forward_kernel<V, T>, blocks_for(n / V, 256), 256)(y, x, residual, n / V);
    });
  }
}

template <class T>
void relu_backward(const Tape& tape, T* dy, T* copy, bool add, const T* y, int64_t n) {
  if (tape.on_cpu()) return relu_backward_cpu(dy, copy, add, y, n);
  if constexpr (gpu_computes<T>) {
    launch_over_packs<T>(n, [&](auto v) {
      constexpr int V = decltype(v)::value;
      launch(relu_backward_kernel<V, T>, blocks_for(n / V, 256), 256)(dy, copy, add, y, n / V);
    });
  }
}

template <class T>
void silu_forward(const Tape& tape, T* y, const T* x, int64_t n) {
  if constexpr (cpu_computes<T>) {
    if (tape.on_cpu()) return silu_forward_cpu(y, x, n);
  }
  if constexpr (gpu_computes<T>) {
    launch_over_packs<T>(n, [&](auto v) {
      constexpr int V = decltype(v)::value;
      launch(silu_forward_kernel<V, T>, blocks_for(n / V, 256), 256)(y, x, n / V);
    });
  }
}

template <class T>
void silu_backward(const Tape& tape, T* dx, bool add, const T* dy, const T* x, int64_t n) {
  if constexpr (cpu_computes<T>) {
    if (tape.on_cpu()) return silu_backward_cpu(dx, add, dy, x, n);
  }
  if constexpr (gpu_computes<T>) {
    launch_over_packs<T>(n, [&](auto v) {
      constexpr int V = decltype(v)::value;
      launch(silu_backward_kernel<V, T>, blocks_for(n / V, 256), 256)(dx, add, dy, x, n / V);
    });
  }
}

}  // namespace

Tensor relu(Tape& tape, const Tensor& x, const Tensor* residual) {
  require(!residual || residual->shape == x.shape, "relu: x ", x.shape.text(), " and residual ",
          residual ? residual->shape.text() : "", " differ in shape");
  const Tensor y = tape.empty(x.shape, x.dtype);
  on_either_with_bf16(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    relu_forward(tape, y.as<T>(), x.as<T>(), residual ? residual->as<T>() : nullptr, x.size());
  });
  const bool with_residual = residual != nullptr;
  const Tensor added = residual ? *residual : Tensor{};
  tape.record(y, [=, &tape] {
    on_either_with_bf16(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const auto copy = with_residual ? tape.gradient<T>(added) : GradientTarget<T>{};
      // Nobody reads dy after this closure: it becomes dx in its place.
      relu_backward(tape, static_cast<T*>(y.grad->data), copy.data, copy.add, y.as<T>(), y.size());
    });
    add_gradient(tape, y, x);
  });
  return y;
}

Tensor silu(Tape& tape, const Tensor& x) {
  const Tensor y = tape.empty(x.shape, x.dtype);
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    silu_forward(tape, y.as<T>(), x.as<T>(), x.size());
  });
  tape.record(y, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const auto dx = tape.gradient<T>(x);
      if (!dx) return;
      silu_backward(tape, dx.data, dx.add, tape.gradient_of_output<T>(y), x.as<T>(), x.size());
    });
  });
  return y;
}

}  // namespace dyt
