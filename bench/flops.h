// What a model has to compute, whoever computes it: the multiplications and additions of its matrix
// products, convolutions and attention, two for each weight and number.
#pragma once
#include <cstdint>

#include "models/model.h"

namespace dyt {

// Of one forward pass over one image or one text of the whole context. Norms, activations, softmax
// and embeddings are left out, as is usual; of causal attention half is counted. 0 for models
// whose products are not written down here (ResNet, VGG).
double forward_flops(const Model& model);

// Of a training step over `samples` of them: forward once, and backward twice as much, for the
// gradients of the inputs and of the weights.
inline double step_flops(const Model& model, int64_t samples) {
  return 3 * double(samples) * forward_flops(model);
}

}  // namespace dyt
