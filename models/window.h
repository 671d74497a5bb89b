// A window into a model: tensors in, and what the model makes of them out, for teaching and for
// checking against anything else. The work of `dyt forward` and `dyt backward`.
#pragma once
#include <filesystem>
#include <string>

#include "core/safetensors.h"
#include "models/model.h"

namespace dyt {

struct WindowOptions {
  ModelSpec model;
  Device device = Device::cpu;
  DType dtype = DType::f32;       // bf16 on the cpu: as --precision bf16 (core/precision.h)
  std::filesystem::path weights;  // empty: random ones, of `seed`
  std::string prefix;             // of their names in the file: "ema." in a checkpoint
  uint64_t seed = 1;
  bool activations = false;  // what goes into and comes out of every norm, too
  bool backward = false;     // the loss and the gradients, too
  bool evaluation = false;   // backward, too, without dropout and with running statistics
};

// Input tensors: `images` (N, C, H, W), as timm takes them, or `tokens` (N, T) integers; backward:
// also `labels`, (N) or (N, T) integers. Others don't matter. Error, in a sentence, for what a
// model can't read: other shapes, numbers that aren't finite, a token or a label that isn't one.
//
// The result, in f32 (f64 in f64 runs), with the names and shapes of models/weights.h:
//   logits        (N, classes) or (N, T, V)
//   NAME.input,   of every norm, as this program keeps them: tokens (N, T, C), images (N, H, W, C),
//   NAME.output     a pooled vector (N, C)
//   loss          () the mean cross-entropy
//   grad.NAME     of every parameter
//   after.NAME    of every buffer: BatchNorm's running statistics after a step of training
// Forward computes as in evaluation: BatchNorm takes its running statistics, nothing is dropped.
// Backward computes as in training (timm's model.train()) unless `evaluation`; but the logits of a
// language model are always those of evaluation, since its loss is computed without them.
// If `weights` is given, it gets the weights that the model had.
TensorFile look_into(const WindowOptions& options, const TensorFile& input,
                     TensorFile* weights = nullptr);

}  // namespace dyt
