// The losses with all their options; layers.h has the forms that most callers need.
#pragma once
#include "layers/layers.h"

namespace dyt {

// Only if `ignores` is set, rows labelled -1 are left out: the mean is over the others (an Error on
// the cpu and NaN in kernels if there are none), and the gradient of theirs is 0. Otherwise -1 is a
// label that is no class like any other.
struct LossOptions {
  float smoothing = 0;   // in [0, 1]: (1 - s) on the label plus s / K on every class
  bool ignores = false;  // as PyTorch with ignore_index = -1
};
inline constexpr int32_t ignored_label = -1;

Tensor cross_entropy(Tape& tape, const Tensor& logits, const Tensor& labels,
                     const LossOptions& options);
Tensor tied_head(Tape& tape, const Tensor& x, const Parameter& weight, const Tensor& labels,
                 const LossOptions& options, int64_t chunk_rows = 0);

}  // namespace dyt
