// Stochastic gradient descent with momentum, over a model's flat buffers.
#pragma once
#include "core/parameters.h"
#include "training/optimizer.h"

namespace dyt {

struct SgdOptions {
  float momentum = 0.9f;
  float weight_decay = 0;  // on the parameters with decay = true
};

class Sgd : public Optimizer {
 public:
  Sgd(Parameters& parameters, const SgdOptions& options);

  void prepare(float lr) override;
  void update() override;
  std::vector<Memory> memories() const override { return {{"velocity", velocity_.data()}}; }

 private:
  Parameters& parameters_;
  SgdOptions options_;
  Buffer velocity_;  // of the type and size of the masters
  Buffer lr_;        // one float
};

}  // namespace dyt
