// Activations in bf16 on the CPU. With --precision bf16 those of Transformers stay f32 there, but
// for what linear_bf16.h keeps between two products. Those of ResNet, VGG and ConvNeXt are bf16, as
// on a GPU: a quarter of a ResNet's time would go by in passes over memory otherwise. The ops
// between their products have loops for bf16, or (pooling) widen what they get.
#pragma once
#include "core/tape.h"

namespace dyt {

// The images as these models begin with: in bf16 if this processor has convolutions in bf16 and
// the run is one on the CPU in bf16, else as they are.
Tensor as_activations(Tape& tape, const Tensor& images);

inline bool is_bf16_on_cpu(const Tape& tape, const Tensor& x) {
  return tape.on_cpu() && x.dtype == DType::bf16;
}

// y = x, in the other number type; on the CPU.
Tensor widened(Tape& tape, const Tensor& x);   // bf16 to f32
Tensor narrowed(Tape& tape, const Tensor& x);  // f32 to bf16, rounded

}  // namespace dyt
