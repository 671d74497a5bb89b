// The linear layer on the CPU with products in bf16, alone or with GELU behind it; linear.cu has
// the mathematics.
//
// Its products multiply in bf16 and sum in f32 (core/product.h), in half the time of f32. What
// flows between the layers stays f32, as do weights and gradients; factors are rounded on their way
// into a product: x once, for the two products that read it; dy in the pass that sums its columns
// for dbias; the weight by each product, which has to rearrange it anyway. Only h and y of
// linear_gelu and their gradients, the largest things in a Transformer, are kept in bf16: nothing
// but GELU and the product behind it reads them. In ConvNeXt x, y and dy are bf16 as well.
#include "layers/linear_bf16.h"

#include <algorithm>

#include "core/bf16_cpu.h"
#include "core/cpu_math.h"
#include "core/gradient.h"
#include "core/product.h"
#include "core/reduce.h"
#include "core/rounding.h"
#include "layers/gelu.h"

namespace dyt {
namespace {

// Memory for the rounded dy of the layer at hand: always the same, warm from the cache.
bf16* memory_for_dy(int64_t n) {
  static Buffer memory;
  const size_t bytes = size_t(n) * sizeof(bf16);
  if (memory.bytes() < bytes) memory = Buffer(Device::cpu, bytes);
  return static_cast<bf16*>(memory.data());
}

// dweight += dy' x;  dx = dy weight, or added to. x_narrow is x in bf16.
void backward(Tape& tape, const bf16* dy, const Tensor& x, const Tensor& x_narrow,
              const Parameter& weight) {
  const int64_t rows = x.rows(), Cin = x.channels(), Cout = weight.shape[0];
  const DType narrow = DType::bf16;
  const Product outer{
      .op_a = Op::transpose, .m = Cout, .n = Cin, .k = rows, .add = true, .a = narrow, .b = narrow};
  product_in_bf16(outer, dy, x_narrow.data, gradient_of<float>(&weight));
  if (!x.grad) return;
  const auto dx_from = [&](auto dx) {
    const Product p{.m = rows, .n = Cin, .k = Cout, .add = dx.add, .a = narrow, .c = x.dtype};
    product_in_bf16(p, dy, weight.data, dx.data);
  };
  if (x.dtype == narrow) {
    dx_from(tape.gradient<bf16>(x));
  } else {
    dx_from(tape.gradient<float>(x));
  }
}

// y = gelu(h)
template <Gelu kind>
void gelu_of(bf16* y, const bf16* h, int64_t rows, int64_t C) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    cpu::prefetch(h + (r + 1) * C, C);
    cpu::put_row(y + r * C, C, [&](int64_t c) { return gelu_value<kind>(float(h[r * C + c])); });
  }
}

// dh = dy * gelu'(h) in the place of dy; dbias += column sums of dh.
template <Gelu kind>
void gelu_backward(bf16* dy, float* dbias, const bf16* h, int64_t rows, int64_t C) {
  sum_over_rows(dbias, C, rows, [&](int64_t begin, int64_t end, float* partial) {
    for (int64_t r = begin; r < end; ++r) {
      cpu::prefetch(h + (r + 1) * C, C);
      cpu::prefetch(dy + (r + 1) * C, C);
      cpu::put_row(dy + r * C, C, [&](int64_t c) {
        const float dh = float(dy[r * C + c]) * gelu_slope<kind>(float(h[r * C + c]));
        partial[c] += dh;
        return dh;
      });
    }
  });
}

void sum_columns(float* dbias, const bf16* dy, int64_t rows, int64_t C) {
  sum_over_rows(dbias, C, rows, [&](int64_t begin, int64_t end, float* partial) {
    for (int64_t r = begin; r < end; ++r) {
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) partial[c] += float(dy[r * C + c]);
    }
  });
}

}  // namespace

Tensor in_bf16(Tape& tape, const Tensor& x) {
  if (x.dtype == DType::bf16) return x;
  const Tensor rounded = tape.constant(x.shape, DType::bf16);
  round_to_bf16(rounded.as<bf16>(), x.as<float>(), x.size());
  return rounded;
}

void round_and_sum(bf16* to, float* dbias, const float* dy, int64_t rows, int64_t C) {
  if (!dbias) return round_to_bf16(to, dy, rows * C);
  sum_over_rows(dbias, C, rows, [&](int64_t begin, int64_t end, float* partial) {
    for (int64_t r = begin; r < end; ++r) {
      cpu::prefetch(dy + (r + 1) * C, C);
      cpu::put_row(to + r * C, C, [&](int64_t c) {
        partial[c] += dy[r * C + c];
        return dy[r * C + c];
      });
    }
  });
}

Tensor linear_in_bf16(Tape& tape, Shape y_shape, DType y_type, const Tensor& x,
                      const Parameter& weight, const Parameter* bias, const Tensor* residual) {
  const Tensor x_narrow = in_bf16(tape, x), y = tape.empty(y_shape, y_type);
  const Tensor r = residual ? *residual : Tensor{};
  const Parameter* w = &weight;
  const Product product{.op_b = Op::transpose,
                        .m = x.rows(),
                        .n = y.channels(),
                        .k = x.channels(),
                        .bias = values_of<float>(bias),
                        .residual = residual ? r.as<float>() : nullptr,
                        .a = DType::bf16,
                        .c = y_type};
  product_in_bf16(product, x_narrow.data, weight.data, y.data);
  tape.record(y, [=, &tape] {
    const int64_t rows = y.rows(), C = y.channels();
    float* const dbias = gradient_of<float>(bias);
    if (y.dtype == DType::bf16) {
      const bf16* dy = tape.gradient_of_output<bf16>(y);
      if (dbias) sum_columns(dbias, dy, rows, C);
      backward(tape, dy, x, x_narrow, *w);
    } else {
      bf16* dy = memory_for_dy(y.size());
      round_and_sum(dy, dbias, tape.gradient_of_output<float>(y), rows, C);
      backward(tape, dy, x, x_narrow, *w);
    }
    if (r.data) add_gradient(tape, y, r);
  });
  return y;
}

Tensor linear_gelu_in_bf16(Tape& tape, Shape y_shape, const Tensor& x, const Parameter& weight,
                           const Parameter& bias, Gelu kind) {
  const Tensor x_narrow = in_bf16(tape, x), h = tape.constant(y_shape, DType::bf16);
  const Tensor y = tape.empty(y_shape, DType::bf16);
  const Parameter *w = &weight, *b = &bias;
  const int64_t rows = y.rows(), C = y.channels(), Cin = x.channels();
  const int64_t at_once = gelu_rows_at_once<bf16>(C);
  for (int64_t first = 0; first < rows; first += at_once) {
    const int64_t n = std::min(at_once, rows - first);
    const Product product{.op_b = Op::transpose,
                          .m = n,
                          .n = C,
                          .k = Cin,
                          .bias = values_of<float>(b),
                          .a = DType::bf16,
                          .c = DType::bf16};
    bf16* h_first = h.as<bf16>() + first * C;
    product_in_bf16(product, x_narrow.as<bf16>() + first * Cin, w->data, h_first);
    const auto gelu = kind == Gelu::erf ? gelu_of<Gelu::erf> : gelu_of<Gelu::tanh>;
    gelu(y.as<bf16>() + first * C, h_first, n, C);
  }
  tape.record(y, [=, &tape] {
    bf16* dy = static_cast<bf16*>(y.grad->data);
    const auto of_gelu = kind == Gelu::erf ? gelu_backward<Gelu::erf> : gelu_backward<Gelu::tanh>;
    of_gelu(dy, gradient_of<float>(b), h.as<bf16>(), rows, C);
    backward(tape, dy, x, x_narrow, *w);
  });
  return y;
}

}  // namespace dyt
