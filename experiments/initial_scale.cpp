#include "experiments/initial_scale.h"

#include <cmath>

#include "core/error.h"
#include "core/parameters.h"
#include "core/tape.h"
#include "experiments/activations.h"

namespace dyt {
namespace {

// sqrt(E f(z)^2) of a standard normal z: the trapezoidal rule, exact to 1e-12 for smooth f.
template <class F>
double rms_under_normal(F&& f) {
  double sum = 0, weights = 0;
  for (double z = -9; z <= 9; z += 1.0 / 64) {
    const double density = std::exp(-z * z / 2);
    sum += density * f(z) * f(z);
    weights += density;
  }
  return std::sqrt(sum / weights);
}

}  // namespace

double rms_of_tanh(double c) {
  return rms_under_normal([c](double z) { return std::tanh(c * z); });
}

double rms_of_silu(double s) {
  return rms_under_normal([s](double z) { return s * z / (1 + std::exp(-s * z)); });
}

std::vector<SiteScale> measured_scales(const GPTConfig& config, const TextDataset& text,
                                       uint64_t seed, int windows) {
  Parameters parameters;
  const GPT model(config, parameters);
  parameters.allocate(Device::cpu, DType::f32, seed);
  const std::vector<int64_t> begins =
      even_windows(int64_t(text.train.size()), config.context, windows);
  std::vector<int32_t> tokens(begins.size() * size_t(config.context)), labels(tokens.size());
  fill_windows(text.train, begins, config.context, tokens.data(), labels.data());
  Tape tape(Device::cpu, DType::f32);
  tape.calibrating = true;
  const std::vector<SiteActivations> sites = observe_norms(tape, [&](Tape& t) {
    model.logits(t, t.upload({int64_t(begins.size()), config.context}, DType::i32, tokens.data()));
  });
  std::vector<SiteScale> scales;
  for (const SiteActivations& s : sites) {
    const double alpha = parameters.values(parameters.find(s.site + ".alpha"))[0];
    scales.push_back({s.site, spread_of(s.in).std, alpha});
  }
  return scales;
}

std::vector<double> predicted_scales(int width, int depth, int hidden, int context, double c) {
  require(width > 0 && depth > 0 && hidden > 0 && context > 0 && c > 0,
          "a model's sizes and c must be positive");
  const double variance_of_weights = 0.02 * 0.02;
  const double r = rms_of_tanh(c);  // of what leaves a norm, whatever its input's std
  // Attention at initialisation is a mean over the t tokens so far: 1/t of the variance is left.
  double left = 0;
  for (int t = 1; t <= context; ++t) left += 1.0 / t / context;
  const double product = variance_of_weights * width;  // a matrix product's variance per input's
  double stream = product;                             // 0.02^2 times sqrt(width)^2
  std::vector<double> scales;
  for (int layer = 0; layer < depth; ++layer) {
    scales.push_back(std::sqrt(stream));
    stream += product * left * product * r * r;
    scales.push_back(std::sqrt(stream));
    const double up = std::sqrt(product) * r;   // of the gate's and the other half's numbers
    const double inner = up * rms_of_silu(up);  // silu(gate) * up
    stream += variance_of_weights * hidden * inner * inner;
  }
  scales.push_back(std::sqrt(stream));
  return scales;
}

}  // namespace dyt
