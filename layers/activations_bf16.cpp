#include "layers/activations_bf16.h"

#include "core/convolution.h"
#include "core/rounding.h"
#include "layers/conv_cpu.h"
#include "layers/depthwise_conv_cpu.h"
#include "layers/grouped_norm_cpu.h"
#include "layers/layer_scale_cpu.h"
#include "layers/linear_bf16.h"
#include "layers/relu.h"
#include "layers/residual_cpu.h"
#include "layers/row_norm_cpu.h"

namespace dyt {

template void grouped_statistics_cpu(float*, float*, const Running<float>&, const bf16*, float,
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
template void row_norm_forward_cpu<true>(bf16*, float*, float*, const bf16*, const float*,
                                         const float*, float, int64_t, int64_t);
template void row_norm_forward_cpu<false>(bf16*, float*, float*, const bf16*, const float*,
                                          const float*, float, int64_t, int64_t);
template void row_norm_backward_cpu<true>(bf16*, bool, float*, float*, const bf16*, const bf16*,
                                          const float*, const float*, const float*, int64_t,
                                          int64_t);
template void row_norm_backward_cpu<false>(bf16*, bool, float*, float*, const bf16*, const bf16*,
                                           const float*, const float*, const float*, int64_t,
                                           int64_t);
template void depthwise_cpu::forward<3>(Tape&, bf16*, const bf16*, const float*, const float*,
                                        const ImageShape&);
template void depthwise_cpu::forward<7>(Tape&, bf16*, const bf16*, const float*, const float*,
                                        const ImageShape&);
template void depthwise_cpu::backward<3>(Tape&, bf16*, bool, float*, float*, const bf16*,
                                         const bf16*, const float*, const ImageShape&);
template void depthwise_cpu::backward<7>(Tape&, bf16*, bool, float*, float*, const bf16*,
                                         const bf16*, const float*, const ImageShape&);
template void im2col_cpu(bf16*, const bf16*, int64_t, const Columns&);
template void col2im_cpu(bf16*, bool, const bf16*, int64_t, const Columns&);
template void pack_weights_cpu(bf16*, const float*, const float*, const Columns&);
template void layer_scale_forward_cpu(bf16*, const bf16*, const float*, const bf16*, int64_t,
                                      int64_t);
template void layer_scale_backward_cpu(bf16*, bool, float*, const bf16*, const bf16*, const float*,
                                       int64_t, int64_t);
template void residual_cpu(bf16*, const bf16*, const bf16*, DropPath, int64_t, int64_t);

namespace {

void convert(bf16* to, const float* from, int64_t n) { round_to_bf16(to, from, n); }
void convert(float* to, const bf16* from, int64_t n) { widen(to, from, n); }

template <class To, class From>
Tensor converted(Tape& tape, const Tensor& x) {
  const Tensor y = tape.empty(x.shape, dtype_of<To>::value);
  convert(y.as<To>(), x.as<From>(), x.size());
  tape.record(y, [=, &tape] {
    const auto dx = tape.gradient<From>(x);
    const To* dy = tape.gradient_of_output<To>(y);
    if (dx && dx.add) {
      add(dx.data, dy, x.size());
    } else if (dx) {
      convert(dx.data, dy, x.size());
    }
  });
  return y;
}

}  // namespace

Tensor as_activations(Tape& tape, const Tensor& images) {
  const bool narrow = tape.on_cpu() && images.dtype == DType::f32 && library_convolves_in_bf16();
  return narrow ? in_bf16(tape, images) : images;
}

Tensor widened(Tape& tape, const Tensor& x) { return converted<float, bf16>(tape, x); }
Tensor narrowed(Tape& tape, const Tensor& x) { return converted<bf16, float>(tape, x); }

}  // namespace dyt
