#include "experiments/activations.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace dyt {

std::vector<SiteActivations> observe_norms(Tape& tape, const std::function<void(Tape&)>& forward) {
  std::vector<SiteActivations> sites;
  const bool was_training = tape.training;
  const auto was_observing = tape.observer;
  tape.training = false;
  tape.observer = [&](const std::string& site, const Tensor& in, const Tensor& out) {
    sites.push_back({.site = site,
                     .rows = in.rows(),
                     .channels = in.channels(),
                     .in = host_floats(tape, in),
                     .out = host_floats(tape, out)});
  };
  tape.begin(0);
  forward(tape);
  tape.training = was_training;
  tape.observer = was_observing;
  return sites;
}

std::vector<SiteActivations> observe_norms(const Forward& forward, const Parameters& parameters,
                                           const ImageDataset& dataset, int64_t count) {
  count = std::min(count, int64_t(dataset.size()));
  std::vector<uint32_t> indices(static_cast<size_t>(count));
  std::iota(indices.begin(), indices.end(), 0u);
  std::vector<float> images(indices.size() * dataset.image_size());
  std::vector<int32_t> labels(indices.size());
  fill_batch(dataset, indices, nullptr, 0, 0, images.data(), labels.data());
  Tape tape(parameters.device(), parameters.dtype());
  return observe_norms(tape, [&](Tape& t) {
    forward(t, t.upload({count, dataset.height, dataset.width, dataset.channels}, DType::f32,
                        images.data()));
  });
}

std::vector<float> standardised(const std::vector<float>& x, int64_t channels, double epsilon) {
  require(channels > 0 && x.size() % size_t(channels) == 0, "rows of ", channels,
          " channels don't make ", x.size(), " numbers");
  std::vector<float> y(x.size());
  for (size_t begin = 0; begin < x.size(); begin += size_t(channels)) {
    const auto row = x.begin() + std::ptrdiff_t(begin);
    double sum = 0, squares = 0;
    for (int64_t c = 0; c < channels; ++c) sum += double(row[c]);
    const double mean = sum / double(channels);
    for (int64_t c = 0; c < channels; ++c) squares += std::pow(double(row[c]) - mean, 2);
    const double rstd = 1 / std::sqrt(squares / double(channels) + epsilon);
    for (int64_t c = 0; c < channels; ++c) {
      y[begin + size_t(c)] = float((double(row[c]) - mean) * rstd);
    }
  }
  return y;
}

Spread spread_of(const std::vector<float>& x) {
  require(!x.empty(), "the spread of no numbers");
  Spread spread;
  double sum = 0, squares = 0;
  for (const float v : x) {
    sum += double(v);
    spread.largest = std::max(spread.largest, std::abs(double(v)));
  }
  spread.mean = sum / double(x.size());
  for (const float v : x) squares += std::pow(double(v) - spread.mean, 2);
  spread.std = std::sqrt(squares / double(x.size()));
  return spread;
}

double saturated_share(const std::vector<float>& x, double alpha) {
  const double bound = std::atanh(0.95);
  const auto saturates = [&](float v) { return std::abs(alpha * double(v)) > bound; };
  return double(std::count_if(x.begin(), x.end(), saturates)) / double(x.size());
}

}  // namespace dyt
