// What takes the place of norms in networks that have none: the learned scalars of Fixup (arXiv
// 1901.09321) and SkipInit (2002.10444), and sigmaReparam's weights of a learned spectral norm
// (2303.06296).
#pragma once
#include <string>

#include "layers/layers.h"

namespace dyt {

// --- scalar_affine.cu ---
// y = multiplier x + bias, or with `residual` of x's shape residual + multiplier x + bias;
// multiplier (1) or null: 1; bias (1) or null: 0.
Tensor scalar_affine(Tape& tape, const Tensor& x, const Parameter* multiplier,
                     const Parameter* bias, const Tensor* residual = nullptr);

// --- spectral_weight.cu ---
// `effective` = gamma / sigma(W) W, sigma the largest singular value of W, seen as a matrix (Cout,
// everything else). It is a parameter for ops to read, valid until the
// tape's next begin(); what they add to its gradient goes on to W and gamma. In training, first
// takes `iterations` steps of the power iteration, which move u and v; else u and v stay.
struct SpectralParameters {
  const Parameter* weight = nullptr;  // (Cout, ...)
  const Parameter* gamma = nullptr;   // (1)
  const ModelBuffer* u = nullptr;     // (Cout)
  const ModelBuffer* v = nullptr;     // (Cin): the product of the other dimensions
};
void spectral_weight(Tape& tape, Parameter& effective, const SpectralParameters& p,
                     int iterations = 1);

// The weight of a linear layer or a convolution in a model: `name`, as it is, or in sigmaReparam's
// form, with beside it a gamma that starts at sigma, so that the network starts as without, and the
// buffers u and v: "proj.weight", "proj.gamma", "proj.u", "proj.v". sigma depends on the weight's
// initial values, so the first pass finds it: u, which is 0 until then, says whether it has been.
class Weight {
 public:
  Weight() = default;
  Weight(Parameters& parameters, const std::string& name, Shape shape, Init init,
         bool spectral = false);
  // For the ops of this pass; to be called once in a pass.
  const Parameter& operator()(Tape& tape) const;

 private:
  Parameters* parameters_ = nullptr;
  SpectralParameters p_;
  mutable bool started_ = false;
  mutable Parameter effective_;  // with gamma
};

}  // namespace dyt
