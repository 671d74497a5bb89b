// The linear layer, alone or with GELU behind it.
//
// (1) The mathematics. x (rows, Cin), weight (Cout, Cin) as PyTorch stores it, bias (Cout):
//
//       y = x weight' + bias                  linear, with `residual` added if there is one
//       y = gelu(h),  h = x weight' + bias    linear_gelu; h is kept for the backward pass
//
//     Backward, with dh = dy * gelu'(h) for the second:
//
//       dx = dh weight        dweight = dh' x        dbias = sum over rows of dh
//
//     Almost all of a Transformer's arithmetic is in these three products, 6 rows Cin Cout
//     operations a step, and a library does them. What is left to us is what goes around them. The
//     library adds bias and residual before it writes y, and on the GPU also applies GELU, if it is
//     the tanh formula: that is what cuBLASLt's GELU is. Where it can't, bias and residual are
//     written into y first, and the product adds to it; and GELU by the error function is a pass of
//     our own, which adds the bias on its way. The backward pass computes dh and its column sums
//     while the numbers are in registers. dh takes the place of dy: nobody reads dy after this op's
//     closure. A linear_gelu that another linear follows is mlp.cu's.
//
// (2), (3) The CPU loops and the kernels are in linear_passes.h.
#include "core/gradient.h"
#include "layers/linear_bf16.h"
#include "layers/linear_passes.h"

namespace dyt {

// (4) The ops -------------------------------------------------------------------------------------

Tensor linear(Tape& tape, const Tensor& x, const Parameter& weight, const Parameter* bias,
              const Tensor* residual) {
  const Shape y_shape = output_shape(x, weight, bias);
  require(!residual || residual->shape == y_shape, "linear: residual ",
          residual ? residual->shape.text() : "", " is not of the output's shape ", y_shape.text());
  if (linear_multiplies_in_bf16(tape)) {
    return linear_in_bf16(tape, y_shape, tape.dtype(), x, weight, bias, residual);
  }
  const Tensor y = tape.empty(y_shape);
  const Tensor r = residual ? *residual : Tensor{};
  const Parameter* w = &weight;
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    linear_forward<T>(tape, y.as<T>(), x.as<T>(), x.rows(), *w, bias,
                      residual ? r.as<T>() : nullptr);
  });
  tape.record(y, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const T* dy = tape.gradient_of_output<T>(y);
      bias_backward(tape, dy, bias, y.rows(), y.channels());
      weight_backward(tape, dy, x, *w);
      input_backward(tape, dy, x, *w);
    });
    if (r.data) add_gradient(tape, y, r);
  });
  return y;
}

Tensor linear_gelu(Tape& tape, const Tensor& x, const Parameter& weight, const Parameter& bias,
                   Gelu kind) {
  const Shape y_shape = output_shape(x, weight, &bias);
  if (linear_multiplies_in_bf16(tape)) {
    return linear_gelu_in_bf16(tape, y_shape, x, weight, bias, kind);
  }
  const Tensor h = tape.constant(y_shape, tape.dtype());
  const Tensor y = tape.empty(h.shape);
  const Parameter *w = &weight, *b = &bias;
  const int64_t rows = y.rows(), C = y.channels();
  with_gelu(kind, [&](auto g) {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      linear_gelu_forward<g()>(tape, y.as<T>(), h.as<T>(), x.as<T>(), rows, *w, *b);
    });
  });
  tape.record(y, [=, &tape] {
    with_gelu(kind, [&](auto g) {
      on_either(tape, x.dtype, [&](auto t) {
        using T = decltype(t);
        T* dy = static_cast<T*>(y.grad->data);
        gelu_backward<g()>(tape, dy, h.as<T>(), *b, rows, C);
        weight_backward<T>(tape, dy, x, *w);
        input_backward<T>(tape, dy, x, *w);
      });
    });
  });
  return y;
}

}  // namespace dyt
