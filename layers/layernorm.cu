// Layer normalization, "Layer Normalization" (arXiv 1607.06450), with per-channel gamma and beta.
//
// (1) The mathematics. x, y (rows, C); gamma, beta (C); mean, rstd (rows):
//
//       mean = 1/C sum of x          rstd = 1 / sqrt(1/C sum of (x - mean)^2 + epsilon)
//       xhat = (x - mean) rstd       y = gamma * xhat + beta
//
//     The sums are over the channels of a row: each output depends on the whole row, so a row must
//     be read to its end before the first output can be written. The variance is summed from
//     x - mean, in a second pass over a row that is still in registers or in the cache: the
//     shortcut mean(x^2) - mean^2 is a difference of two large numbers when the mean is large.
//
//     Backward, with g = dy * gamma, and mean(.) over the channels of a row:
//
//       dx     = rstd (g - mean(g) - xhat mean(g xhat))
//       dgamma = sum over rows of  dy xhat                   dbeta = sum over rows of  dy
//
//     mean and rstd are kept from the forward pass (8 bytes a row); xhat is computed again from x.
//
// (2), (3) The CPU loops and the kernels are in row_norm_cpu.h, row_norm.h (forward) and
// row_norm_backward.h, which rmsnorm.cu uses as well. With a residual branch, x is what the branch
// has been added to.
#include "core/dispatch.h"
#include "layers/drop_path.h"
#include "layers/layers.h"
#include "layers/row_norm_backward.h"

namespace dyt {

// (4) The op --------------------------------------------------------------------------------------

Tensor layernorm(Tape& tape, const Tensor& input, const Parameter* gamma, const Parameter* beta,
                 float epsilon, ResidualBranch* branch) {
  const int64_t rows = input.rows(), C = input.channels();
  for (const Parameter* v : {gamma, beta}) {
    require(!v || v->size() == C, "layernorm: parameter ", v ? v->name : "", " has ",
            v ? v->size() : 0, " elements for ", C, " channels");
  }
  require(epsilon >= 0, "layernorm: epsilon must not be negative, as ", epsilon, " is");
  const DropPath path = branch ? begin_residual(tape, input, *branch) : DropPath{};
  const Tensor x = branch ? branch->y : input;
  const Tensor y = tape.empty(x.shape, x.dtype);
  const Tensor mean = tape.constant({rows}, accumulator_of(x.dtype));
  const Tensor rstd = tape.constant({rows}, accumulator_of(x.dtype));
  on_either_with_bf16(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    const Branch<T> added = branch_of<T>(branch, path);
    if (tape.on_cpu()) {
      if (branch) add_branch(tape, input.as<T>(), added, rows, C);
      return row_norm_forward_cpu<true>(y.as<T>(), mean.as<A>(), rstd.as<A>(), x.as<T>(),
                                        values_of<T>(gamma), values_of<T>(beta), A(epsilon), rows,
                                        C);
    }
    if constexpr (gpu_computes<T>) {
      row_norm_forward_gpu<true>(y.as<T>(), mean.as<A>(), rstd.as<A>(), input.as<T>(), added,
                                 values_of<T>(gamma), values_of<T>(beta), epsilon, rows, C);
    }
  });
  tape.record(y, [=, &tape] {
    on_either_with_bf16(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      using A = Acc<T>;
      const auto dx = tape.gradient<T>(x);
      const T* dy = tape.gradient_of_output<T>(y);
      if (tape.on_cpu()) {
        return row_norm_backward_cpu<true>(dx.data, dx.add, gradient_of<T>(gamma),
                                           gradient_of<T>(beta), dy, x.as<T>(), mean.as<A>(),
                                           rstd.as<A>(), values_of<T>(gamma), rows, C);
      }
      if constexpr (gpu_computes<T>) {
        row_norm_backward_gpu<true>(tape, dx.data, dx.add, gradient_of<T>(gamma),
                                    gradient_of<T>(beta), dy, x.as<T>(), mean.as<A>(), rstd.as<A>(),
                                    values_of<T>(gamma), rows, C);
      }
    });
  });
  return y;
}

Tensor layernorm(Tape& tape, const Tensor& x, const Parameter* gamma, const Parameter* beta,
                 float epsilon) {
  return layernorm(tape, x, gamma, beta, epsilon, nullptr);
}

}  // namespace dyt
