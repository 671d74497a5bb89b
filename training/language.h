// Training a language model on a text, and writing with it.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "datasets/text.h"
#include "models/gpt.h"
#include "training/adamw.h"

namespace dyt {

// The defaults suit "gpt_char" on a megabyte of text: at 4,096 tokens a step, 4 passes over it.
struct LanguageOptions {
  int64_t steps = 1000;
  int batch = 32;                     // windows of the model's context per step
  double lr = 2e-3, lr_floor = 2e-4;  // peak and end of a cosine
  int64_t warmup = 100;               // steps of linear warm-up
  AdamWOptions adamw = {.beta2 = 0.99f, .weight_decay = 0.1f, .max_norm = 1};
  uint64_t seed = 0;              // of the windows and of dropout
  int64_t evaluate_every = 100;   // steps between looks at the validation text; 0: at the end
  int64_t evaluate_windows = 64;  // of the validation text, but all of it at the end; 0: all
  double diverged_above = 20;     // a training loss above this, or NaN, ends the run
};

// Losses are nats per token; of a text of bytes, nats per byte.
struct LanguageEvaluation {
  int64_t step = 0;       // updates done so far
  double train_loss = 0;  // mean since the last evaluation
  double val_loss = 0;
};

struct LanguageResult {
  std::vector<LanguageEvaluation> curve;  // the last is the final one, unless the run diverged
  int64_t diverged_at = -1;               // the step whose loss was NaN or too large; -1: none
  double seconds = 0;
  int64_t tokens = 0;      // that training saw
  size_t arena_bytes = 0;  // held for activations and their gradients
  bool diverged() const { return diverged_at >= 0; }
  const LanguageEvaluation& last() const { return curve.back(); }
};

// Where a run is, for whoever shows it.
struct LanguageProgress {
  int64_t step, steps;
  double loss;      // training, lately
  double val_loss;  // of the last evaluation; negative: none yet
  double tokens_per_second, seconds_left;
};

// Trains `parameters`, the model's (allocated: their device and number type are where and how it
// runs), and returns the curve. `show`, if given, is called after every step. Error if the text is
// shorter than the model's context, has words that the model doesn't know, or if a number is not
// positive.
LanguageResult train_language_model(
    const GPT& model, Parameters& parameters, const TextDataset& text,
    const LanguageOptions& options,
    const std::function<void(const LanguageProgress&)>& show = nullptr);

// Mean loss over up to `windows` windows of a text (0: all that don't overlap), `batch` at a time,
// with the tape's training flag off meanwhile.
double evaluate_language_model(const GPT& model, Tape& tape, const std::vector<uint16_t>& text,
                               int64_t windows, int batch);

struct SampleOptions {
  int64_t tokens = 500;    // to write
  double temperature = 1;  // logits are divided by it; 0: always the likeliest token
  int top_k = 0;           // choose among the k likeliest only; 0: among all
  uint64_t seed = 1;
  bool cache = true;  // keep keys and values instead of reading all again for every token
};

// Writes on from a prompt (at least one token) and returns the new tokens; `show`, if given, gets
// each as soon as it is chosen. A text that has outgrown the model's context goes on from its later
// half. With and without the cache the model reads the same, so up to rounding the choice is the
// same.
std::vector<int32_t> generate(const GPT& model, const Parameters& parameters,
                              std::span<const int32_t> prompt, const SampleOptions& options,
                              const std::function<void(int32_t token)>& show = nullptr);

// One token from logits: likelier ones more often (see SampleOptions). u is uniform in [0, 1).
int32_t choose_token(std::span<const float> logits, double temperature, int top_k, double u);

}  // namespace dyt
