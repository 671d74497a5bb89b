// Training a language model on a text, and writing with it.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "datasets/text.h"
#include "models/gpt.h"
#include "training/trainer.h"

namespace dyt {

// What suits "gpt_char" on a megabyte of text: at 4,096 tokens a step, 4 passes over it.
TrainOptions language_defaults();

// Trains `parameters`, the model's (allocated: their device and number type are where and how it
// runs), and returns the curve; its losses are nats per token, of a text of bytes nats per byte. A
// model that isn't causal learns to name hidden tokens (datasets/masked_text.h), and its losses are
// over these.
// `show`, if given, is called after every step. Error if the text is shorter than the model's
// context, has words that the model doesn't know, or as Trainer.
TrainResult train_language_model(const GPT& model, Parameters& parameters, const TextDataset& text,
                                 const TrainOptions& options, const ShowProgress& show = nullptr);

// Mean loss over up to `windows` windows of a text (0: all that don't overlap), `batch` at a time,
// with the tape's training flag off meanwhile. What a model that isn't causal has to name is hidden
// at the same places every time.
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
