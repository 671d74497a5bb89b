// Checkpoints: everything a run needs to go on as if it had not stopped, in one safetensors file.
//
//   NAME                      the weights, as timm or Hugging Face name them
//   optimizer.m.NAME, .v.     AdamW's moments, or of SGD optimizer.velocity.NAME, f32, under our
//                             names and in our shapes
//   ema.NAME                  the average of the weights, if there is one
//   __metadata__              "dyt.model": what the model is; "dyt.run": the run's options;
//                             "dyt.state": step, curve, what the random numbers depend on
//
// Random numbers come from (seed, step, op), so the step is the random state. A file is written
// under another name, flushed to the disk and renamed (core/safetensors.h): whenever the process or
// the machine stops, the old checkpoint or the new one is there, whole.
#pragma once
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "training/ema.h"
#include "training/optimizer.h"

namespace dyt {

// One look at unseen data: an image model's test set, a language model's validation text.
struct Evaluation {
  int64_t step = 0;           // updates done so far
  double train_loss = 0;      // mean since the last look
  double test_loss = 0;       // cross-entropy, nats (per token), not smoothed
  double test_accuracy = -1;  // 0 to 1; negative: there is none (text)
  // The same with the average of the weights, if there is one.
  double average_loss = std::nan(""), average_accuracy = -1;
};

struct CheckpointOptions {
  std::filesystem::path save = {};    // empty: nothing is saved
  int64_t every = 0;                  // steps; 0: whenever unseen data is looked at, and at the end
  std::filesystem::path resume = {};  // empty: from the beginning
  // The weights to a file and from one, with every name behind `prefix`; without them, under our
  // own parameter names.
  std::function<void(TensorFile& file, const std::string& prefix)> write_weights = nullptr;
  std::function<void(const TensorFile& file, const std::string& prefix)> read_weights = nullptr;
  std::string model = {};                       // describes the model: it must be equal to resume
  std::map<std::string, std::string> run = {};  // the same of the run's options, by their names
  std::map<std::string, std::string> metadata = {};  // more, for whoever uses the model
};

// How far a run is.
struct TrainingState {
  int64_t step = 0;  // updates done
  double seconds = 0;
  double loss_sum = 0;  // of the training losses since the last evaluation, and how many they are
  int64_t losses = 0;
  std::vector<Evaluation> curve;
};

struct Trained {
  Parameters& parameters;
  Optimizer& optimizer;
  WeightAverage* average;  // or null
};

// Throws Error if it can't be written; the old file is then as it was.
void save_checkpoint(const CheckpointOptions& options, const TrainingState& state,
                     const Trained& trained);

// Sets weights, the optimizer's memory and average. Throws Error if the file is not a checkpoint,
// or one of another model or run, naming what differs.
TrainingState load_checkpoint(const CheckpointOptions& options, const Trained& trained);

}  // namespace dyt
