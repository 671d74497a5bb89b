// How large what goes into the norms of a LLaMA-style model with DyT is at initialisation: measured
// in one forward pass, and as mean-field theory has it. Experiment 11 sets alpha0 by it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "datasets/text.h"
#include "models/gpt.h"

namespace dyt {

struct SiteScale {
  std::string site;  // "model.layers.0.input_layernorm"
  double std = 0;    // of the norm's input, over all tokens and channels
  double alpha = 0;  // where its alpha starts
};

// Of every norm, in the order in which they come, on windows of the training text; `config` says
// where alpha starts, and may leave it to be measured (NormSpec::calibrate).
std::vector<SiteScale> measured_scales(const GPTConfig& config, const TextDataset& text,
                                       uint64_t seed, int windows = 8);

// The same of a model whose weights all start at a standard deviation of 0.02 (as LLaMA's do; the
// embeddings are multiplied by sqrt(width)), whose tokens all differ, and whose alpha starts at
// c / std at every norm. Two norms in each layer, before attention and before the feed-forward
// part, and the last one: 2 depth + 1 numbers.
std::vector<double> predicted_scales(int width, int depth, int hidden, int context, double c);

double rms_of_tanh(double c);  // sqrt(E tanh(c z)^2), z standard normal
double rms_of_silu(double s);  // sqrt(E silu(s z)^2)

}  // namespace dyt
