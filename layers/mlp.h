// mlp.cu: linear(gelu(linear(x))), what a Transformer's block does beside attention.
#pragma once
#include "layers/layers.h"

namespace dyt {

struct MlpParameters {
  const Parameter *w1 = nullptr, *b1 = nullptr;  // (F, C), (F)
  const Parameter *w2 = nullptr, *b2 = nullptr;  // (Cout, F), (Cout); b2 may be null
};
// From x (..., C) to (..., Cout); `residual` (..., Cout) is added.
Tensor mlp(Tape& tape, const Tensor& x, const MlpParameters& p, Gelu kind = Gelu::erf,
           const Tensor* residual = nullptr);

}  // namespace dyt
