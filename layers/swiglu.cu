// SwiGLU (Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202): the gated nonlinearity of
// LLaMA's feed-forward layers.
//
// (1) The mathematics. x (rows, 2 C) holds, per row, the C gates and then the C values they let
//     through, so that one matrix product makes both; y (rows, C):
//
//       y = silu(gate) up         silu(g) = g s,  s = 1 / (1 + exp(-g))
//
//     Backward, s being computed again:
//
//       dgate = dy up s (1 + g (1 - s))         dup = dy silu(g)
#include "core/cpu_math.h"
#include "core/dispatch.h"
#include "core/kernel.h"
#include "layers/gelu_kernel.h"
#include "layers/layers.h"

namespace dyt {
namespace {

// (2) The CPU loops -------------------------------------------------------------------------------

template <class T>
void swiglu_forward_cpu(T* y, const T* x, int64_t rows, int64_t C) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T *gate = x + r * 2 * C, *up = gate + C;
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) y[r * C + c] = gate[c] / (1 + cpu::exp(-gate[c])) * up[c];
  }
}

template <bool add, class T>
void swiglu_backward_cpu(T* dx, const T* dy, const T* x, int64_t rows, int64_t C) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T *gate = x + r * 2 * C, *up = gate + C, *dy_r = dy + r * C;
    T *dgate = dx + r * 2 * C, *dup = dgate + C;
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) {
      const T g = gate[c], s = 1 / (1 + cpu::exp(-g));
      dgate[c] = (add ? dgate[c] : T(0)) + dy_r[c] * up[c] * s * (1 + g * (1 - s));
      dup[c] = (add ? dup[c] : T(0)) + dy_r[c] * g * s;
    }
  }
}

// (3) The kernels: one thread per pack of V gates -------------------------------------------------

// Moves 6 bytes per element of y in bf16.
template <int V, class T>
__global__ void swiglu_forward_kernel(T* y, const T* x, int64_t packs, int C) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const int64_t at = p * V + p * V / C * C;  // of the gates in x: each row has C values more
  const Pack<T, V> gate = load<V>(x + at), up = load<V>(x + at + C);
  Pack<T, V> out;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float g = gate.v[i];
    out.v[i] = T(silu_in_kernel(g) * float(up.v[i]));
  }
  store<V>(y + p * V, out);
}

// Moves 10 bytes per element of y in bf16, 14 if dx is added to.
template <int V, class T>
__global__ void swiglu_backward_kernel(T* dx, bool add, const T* dy, const T* x, int64_t packs,
                                       int C) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const int64_t at = p * V + p * V / C * C;
  const Pack<T, V> gate = load<V>(x + at), up = load<V>(x + at + C), in = load<V>(dy + p * V);
  Pack<T, V> dgate{}, dup{};
  if (add) dgate = load<V>(dx + at), dup = load<V>(dx + at + C);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float g = gate.v[i], s = logistic(g), d = in.v[i];
    dgate.v[i] = T(float(dgate.v[i]) + d * float(up.v[i]) * s * (1 + g * (1 - s)));
    dup.v[i] = T(float(dup.v[i]) + d * g * s);
  }
  store<V>(dx + at, dgate);
  store<V>(dx + at + C, dup);
}

template <class T>
void swiglu_forward_gpu(T* y, const T* x, int64_t rows, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(C);
  launch(V == full ? swiglu_forward_kernel<full, T> : swiglu_forward_kernel<1, T>,
         blocks_for(rows * C / V, 256), 256)(y, x, rows * C / V, int(C));
}

template <class T>
void swiglu_backward_gpu(T* dx, bool add, const T* dy, const T* x, int64_t rows, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(C);
  launch(V == full ? swiglu_backward_kernel<full, T> : swiglu_backward_kernel<1, T>,
         blocks_for(rows * C / V, 256), 256)(dx, add, dy, x, rows * C / V, int(C));
}

}  // namespace

// (4) The op --------------------------------------------------------------------------------------

Tensor swiglu(Tape& tape, const Tensor& gate_up) {
  const Tensor x = gate_up;
  require(x.channels() % 2 == 0, "swiglu: ", x.channels(),
          " channels are not gates and as many values (", x.shape.text(), ")");
  Shape shape = x.shape;
  shape[-1] /= 2;
  const Tensor y = tape.empty(shape);
  const int64_t rows = y.rows(), C = y.channels();
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) return swiglu_forward_cpu(y.as<T>(), x.as<T>(), rows, C);
    }
    if constexpr (gpu_computes<T>) swiglu_forward_gpu(y.as<T>(), x.as<T>(), rows, C);
  });
  tape.record(y, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const auto dx = tape.gradient<T>(x);
      if (!dx) return;
      const T* dy = tape.gradient_of_output<T>(y);
      if constexpr (cpu_computes<T>) {
        if (tape.on_cpu()) {
          const auto backward =
              dx.add ? swiglu_backward_cpu<true, T> : swiglu_backward_cpu<false, T>;
          return backward(dx.data, dy, x.as<T>(), rows, C);
        }
      }
      if constexpr (gpu_computes<T>) {
        swiglu_backward_gpu(dx.data, dx.add, dy, x.as<T>(), rows, C);
      }
    });
  });
  return y;
}

}  // namespace dyt
