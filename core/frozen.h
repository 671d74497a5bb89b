// Training a part of a model's parameters: the others are frozen.
#pragma once
#include <functional>
#include <vector>

#include "core/parameters.h"
#include "core/tape.h"

namespace dyt {

// The parameters of a model that stay as they start, bit for bit: they get no weight decay, and
// their gradients are 0 when an optimizer sees them. So Adam's and momentum's moments stay 0, w - 0
// is w, and they don't count in the gradients' global norm.
class Frozen {
 public:
  Frozen() = default;  // nothing is
  // Freezes every parameter that `trained` says false of. Before Parameters::allocate(). Error if
  // nothing is left to train.
  Frozen(Parameters& parameters, const std::function<bool(const Parameter&)>& trained);

  // To be called at the start of every forward pass. What is recorded first runs last in the
  // backward pass: it clears the gradients of the frozen parameters. This object and the
  // parameters must live until then.
  void begin(Tape& tape) const;

  int64_t trained_count() const { return trained_count_; }  // learned numbers that aren't frozen

 private:
  std::vector<const Parameter*> frozen_;
  int64_t trained_count_ = 0;
};

inline Frozen all_but_norms(Parameters& parameters) {
  return Frozen(parameters, [](const Parameter& p) { return p.of_norm; });
}

}  // namespace dyt
