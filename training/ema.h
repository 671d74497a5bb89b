// The exponential moving average of a model's weights, which often evaluates better than the
// weights of the last step (Polyak averaging; timm's ModelEma). After every update of the weights
// w:
//
//     average <- average + (1 - decay) (w - average)
//
// A model's buffers (running statistics of BatchNorm) are averaged and exchanged alike, but counts,
// which are copied.
#pragma once
#include "core/parameters.h"

namespace dyt {

class WeightAverage {
 public:
  // Begins with the weights as they are. Throws Error unless 0 <= decay < 1. With warm_up, the
  // decay of update t (from 0) is at most (1 + t) / (10 + t): the first weights are forgotten soon,
  // which a short run needs.
  WeightAverage(Parameters& parameters, double decay, bool warm_up = false);

  // Begins anew with the weights as they are.
  void restart();

  // After every step of the optimizer.
  void step() {
    prepare();
    update();
  }
  void prepare();  // the two parts, as AdamW's
  void update();

  // Exchanges the weights (and their bf16 copies) with the average: the model then computes with
  // the average until the next swap(). No step() in between.
  void swap();
  bool swapped() const { return swapped_; }

  // For checkpoints: the averages of the masters, then of the buffers, in their order and type (a
  // parameter's begins at element p.offset, a buffer's at flat_size() + b.offset); the updates so
  // far.
  void* averages() const { return averages_.data(); }
  size_t bytes() const { return averages_.bytes(); }
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

 private:
  template <class A, class Body>
  void for_both(Body&& body);
  void copy_counts();

  Parameters& parameters_;
  double decay_;
  bool warm_up_, swapped_ = false;
  int64_t updates_ = 0;
  Buffer averages_;
  Buffer share_;  // 1 - decay of this update, of the masters' type
};

// Evaluates with the average while it lives, also if an Error ends it. Null: with the weights.
class WithAverage {
 public:
  explicit WithAverage(WeightAverage* average) : average_(average) {
    if (average_) average_->swap();
  }
  ~WithAverage() {
    try {
      if (average_) average_->swap();
    } catch (const Error&) {  // the device is lost, and the weights with it
    }
  }
  WithAverage(const WithAverage&) = delete;
  WithAverage& operator=(const WithAverage&) = delete;

 private:
  WeightAverage* average_;
};

}  // namespace dyt
