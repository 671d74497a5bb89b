// Every op there is, on one page. An op computes its output, and records on the tape how to compute
// its gradients. B is the batch, T tokens, C channels, H W an image's height and width (NHWC).
// Shapes are written (B, T, C); an op that works on rows accepts any shape ending in C.
// All throw dyt::Error if shapes don't fit, naming both.
#pragma once
#include "core/parameters.h"
#include "core/tape.h"

namespace dyt {

// --- dyt.cu: Dynamic Tanh and its family, y = gamma * phi(alpha x + shift) + beta ----------------
enum class Squash { tanh, erf, hardtanh, sigmoid, isru, identity };
struct DytParameters {
  const Parameter* alpha = nullptr;  // (1); null: 1, not learned
  const Parameter* shift = nullptr;  // (1); null: 0
  const Parameter* gamma = nullptr;  // (C); null: 1
  const Parameter* beta = nullptr;   // (C); null: 0
};
Tensor dyt(Tape& tape, const Tensor& x, const DytParameters& p, Squash squash = Squash::tanh);

}  // namespace dyt
