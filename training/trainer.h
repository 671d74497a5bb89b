// The training loop: batch, forward, backward, update, and a look at unseen data every now and
// then. What is trained, and on what, is a TrainTask; training/classifier.h, language.h and
// translation.h have one each.
#pragma once
#include <cmath>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tape.h"
#include "datasets/augment.h"
#include "training/adamw.h"
#include "training/checkpoint.h"
#include "training/ema.h"
#include "training/sgd.h"
#include "training/step.h"

namespace dyt {

struct TrainOptions {
  int64_t steps = 1000;  // updates
  int batch = 100;       // images, or windows of text, per update
  // Parts that a batch is computed in, one after the other, to save memory. They count alike, also
  // where a loss is a mean over the words of a part and the parts have unlike many (BERT's masks,
  // translation).
  int accumulate = 1;
  double lr = 1e-3, lr_floor = 1e-6;  // peak and end of a cosine
  int64_t warmup = 0;                 // steps of linear warm-up
  int64_t inverse_sqrt_from = 0;      // if set, in place of the cosine: training/schedule.h
  AdamWOptions adamw = {};
  std::optional<SgdOptions> sgd = {};  // if set, momentum takes AdamW's place
  // Images
  float label_smoothing = 0;
  std::optional<Augment> augment = Augment{};  // none: images as they are
  Mix mix = {};
  bool strict = false;  // an image that can't be decoded is an Error, rather than left out
  int workers = 0;      // threads that make batches; 0: one for every core but one
  Graphs graphs = Graphs::automatic;  // whole steps as CUDA graphs; never on the cpu

  double ema_decay = 0;           // of an average of the weights (training/ema.h); 0: none
  uint64_t seed = 0;              // of the data order, augmentation, dropout, stochastic depth
  int64_t evaluate_every = 0;     // steps between looks at unseen data; 0: only at the end
  int64_t evaluate_windows = 64;  // of a validation text, but all of it at the end; 0: all
  double diverged_above = 20;     // a training loss above this, or NaN, ends the run
  CheckpointOptions checkpoint = {};
  // If set, called after every update with the number of updates so far. It may compute on the
  // tape.
  std::function<void(int64_t step, Tape& tape)> after_step = nullptr;
};

struct TrainResult {
  std::vector<Evaluation> curve;     // the last one is the final result, unless the run diverged
  int64_t diverged_at = -1;          // the step whose loss was NaN or too large; -1: none
  double seconds = 0;                // of a resumed run with what went before
  int64_t samples = 0;               // images or tokens that training saw
  size_t arena_bytes = 0;            // held for activations and their gradients
  double seconds_waited = 0;         // for batches, of `seconds`
  std::vector<std::string> skipped;  // "FILE: why" of images that could not be decoded
  int64_t steps_repeated = 0;        // that were launched as a graph
  std::string graph_problem;         // why they could not be, if they should have been
  bool diverged() const { return diverged_at >= 0; }
  const Evaluation& last() const { return curve.back(); }
};

// Where a run is, for whoever shows it.
struct Progress {
  int64_t step = 0, steps = 0;
  double loss = 0;                         // training, lately
  std::optional<Evaluation> last = {};     // look at unseen data, if there was one
  std::span<const Evaluation> curve = {};  // all of them; valid during the call
  const char* samples = "images";          // or "tokens"
  double samples_per_second = 0, seconds_left = 0;
};
using ShowProgress = std::function<void(const Progress&)>;

struct TrainTask {
  const char* samples = "images";
  int64_t samples_per_step = 0;
  StepWork work = {};  // its batches, and the loss of one
  // test_loss and test_accuracy with the weights as they are. `last`: at the end of the run.
  std::function<Evaluation(Tape& tape, bool last)> evaluate = nullptr;
};

class Trainer {
 public:
  // Resumes if options.checkpoint says so. `parameters` are allocated: their device and number type
  // are where and how it runs. Error if a number is not positive, the warm-up is not shorter than
  // the run, or the checkpoint is of another run.
  Trainer(Parameters& parameters, const TrainOptions& options);

  int64_t first_part() const { return state_.step * options_.accumulate; }
  // Runs to the end. `show`, if given, is called after every step.
  TrainResult run(const TrainTask& task, const ShowProgress& show = nullptr);

 private:
  void train_step(const TrainTask& task, int64_t step);
  bool receive_losses(size_t still_on_their_way, TrainResult& result);
  void look(const TrainTask& task, bool last);
  void save(bool last);

  Parameters& parameters_;
  const TrainOptions options_;
  Tape tape_;
  TrainingStep step_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<WeightAverage> average_;
  TrainingState state_;
  std::deque<int64_t> losses_of_;  // the steps whose losses are on their way
};

}  // namespace dyt
