// Stochastic gradient descent with momentum, over a model's flat buffers.
#pragma once
#include "core/parameters.h"

namespace dyt {

struct SgdOptions {
  float momentum = 0.9f;
  float weight_decay = 0;  // on the parameters with decay = true
};

class Sgd {
 public:
  Sgd(Parameters& parameters, const SgdOptions& options);

  // One update of every parameter from its gradient. lr is this step's learning rate.
  void step(float lr) {
    prepare(lr);
    update();
  }
  void prepare(float lr);  // the two parts, as AdamW's
  void update();

 private:
  Parameters& parameters_;
  SgdOptions options_;
  Buffer velocity_;  // of the type and size of the masters
  Buffer lr_;        // one float
};

}  // namespace dyt
