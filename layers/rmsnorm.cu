// RMSNorm, "Root Mean Square Layer Normalization" (arXiv 1910.07467): LayerNorm without the mean,
// as LLaMA and its kin use it.
//
// (1) The mathematics. x, y (rows, C); gamma (C); rstd (rows):
//
//       rstd = 1 / sqrt(1/C sum of x^2 + epsilon)       xhat = x rstd       y = gamma * xhat
//
//     A row is scaled to a root mean square of 1, but not moved. Backward, with g = dy * gamma, and
//     mean(.) over the channels of a row:
//
//       dx     = rstd (g - xhat mean(g xhat))
//       dgamma = sum over rows of  dy xhat
//
//     Compare layernorm.cu: mean and mean(g) are gone, so there is one sum over the row instead of
//     two on the way forth, and one instead of two on the way back.
//
// (2), (3) The CPU loops and the kernels are LayerNorm's without these terms: row_norm_cpu.h,
// row_norm.h and row_norm_backward.h.
#include "core/dispatch.h"
#include "layers/drop_path.h"
#include "layers/layers.h"
#include "layers/row_norm_backward.h"

namespace dyt {

// (4) The op --------------------------------------------------------------------------------------

Tensor rmsnorm(Tape& tape, const Tensor& input, const Parameter* gamma, float epsilon,
               ResidualBranch* branch) {
  const int64_t rows = input.rows(), C = input.channels();
  require(!gamma || gamma->size() == C, "rmsnorm: parameter ", gamma ? gamma->name : "", " has ",
          gamma ? gamma->size() : 0, " elements for ", C, " channels");
  require(epsilon >= 0, "rmsnorm: epsilon must not be negative, as ", epsilon, " is");
  const DropPath path = branch ? begin_residual(tape, input, *branch) : DropPath{};
  const Tensor x = branch ? branch->y : input;
  const Tensor y = tape.empty(x.shape, x.dtype);
  const Tensor rstd = tape.constant({rows}, accumulator_of(x.dtype));
  on_either_with_bf16(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    A* const mean = nullptr;
    const A* const beta = nullptr;
    const Branch<T> added = branch_of<T>(branch, path);
    if (tape.on_cpu()) {
      if (branch) add_branch(tape, input.as<T>(), added, rows, C);
      return row_norm_forward_cpu<false>(y.as<T>(), mean, rstd.as<A>(), x.as<T>(),
                                         values_of<T>(gamma), beta, A(epsilon), rows, C);
    }
    if constexpr (gpu_computes<T>) {
      row_norm_forward_gpu<false>(y.as<T>(), mean, rstd.as<A>(), input.as<T>(), added,
                                  values_of<T>(gamma), beta, epsilon, rows, C);
    }
  });
  tape.record(y, [=, &tape] {
    on_either_with_bf16(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      using A = Acc<T>;
      const auto dx = tape.gradient<T>(x);
      const T* dy = tape.gradient_of_output<T>(y);
      const A* const mean = nullptr;
      A* const dbeta = nullptr;
      if (tape.on_cpu()) {
        return row_norm_backward_cpu<false>(dx.data, dx.add, gradient_of<T>(gamma), dbeta, dy,
                                            x.as<T>(), mean, rstd.as<A>(), values_of<T>(gamma),
                                            rows, C);
      }
      if constexpr (gpu_computes<T>) {
        row_norm_backward_gpu<false>(tape, dx.data, dx.add, gradient_of<T>(gamma), dbeta, dy,
                                     x.as<T>(), mean, rstd.as<A>(), values_of<T>(gamma), rows, C);
      }
    });
  });
  return y;
}

Tensor rmsnorm(Tape& tape, const Tensor& x, const Parameter* gamma, float epsilon) {
  return rmsnorm(tape, x, gamma, epsilon, nullptr);
}

}  // namespace dyt
