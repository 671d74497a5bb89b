// AdamW (arXiv 1711.05101) with clipping by the global gradient norm, over a model's flat buffers.
#pragma once
#include "core/parameters.h"
#include "training/optimizer.h"

namespace dyt {

struct AdamWOptions {
  float beta1 = 0.9f, beta2 = 0.999f;
  float epsilon = 1e-8f;
  float weight_decay = 0.05f;  // on the parameters with decay = true
  float max_norm = 0;          // gradients are scaled down to this global norm; 0: never
};

class AdamW : public Optimizer {
 public:
  AdamW(Parameters& parameters, const AdamWOptions& options);

  void prepare(float lr) override;  // the first call is step 1 for the bias correction
  void update() override;

  // The global L2 norm of the gradients before clipping, as of the last step(); waits for the
  // device.
  double gradient_norm() const;

  std::vector<Memory> memories() const override {
    return {{"m", first_.data()}, {"v", second_.data()}};
  }
  void set_steps(int64_t steps) override { steps_ = steps; }

 private:
  Parameters& parameters_;
  AdamWOptions options_;
  Buffer first_, second_;  // moments m and v, of the type and size of the masters
  Buffer norm_partials_;   // sums of squares, and their sum at the end
  Buffer numbers_;         // of the step
  int64_t steps_ = 0;
};

}  // namespace dyt
