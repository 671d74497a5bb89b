// The training loop for image classifiers: batches in order, forward, backward, update, and the
// test set every now and then.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/tape.h"
#include "datasets/images.h"
#include "training/adamw.h"

namespace dyt {

struct TrainOptions {
  int64_t steps = 1000;
  int batch = 100;
  double lr = 1e-3, lr_floor = 1e-6;  // peak and end of a cosine
  int64_t warmup = 0;                 // steps of linear warm-up
  AdamWOptions adamw = {};
  float label_smoothing = 0;
  bool augment = true;         // random crop and flip
  uint64_t seed = 0;           // of the data order, the augmentation and stochastic depth
  int64_t evaluate_every = 0;  // steps between looks at the test set; 0: only at the end
  double diverged_above = 20;  // a training loss above this, or NaN, ends the run
};

// One look at the test set.
struct Evaluation {
  int64_t step = 0;          // updates done so far
  double train_loss = 0;     // mean since the last look
  double test_loss = 0;      // cross-entropy, nats, not smoothed
  double test_accuracy = 0;  // 0 to 1
};

struct TrainResult {
  std::vector<Evaluation> curve;  // the last one is the final result, unless the run diverged
  int64_t diverged_at = -1;       // the step whose loss was NaN or too large; -1: none
  double seconds = 0;
  int64_t images = 0;      // that training saw
  size_t arena_bytes = 0;  // held for activations and their gradients
  bool diverged() const { return diverged_at >= 0; }
  const Evaluation& last() const { return curve.back(); }
};

// Where a run is, for whoever shows it.
struct Progress {
  int64_t step, steps;
  double loss;           // training, lately
  double test_accuracy;  // of the last evaluation; negative: none yet
  double images_per_second, seconds_left;
};

// images (B, H, W, C) f32, normalised, to logits (B, classes)
using Forward = std::function<Tensor(Tape& tape, const Tensor& images)>;

// Trains `parameters` (allocated: their device and number type are where and how it runs) and
// returns the curve. `show`, if given, is called after every step. Error if a batch is larger than
// the train split, or a number is not positive.
TrainResult train_classifier(const Forward& forward, Parameters& parameters,
                             const ImageSplits& data, const TrainOptions& options,
                             const std::function<void(const Progress&)>& show = nullptr);

// Mean loss and accuracy over a dataset, `batch` images at a time. The tape's training flag is off
// meanwhile.
Evaluation evaluate_classifier(const Forward& forward, Tape& tape, const ImageDataset& dataset,
                               int batch);

}  // namespace dyt
