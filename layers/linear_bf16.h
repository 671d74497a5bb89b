// The linear layer on the CPU with products in bf16; for layers/linear.cu, whose ops call these.
#pragma once
#include "core/parameters.h"
#include "core/product.h"
#include "core/tape.h"
#include "layers/layers.h"

namespace dyt {

inline bool linear_multiplies_in_bf16(const Tape& tape) {
  return tape.on_cpu() && tape.dtype() == DType::f32 && cpu_products() == DType::bf16;
}

// x in bf16: itself, or a rounded copy that lasts until the next step.
Tensor in_bf16(Tape& tape, const Tensor& x);

// to = dy, rounded; dbias (C) += column sums of dy, if it isn't null.
void round_and_sum(bf16* to, float* dbias, const float* dy, int64_t rows, int64_t C);

// y = x weight' + bias + residual, of shape y_shape, as linear() says; x is f32 or bf16, and so is
// y, but that a bf16 y takes no residual.
Tensor linear_in_bf16(Tape& tape, Shape y_shape, DType y_type, const Tensor& x,
                      const Parameter& weight, const Parameter* bias, const Tensor* residual);

// y = gelu(x weight' + bias); y is bf16, for another linear layer to read.
Tensor linear_gelu_in_bf16(Tape& tape, Shape y_shape, const Tensor& x, const Parameter& weight,
                           const Parameter& bias, Gelu kind);

}  // namespace dyt
