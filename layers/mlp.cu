// The MLP of a Transformer's block: a linear layer, GELU, and a linear layer back, as one op.
//
// (1) The mathematics. x (rows, C); w1 (F, C), b1 (F); w2 (Cout, F), b2 (Cout); residual and y
//     (rows, Cout):
//
//       h = x w1' + b1        a = gelu(h)        y = a w2' + b2, with `residual` added if there is
//                                                one
//
//     Backward:
//
//       db2 = sum over rows of dy        dw2 = dy' a         da = dy w2        dh = da gelu'(h)
//       db1 = sum over rows of dh        dw1 = dh' x         dx = dh w1
//
//     It is linear(linear_gelu(x)), with the same numbers. What one op gains over two is dh: the
//     product that makes da knows h, so on the GPU it can multiply by gelu'(h) before it writes
//     anything, and da never goes to memory: a pass of 6 bytes per hidden element in bf16 becomes a
//     reading of 2. cuBLASLt does it for the tanh formula; for the error function, and wherever it
//     can't, the pass is linear_gelu's.
//
// (2), (3) The CPU loops and the kernels are in linear_passes.h.
#include "core/gradient.h"
#include "layers/linear_bf16.h"
#include "layers/linear_passes.h"
#include "layers/mlp.h"

namespace dyt {
namespace {

// dh = (dy w2) gelu'(h), and db1 += its column sums.
template <Gelu kind, class T>
void hidden_backward(Tape& tape, T* dh, const T* dy, const T* h, const MlpParameters& p,
                     int64_t rows) {
  const int64_t F = p.w2->shape[1], Cout = p.w2->shape[0];
  if constexpr (gpu_computes<T>) {
    if (kind == Gelu::tanh && !tape.on_cpu()) {
      const Epilogue<T> e{.after = After::gelu_slope, .h = const_cast<T*>(h)};
      if (matmul_with_epilogue(Op::none, Op::none, rows, F, Cout, dy, p.w2->as<T>(), dh, e)) {
        return bias_backward<T>(tape, dh, p.b1, rows, F);
      }
    }
  }
  matmul(tape.device(), Op::none, Op::none, rows, F, Cout, dy, p.w2->as<T>(), 0.0f, dh);
  gelu_backward<kind>(tape, dh, h, *p.b1, rows, F);
}

}  // namespace

// (4) The op --------------------------------------------------------------------------------------

Tensor mlp(Tape& tape, const Tensor& x, const MlpParameters& p, Gelu kind, const Tensor* residual) {
  require(p.w1 && p.b1 && p.w2, "mlp: w1, b1 and w2 must be given");
  if (linear_multiplies_in_bf16(tape)) {  // on the CPU, where two ops are as good as one
    const Tensor a = linear_gelu(tape, x, *p.w1, *p.b1, kind);
    const Shape shape = output_shape(a, *p.w2, p.b2);
    if (x.dtype == DType::f32) return linear(tape, a, *p.w2, p.b2, residual);
    const Tensor y = linear_in_bf16(tape, shape, DType::bf16, a, *p.w2, p.b2, nullptr);
    return residual ? residual_add(tape, *residual, y, 0) : y;
  }
  const Tensor h = tape.constant(output_shape(x, *p.w1, p.b1), tape.dtype());
  const Tensor a = tape.empty(h.shape);
  const Tensor y = tape.empty(output_shape(a, *p.w2, p.b2));
  require(!residual || residual->shape == y.shape, "mlp: residual ",
          residual ? residual->shape.text() : "", " is not of the output's shape ", y.shape.text());
  const Tensor r = residual ? *residual : Tensor{};
  const int64_t rows = x.rows();
  with_gelu(kind, [&](auto g) {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      linear_gelu_forward<g()>(tape, a.as<T>(), h.as<T>(), x.as<T>(), rows, *p.w1, *p.b1);
      linear_forward<T>(tape, y.as<T>(), a.as<T>(), rows, *p.w2, p.b2,
                        residual ? r.as<T>() : nullptr);
    });
  });
  // Two closures: when the first to run, y's, has returned, dy's memory is free for dx. It leaves
  // dh where a's gradient is expected; a is nobody else's.
  tape.record(a, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const T* dh = tape.gradient_of_output<T>(a);
      weight_backward(tape, dh, x, *p.w1);
      input_backward(tape, dh, x, *p.w1);
    });
  });
  tape.record(y, [=, &tape] {
    with_gelu(kind, [&](auto g) {
      on_either(tape, x.dtype, [&](auto t) {
        using T = decltype(t);
        const T* dy = tape.gradient_of_output<T>(y);
        bias_backward(tape, dy, p.b2, rows, y.channels());
        weight_backward(tape, dy, a, *p.w2);
        hidden_backward<g()>(tape, tape.gradient<T>(a).data, dy, h.as<T>(), p, rows);
      });
    });
    if (r.data) add_gradient(tape, y, r);
  });
  return y;
}

}  // namespace dyt
