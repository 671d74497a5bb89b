#include "layers/activations_bf16.h"

#include "core/convolution.h"
#include "core/product.h"
#include "core/rounding.h"
#include "layers/grouped_norm_cpu.h"
#include "layers/linear_bf16.h"
#include "layers/relu.h"

namespace dyt {

template void grouped_statistics_cpu(float*, float*, float*, const bf16*, float,
                                     const GroupedShape&);
template void grouped_normalize_cpu<false>(bf16*, const bf16*, const Normalization<float>&,
                                           const GroupedShape&);
template void grouped_normalize_cpu<true>(bf16*, const bf16*, const Normalization<float>&,
                                          const GroupedShape&);
template void grouped_backward_cpu<false>(bf16*, bool, float*, float*, const bf16*, const bf16*,
                                          const Normalization<float>&, bool, const GroupedShape&);
template void grouped_backward_cpu<true>(bf16*, bool, float*, float*, const bf16*, const bf16*,
                                         const Normalization<float>&, bool, const GroupedShape&);
template void relu_forward_cpu(bf16*, const bf16*, const bf16*, int64_t);
template void relu_backward_cpu(bf16*, bf16*, bool, const bf16*, int64_t);

Tensor as_activations(Tape& tape, const Tensor& images) {
  const bool narrow = tape.on_cpu() && images.dtype == DType::f32 &&
                      cpu_products() == DType::bf16 && has_convolution_library() &&
                      has_bf16_instructions();
  return narrow ? in_bf16(tape, images) : images;
}

Tensor widened(Tape& tape, const Tensor& x) {
  const Tensor y = tape.empty(x.shape, DType::f32);
  widen(y.as<float>(), x.as<bf16>(), x.size());
  tape.record(y, [=, &tape] {
    const auto dx = tape.gradient<bf16>(x);
    const float* dy = tape.gradient_of_output<float>(y);
    if (dx && dx.add) {
      add(dx.data, dy, x.size());
    } else if (dx) {
      round_to_bf16(dx.data, dy, x.size());
    }
  });
  return y;
}

Tensor narrowed(Tape& tape, const Tensor& x) {
  const Tensor y = tape.empty(x.shape, DType::bf16);
  round_to_bf16(y.as<bf16>(), x.as<float>(), x.size());
  tape.record(y, [=, &tape] {
    const auto dx = tape.gradient<float>(x);
    const bf16* dy = tape.gradient_of_output<bf16>(y);
    if (dx && dx.add) {
      add(dx.data, dy, x.size());
    } else if (dx) {
      widen(dx.data, dy, x.size());
    }
  });
  return y;
}

}  // namespace dyt
