// What linear.cu and mlp.cu share: the loops and kernels around the matrix products, and the
// products. Both files have the mathematics. Only .cu files include this.
#pragma once
#include "core/dispatch.h"
#include "core/matmul.h"
#include "core/product.h"
#include "layers/column_walk.h"
#include "layers/gelu.h"
#include "layers/gelu_kernel.h"
#include "layers/layers.h"

namespace dyt {

// (2) The CPU loops -------------------------------------------------------------------------------

// y = residual + bias, whichever there are; bias is the same in every row.
template <class T>
void start_cpu(T* y, const T* residual, const T* bias, int64_t rows, int64_t C) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) {
      y[r * C + c] = (residual ? residual[r * C + c] : T(0)) + (bias ? bias[c] : T(0));
    }
  }
}

// y = gelu(h)
template <Gelu kind, class T>
void gelu_of_rows_cpu(T* y, const T* h, int64_t rows, int64_t C) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    cpu::prefetch(h + (r + 1) * C, C);
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) y[r * C + c] = gelu_value<kind>(h[r * C + c]);
  }
}

// dbias += column sums of dy.
template <class T>
void bias_backward_cpu(T* dbias, const T* dy, int64_t rows, int64_t C) {
  sum_over_rows(dbias, C, rows, [&](int64_t begin, int64_t end, T* partial) {
    for (int64_t r = begin; r < end; ++r) {
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) partial[c] += dy[r * C + c];
    }
  });
}

// dh = dy * gelu'(h) in the place of dy; dbias += column sums of dh.
template <Gelu kind, class T>
void gelu_bias_backward_cpu(T* dy, T* dbias, const T* h, int64_t rows, int64_t C) {
  sum_over_rows(dbias, C, rows, [&](int64_t begin, int64_t end, T* partial) {
    for (int64_t r = begin; r < end; ++r) {
      cpu::prefetch(h + (r + 1) * C, C);
      cpu::prefetch(dy + (r + 1) * C, C);
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) {
        const T dh = dy[r * C + c] * gelu_slope<kind>(h[r * C + c]);
        dy[r * C + c] = dh;
        partial[c] += dh;
      }
    }
  });
}

// (3) The kernels ---------------------------------------------------------------------------------

// y = residual + bias: one thread per pack of V channels. 2 bytes written per element in bf16, and
// 2 read with a residual.
template <int V, class T>
__global__ void start_kernel(T* y, const T* residual, const float* bias, unsigned packs,
                             unsigned packs_per_row) {
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const unsigned c = p % packs_per_row * V;
  Pack<T, V> out;
  if (residual) out = load<V>(residual + size_t(p) * V);
  float more[V];
  load_channels(more, bias, c, 0);
#pragma unroll
  for (int i = 0; i < V; ++i) out.v[i] = T((residual ? float(out.v[i]) : 0.0f) + more[i]);
  store<V>(y + size_t(p) * V, out);
}

// h += bias, y = gelu(h): one thread per pack, 6 bytes moved per element in bf16.
template <Gelu kind, int V, class T>
__global__ void bias_gelu_kernel(T* y, T* h, const float* bias, unsigned packs,
                                 unsigned packs_per_row) {
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const unsigned c = p % packs_per_row * V;
  Pack<T, V> pre = load<V>(h + size_t(p) * V);
  const Pack<float, V> more = load<V>(bias + c);
  Pack<T, V> out;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    pre.v[i] = T(float(pre.v[i]) + more.v[i]);
    out.v[i] = T(gelu_in_kernel<kind>(float(pre.v[i])));  // of h as it is kept
  }
  store<V>(h + size_t(p) * V, pre);
  store<V>(y + size_t(p) * V, out);
}

// Column sums of dy, and with GELU in front of them its gradient, dy *= gelu'(h). A thread walks
// down the rows of one pack of channels and keeps its sums in registers; a block writes one partial
// sum per channel. Moves 2 bytes per element in bf16, 6 with GELU.
template <Gelu kind, bool with_gelu, int V, class T>
__global__ void __launch_bounds__(256, 3)
    bias_backward_kernel(T* dy, float* partials, const T* h, int64_t rows, int64_t C) {
  let_next_kernel_begin();  // which adds up the partial sums
  const ColumnPlace at(V, rows);
  float sums[V] = {};
  if constexpr (with_gelu) {
    const auto load_row = [&](int64_t r) {
      return TwoPacks<T, V>{load<V>(dy + r * C + at.c), load<V>(h + r * C + at.c)};
    };
    const auto use = [&](int64_t r, const TwoPacks<T, V>& in) {
      float dh[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        dh[i] = float(in.first.v[i]) * gelu_slope_in_kernel<kind>(float(in.second.v[i]));
        sums[i] += dh[i];
      }
      store<V>(dy + r * C + at.c, dh);
    };
    if (at.c < C) walk_rows<2>(at, load_row, use);
  } else {
    const auto load_row = [&](int64_t r) { return load<V>(dy + r * C + at.c); };
    const auto use = [&](int64_t, const Pack<T, V>& in) {
#pragma unroll
      for (int i = 0; i < V; ++i) sums[i] += float(in.v[i]);
    };
    if (at.c < C) walk_rows<4>(at, load_row, use);
  }
  write_column_sums<V>(partials + blockIdx.y * C, sums, C);
}

template <class T>
void start_gpu(T* y, const T* residual, const float* bias, int64_t rows, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(C);
  const int64_t packs = rows * C / V;
  require(packs < (int64_t(1) << 32), "linear: too many elements for one kernel: ", rows * C);
  launch(V == full ? start_kernel<full, T> : start_kernel<1, T>, blocks_for(packs, 256), 256)(
      y, residual, bias, unsigned(packs), unsigned(C / V));
}

template <Gelu kind, class T>
void bias_gelu_forward_gpu(T* y, T* h, const float* bias, int64_t rows, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(C);
  const int64_t packs = rows * C / V;
  require(packs < (int64_t(1) << 32), "linear: too many elements for one kernel: ", rows * C);
  launch(V == full ? bias_gelu_kernel<kind, full, T> : bias_gelu_kernel<kind, 1, T>,
         blocks_for(packs, 256), 256)(y, h, bias, unsigned(packs), unsigned(C / V));
}

template <Gelu kind, bool with_gelu, class T>
void bias_backward_gpu(Tape& tape, T* dy, float* dbias, const T* h, int64_t rows, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const ColumnGrid g = column_grid<T>(rows, C);
  float* partials = tape.scratch<float>(g.parts * C);
  launch(g.V == full ? bias_backward_kernel<kind, with_gelu, full, T>
                     : bias_backward_kernel<kind, with_gelu, 1, T>,
         g.grid, g.block)(dy, partials, h, rows, C);
  add_partials_gpu(dbias, partials, g.parts, C);
}

// (4) Their calls, on either device ---------------------------------------------------------------

inline Shape output_shape(const Tensor& x, const Parameter& weight, const Parameter* bias) {
  require(weight.shape.rank() == 2 && weight.shape[1] == x.channels(), "linear: weight ",
          weight.name, " ", weight.shape.text(), " does not take ", x.channels(), " channels");
  require(!bias || bias->size() == weight.shape[0], "linear: bias ", bias ? bias->name : "",
          " does not fit weight ", weight.shape.text());
  Shape shape = x.shape;
  shape[-1] = weight.shape[0];
  return shape;
}

// y = residual + bias + x weight'
template <class T>
void linear_forward(Tape& tape, T* y, const T* x, int64_t rows, const Parameter& weight,
                    const Parameter* bias, const T* residual) {
  const int64_t Cin = weight.shape[1], Cout = weight.shape[0];
  const bool started = bias || residual;
  if constexpr (std::is_same_v<T, float>) {
    const Product p{.op_b = Op::transpose,
                    .m = rows,
                    .n = Cout,
                    .k = Cin,
                    .bias = values_of<T>(bias),
                    .residual = residual};
    if (tape.on_cpu() && product_in_one_pass(p, x, weight.as<T>(), y)) return;
  }
  if constexpr (cpu_computes<T>) {
    if (started && tape.on_cpu()) start_cpu(y, residual, values_of<T>(bias), rows, Cout);
  }
  if constexpr (gpu_computes<T>) {
    if (started && !tape.on_cpu()) {
      const Epilogue<T> e{.bias = bias ? bias->as<T>() : nullptr, .add = residual};
      if (matmul_with_epilogue(Op::none, Op::transpose, rows, Cout, Cin, x, weight.as<T>(), y, e)) {
        return;
      }
      start_gpu(y, residual, values_of<T>(bias), rows, Cout);
    }
  }
  matmul(tape.device(), Op::none, Op::transpose, rows, Cout, Cin, x, weight.as<T>(),
         started ? 1.0f : 0.0f, y);
}

// dweight += dy' x
template <class T>
void weight_backward(Tape& tape, const T* dy, const Tensor& x, const Parameter& weight) {
  matmul(tape.device(), Op::transpose, Op::none, weight.shape[0], x.channels(), x.rows(), dy,
         x.as<T>(), 1.0f, gradient_of<T>(&weight));
}

// dx = dy weight, or added to what is there
template <class T>
void input_backward(Tape& tape, const T* dy, const Tensor& x, const Parameter& weight) {
  if (const auto dx = tape.gradient<T>(x)) {
    matmul(tape.device(), Op::none, Op::none, x.rows(), x.channels(), weight.shape[0], dy,
           weight.as<T>(), dx.add ? 1.0f : 0.0f, dx.data);
  }
}

// dbias += column sums of dy; bias may be null.
template <class T>
void bias_backward(Tape& tape, const T* dy, const Parameter* bias, int64_t rows, int64_t C) {
  if (!bias) return;
  if constexpr (cpu_computes<T>) {
    if (tape.on_cpu()) return bias_backward_cpu(gradient_of<T>(bias), dy, rows, C);
  }
  if constexpr (gpu_computes<T>) {
    bias_backward_gpu<Gelu::erf, false>(tape, const_cast<T*>(dy), gradient_of<T>(bias),
                                        static_cast<const T*>(nullptr), rows, C);
  }
}

// dh = dy gelu'(h) in the place of dy, and dbias += its column sums.
template <Gelu kind, class T>
void gelu_backward(Tape& tape, T* dy, const T* h, const Parameter& bias, int64_t rows, int64_t C) {
  if constexpr (cpu_computes<T>) {
    if (tape.on_cpu()) {
      return gelu_bias_backward_cpu<kind>(dy, gradient_of<T>(&bias), h, rows, C);
    }
  }
  if constexpr (gpu_computes<T>) {
    bias_backward_gpu<kind, true>(tape, dy, gradient_of<T>(&bias), h, rows, C);
  }
}

// h = x weight' + bias;  y = gelu(h)
template <Gelu kind, class T>
void linear_gelu_forward(Tape& tape, T* y, T* h, const T* x, int64_t rows, const Parameter& weight,
                         const Parameter& bias) {
  const int64_t Cin = weight.shape[1], Cout = weight.shape[0];
  if constexpr (cpu_computes<T>) {
    const int64_t at_once = gelu_rows_at_once<T>(Cout);
    for (int64_t first = 0; tape.on_cpu() && first < rows; first += at_once) {
      const int64_t n = std::min(at_once, rows - first);
      linear_forward<T>(tape, h + first * Cout, x + first * Cin, n, weight, &bias, nullptr);
      gelu_of_rows_cpu<kind>(y + first * Cout, h + first * Cout, n, Cout);
    }
  }
  if constexpr (gpu_computes<T>) {
    if (tape.on_cpu()) return;
    if (kind == Gelu::tanh) {
      const Epilogue<T> e{.bias = bias.as<T>(), .after = After::gelu, .h = h};
      if (matmul_with_epilogue(Op::none, Op::transpose, rows, Cout, Cin, x, weight.as<T>(), y, e)) {
        return;
      }
    }
    linear_forward<T>(tape, h, x, rows, weight, nullptr, nullptr);  // the bias follows
    bias_gelu_forward_gpu<kind>(y, h, values_of<T>(&bias), rows, Cout);
  }
}

template <class F>
void with_gelu(Gelu kind, F&& body) {
  if (kind == Gelu::erf) {
    body(std::integral_constant<Gelu, Gelu::erf>{});
  } else {
    body(std::integral_constant<Gelu, Gelu::tanh>{});
  }
}

}  // namespace dyt
