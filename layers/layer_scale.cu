// Layer scale, "Going deeper with Image Transformers" (arXiv 2103.17239): each channel of a
// residual branch is scaled by a learned factor that starts near 0, so that a deep network starts
// near the identity. ConvNeXt's blocks end in it.
//
// (1) The mathematics. x, residual, y (rows, C); gamma (C):
//
//       y = gamma * x            or, in one pass over the data,        y = residual + gamma * x
//
//     Backward: dx = dy gamma, dgamma = sum over rows of dy x, and dresidual = dy.
#include "core/dispatch.h"
#include "core/gradient.h"
#include "layers/column_walk.h"
#include "layers/layer_scale_cpu.h"
#include "layers/layers.h"

namespace dyt {
namespace {

// (2) The CPU loops are in layer_scale_cpu.h.

// (3) The kernels ---------------------------------------------------------------------------------

// Both in a ColumnGrid: a thread reads its channels' gamma once and walks down the rows. Forward
// moves 4 bytes per element in bf16, and 2 more with a residual.
template <int V, class T>
__global__ void __launch_bounds__(256)
    layer_scale_forward_kernel(T* y, const T* x, const float* gamma, const T* residual,
                               int64_t rows, int64_t C) {
  const ColumnPlace at(V, rows);
  if (at.c >= C) return;
  float g[V];
  load_channels(g, gamma, at.c, 1);
  walk_rows<2>(
      at,
      [&](int64_t r) {
        TwoPacks<T, V> in{};
        in.first = load<V>(x + r * C + at.c);
        if (residual) in.second = load<V>(residual + r * C + at.c);
        return in;
      },
      [&](int64_t r, const TwoPacks<T, V>& in) {
        float out[V];
#pragma unroll
        for (int i = 0; i < V; ++i) {
          out[i] = (residual ? float(in.second.v[i]) : 0.0f) + g[i] * float(in.first.v[i]);
        }
        store<V>(y + r * C + at.c, out);
      });
}

// Reads dy and x and writes dx, 6 bytes per element in bf16; a block writes one partial sum for
// each of its channels, dgamma_partials (parts, C).
template <bool add, int V, class T>
__global__ void __launch_bounds__(256)
    layer_scale_backward_kernel(T* dx, float* dgamma_partials, const T* dy, const T* x,
                                const float* gamma, int64_t rows, int64_t C) {
  let_next_kernel_begin();  // which adds up the partial sums
  const ColumnPlace at(V, rows);
  float g[V] = {}, sum[V] = {};
  if (at.c < C) {
    load_channels(g, gamma, at.c, 1);
    walk_rows<2>(
        at,
        [&](int64_t r) {
          ThreePacks<T, V> in{};
          in.first = load<V>(x + r * C + at.c);
          in.second = load<V>(dy + r * C + at.c);
          if (add) in.third = load<V>(dx + r * C + at.c);
          return in;
        },
        [&](int64_t r, const ThreePacks<T, V>& in) {
          float out[V];
#pragma unroll
          for (int i = 0; i < V; ++i) {
            const float up = in.second.v[i];
            sum[i] += up * float(in.first.v[i]);
            out[i] = (add ? float(in.third.v[i]) : 0.0f) + g[i] * up;
          }
          if (dx) store<V>(dx + r * C + at.c, out);
        });
  }
  write_column_sums<V>(dgamma_partials + blockIdx.y * C, sum, C);
}

template <class T>
void layer_scale_forward_gpu(T* y, const T* x, const float* gamma, const T* residual, int64_t rows,
                             int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const ColumnGrid g = column_map_grid<T>(rows, C);
  launch(g.V == full ? layer_scale_forward_kernel<full, T> : layer_scale_forward_kernel<1, T>,
         g.grid, g.block)(y, x, gamma, residual, rows, C);
}

template <class T>
void layer_scale_backward_gpu(Tape& tape, T* dx, bool add, float* dgamma, const T* dy, const T* x,
                              const float* gamma, int64_t rows, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const ColumnGrid g = column_grid<T>(rows, C);
  float* partials = tape.scratch<float>(g.parts * C);
  with_bool(add && dx, [&](auto adds) {
    launch(g.V == full ? layer_scale_backward_kernel<adds(), full, T>
                       : layer_scale_backward_kernel<adds(), 1, T>,
           g.grid, g.block)(dx, partials, dy, x, gamma, rows, C);
  });
  add_partials_gpu(dgamma, partials, g.parts, C);
}

}  // namespace

// (4) The op --------------------------------------------------------------------------------------

Tensor layer_scale(Tape& tape, const Tensor& x, const Parameter& gamma, const Tensor* residual) {
  const int64_t rows = x.rows(), C = x.channels();
  require(gamma.size() == C, "layer_scale: parameter ", gamma.name, " has ", gamma.size(),
          " elements for ", C, " channels");
  require(!residual || residual->shape == x.shape, "layer_scale: x ", x.shape.text(),
          " and residual ", residual ? residual->shape.text() : "", " differ in shape");
  const Tensor y = tape.empty(x.shape, x.dtype);
  on_either_with_bf16(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    const T* to_add = residual ? residual->as<T>() : nullptr;
    if (tape.on_cpu()) {
      return layer_scale_forward_cpu(y.as<T>(), x.as<T>(), values_of<T>(&gamma), to_add, rows, C);
    }
    if constexpr (gpu_computes<T>) {
      layer_scale_forward_gpu(y.as<T>(), x.as<T>(), values_of<T>(&gamma), to_add, rows, C);
    }
  });
  const bool with_residual = residual != nullptr;
  const Tensor added = residual ? *residual : Tensor{};
  tape.record(y, [=, &tape, &gamma] {
    on_either_with_bf16(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const auto dx = tape.gradient<T>(x);
      const T* dy = tape.gradient_of_output<T>(y);
      if (tape.on_cpu()) {
        return layer_scale_backward_cpu(dx.data, dx.add, gradient_of<T>(&gamma), dy, x.as<T>(),
                                        values_of<T>(&gamma), rows, C);
      }
      if constexpr (gpu_computes<T>) {
        layer_scale_backward_gpu(tape, dx.data, dx.add, gradient_of<T>(&gamma), dy, x.as<T>(),
                                 values_of<T>(&gamma), rows, C);
      }
    });
    if (with_residual) add_gradient(tape, y, added);  // last: it may hand dy's memory over
  });
  return y;
}

}  // namespace dyt
