// Norms as a framework computes them that fuses nothing: one pass over memory for every elementary
// operation. The naive rung under layernorm.cu, rmsnorm.cu and dyt.cu, kept for the comparison in
// experiment 06.
#pragma once
#include <cstdint>

#include "layers/norm.h"

namespace dyt {

struct UnfusedParameters {
  const Parameter* gamma = nullptr;  // (C)
  const Parameter* beta = nullptr;   // (C), or null: 0; rmsnorm has none
  const Parameter* alpha = nullptr;  // (1), of dyt
};

// y (rows, C) = layernorm, rmsnorm or dyt of x; Error for any other kind. `moved`, if given, is
// increased by the bytes that the passes over (rows, C) numbers read and write, backward too; it
// must outlive the tape's step.
Tensor unfused_norm(Tape& tape, const Tensor& x, NormKind kind, const UnfusedParameters& p,
                    float epsilon, double* moved = nullptr);

}  // namespace dyt
