#include "core/frozen.h"

namespace dyt {

Frozen::Frozen(Parameters& parameters, const std::function<bool(const Parameter&)>& trained) {
  require(!parameters.masters(), "parameters frozen after the memory was allocated");
  for (Parameter& p : parameters.all()) {
    if (trained(p)) {
      trained_count_ += p.size();
      continue;
    }
    p.decay = false;
    frozen_.push_back(&p);
  }
  require(trained_count_ > 0, "no parameter is left to train: all ", frozen_.size(), " are frozen");
}

void Frozen::begin(Tape& tape) const {
  if (frozen_.empty() || !tape.training) return;
  const Tensor mark = tape.empty({1}, accumulator_of(tape.dtype()));
  mark.grad->data = mark.data, mark.grad->filled = true;  // its closure runs in any case
  tape.record(mark, [this, &tape] {
    for (const Parameter* p : frozen_) {
      const size_t bytes = size_t(p->size()) * size_of(accumulator_of(p->dtype));
      fill_zero(tape.device(), p->grad->data, bytes);
    }
  });
}

}  // namespace dyt
