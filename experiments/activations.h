// What goes into and comes out of a model's norms: one forward pass with the tape's observer on.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/parameters.h"
#include "core/tape.h"
#include "datasets/images.h"
#include "training/classifier.h"

namespace dyt {

struct SiteActivations {
  std::string site;            // "blocks.0.norm1"
  int64_t rows = 0;            // tokens, or pixels, of all samples
  int64_t channels = 0;        // of each
  std::vector<float> in, out;  // (rows, channels): before the norm, and after gamma and beta
};

// The norms of one forward pass, in the order in which they come. The tape's training flag is off
// meanwhile; the pass is not for gradients.
std::vector<SiteActivations> observe_norms(Tape& tape, const std::function<void(Tape&)>& forward);

// The same of a classifier, on the first `count` images of a dataset, which are not augmented.
std::vector<SiteActivations> observe_norms(const Forward& forward, const Parameters& parameters,
                                           const ImageDataset& dataset, int64_t count);

// (x - mean) / sqrt(variance + epsilon) of every row: LayerNorm before its gamma and beta.
std::vector<float> standardised(const std::vector<float>& x, int64_t channels, double epsilon);

// Over all numbers of a site's input.
struct Spread {
  double mean = 0, std = 0, largest = 0;  // largest: of the absolute values
};
Spread spread_of(const std::vector<float>& x);

// The share of a site's inputs for which tanh(alpha x) is within 5 % of its bounds: where |alpha x|
// is above 1.83.
double saturated_share(const std::vector<float>& x, double alpha);

}  // namespace dyt
