// What turns gradients into new weights: training/adamw.h, training/sgd.h.
#pragma once
#include <cstdint>
#include <vector>

namespace dyt {

class Optimizer {
 public:
  Optimizer() = default;
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // One update of every parameter from its gradient. lr is this step's learning rate.
  void step(float lr) {
    prepare(lr);
    update();
  }
  // Its two parts: the numbers of a step go to the device; the update, with whatever numbers are
  // there, which a graph can record (core/graph.h).
  virtual void prepare(float lr) = 0;
  virtual void update() = 0;

  // What a checkpoint has to hold: buffers of the type and in the places of the masters.
  struct Memory {
    const char* name;
    void* data;
  };
  virtual std::vector<Memory> memories() const = 0;
  // Goes on after so many updates, with memories as they were then.
  virtual void set_steps(int64_t) {}
};

}  // namespace dyt
