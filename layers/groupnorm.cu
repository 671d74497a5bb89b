// Group normalization, "Group Normalization" (arXiv 1803.08494), as in PyTorch.
//
// (1) The mathematics. x, y (B, H, W, C); gamma, beta (C); the C channels in `groups` groups of
//     neighbours. Mean and variance are over the H W C / groups numbers of one group of one image:
//
//       y = gamma * (x - mean) / sqrt(variance + epsilon) + beta
//
//     No image depends on another, so there are no running statistics, and training and evaluation
//     are the same function. One group: layer normalization over a whole image; C groups: instance
//     normalization. Derivatives, CPU loops (2) and kernels (3): grouped_norm_cpu.h,
//     grouped_norm.h.
#include "layers/grouped_norm.h"
#include "layers/layers.h"

namespace dyt {

// (4) The op --------------------------------------------------------------------------------------

Tensor groupnorm(Tape& tape, const Tensor& x, int groups, const Parameter* gamma,
                 const Parameter* beta, float epsilon) {
  const int64_t B = x.shape[0], C = x.channels();
  require(groups > 0 && C % groups == 0, "groupnorm: ", C, " channels can't be cut into ", groups,
          " equal groups");
  for (const Parameter* v : {gamma, beta}) {
    require(!v || v->size() == C, "groupnorm: parameter ", v ? v->name : "", " has ",
            v ? v->size() : 0, " elements for ", C, " channels");
  }
  require(epsilon >= 0, "groupnorm: epsilon must not be negative, as ", epsilon, " is");
  const GroupedShape shape{.B = B, .R = x.rows() / B, .C = C, .G = groups};
  const Tensor y = tape.empty(x.shape, x.dtype);
  const Tensor mean = tape.constant({B, groups}, accumulator_of(x.dtype));
  const Tensor rstd = tape.constant({B, groups}, accumulator_of(x.dtype));
  on_either_with_bf16(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    grouped_statistics(tape, mean.as<A>(), rstd.as<A>(), Running<A>{}, x.as<T>(), epsilon, shape);
    grouped_normalize<false, T>(
        tape, y.as<T>(), x.as<T>(),
        {mean.as<A>(), rstd.as<A>(), values_of<T>(gamma), values_of<T>(beta)}, shape);
  });
  tape.record(y, [=, &tape] {
    on_either_with_bf16(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      using A = Acc<T>;
      grouped_backward<false, T>(
          tape, tape.gradient<T>(x), gradient_of<T>(gamma), gradient_of<T>(beta),
          tape.gradient_of_output<T>(y), x.as<T>(),
          {mean.as<A>(), rstd.as<A>(), values_of<T>(gamma), values_of<T>(beta)}, false, shape);
    });
  });
  return y;
}

}  // namespace dyt
