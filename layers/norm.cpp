#include "layers/norm.h"

#include <algorithm>
#include <cmath>

#include "layers/activations_bf16.h"
#include "layers/unfused.h"

namespace dyt {
namespace {

struct Name {
  NormKind kind;
  const char* name;
};
constexpr Name names[] = {{NormKind::layernorm, "layernorm"},
                          {NormKind::rmsnorm, "rmsnorm"},
                          {NormKind::batchnorm, "batchnorm"},
                          {NormKind::groupnorm, "groupnorm"},
                          {NormKind::dyt, "dyt"},
                          {NormKind::derf, "derf"},
                          {NormKind::hardtanh, "hardtanh"},
                          {NormKind::sigmoid, "sigmoid"},
                          {NormKind::isru, "isru"},
                          {NormKind::identity, "identity"},
                          {NormKind::shifted_tanh, "shifted_tanh"},
                          {NormKind::arcsinh, "arcsinh"},
                          {NormKind::deadzone, "deadzone"},
                          {NormKind::bump, "bump"},
                          {NormKind::none, "none"}};

bool over_batch_or_group(NormKind kind) {
  return kind == NormKind::batchnorm || kind == NormKind::groupnorm;
}

Squash squash_of(NormKind kind) {
  switch (kind) {
    case NormKind::derf:
      return Squash::erf;
    case NormKind::hardtanh:
      return Squash::hardtanh;
    case NormKind::sigmoid:
      return Squash::sigmoid;
    case NormKind::isru:
      return Squash::isru;
    case NormKind::identity:
      return Squash::identity;
    case NormKind::shifted_tanh:
      return Squash::shifted_tanh;
    case NormKind::arcsinh:
      return Squash::arcsinh;
    case NormKind::deadzone:
      return Squash::deadzone;
    case NormKind::bump:
      return Squash::bump;
    case NormKind::dyt:
      return Squash::tanh;
    default:
      fail(name_of(kind), " squashes nothing");
  }
}

}  // namespace

bool has_statistics(NormKind kind) {
  return kind == NormKind::layernorm || kind == NormKind::rmsnorm || over_batch_or_group(kind);
}

bool has_alpha(NormKind kind) { return !has_statistics(kind) && kind != NormKind::none; }

const char* name_of(NormKind kind) {
  for (const Name& n : names) {
    if (n.kind == kind) return n.name;
  }
  return "?";
}

const std::vector<std::string>& norm_names() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> list;
    for (const Name& n : names) list.push_back(n.name);
    return list;
  }();
  return all;
}

NormKind parse_norm(const std::string& name) {
  std::string known;
  for (const Name& n : names) {
    if (name == n.name) return n.kind;
    known += std::string(known.empty() ? "" : ", ") + n.name;
  }
  fail("unknown norm '", name, "'; choose one of ", known);
}

const char* name_of(Placement placement) { return placement == Placement::pre ? "pre" : "post"; }

Placement parse_placement(const std::string& name) {
  if (name == "pre") return Placement::pre;
  if (name == "post") return Placement::post;
  fail("unknown norm placement '", name, "'; choose pre or post");
}

Norm::Norm(Parameters& parameters, const std::string& name, int64_t channels, const NormSpec& spec,
           float weight0)
    : name_(name), parameters_(&parameters), spec_(spec) {
  if (spec.kind == NormKind::none) return;
  if (spec.epsilon == 0) spec_.epsilon = over_batch_or_group(spec.kind) ? 1e-5f : 1e-6f;
  if (spec.kind == NormKind::groupnorm) {
    require(spec.groups > 0, "group normalization needs at least one group, not ", spec.groups);
    spec_.groups = int(std::min<int64_t>(spec.groups, channels));
    while (channels % spec_.groups != 0) --spec_.groups;
  }
  if (spec.kind == NormKind::batchnorm) {
    running_mean_ = &parameters.add_buffer(name + ".running_mean", {channels}, 0);
    running_var_ = &parameters.add_buffer(name + ".running_var", {channels}, 1);
    batches_ = &parameters.add_buffer(name + ".num_batches_tracked", {1}, 0, true);
  }
  const auto add = [&](const char* part, int64_t size, Init init) {
    Parameter& p = parameters.add(name + part, {size}, init);
    p.of_norm = true;
    return &p;
  };
  if (!has_statistics(spec.kind)) {
    require(!spec.learn_alpha || spec.alpha0 > 0, "alpha0 must be positive, not ", spec.alpha0);
    require(spec.calibrate == 0 || spec.learn_alpha,
            "alpha0 can't be measured for a norm whose alpha is not learned");
    if (spec.learn_alpha) alpha_ = add(".alpha", 1, Init::fill(spec.alpha0));
    if (spec.kind == NormKind::derf) shift_ = add(".shift", 1, Init::zeros());
  }
  weight_ = add(".weight", channels, Init::fill(weight0));
  if (spec.bias && spec.kind != NormKind::rmsnorm) bias_ = add(".bias", channels, Init::zeros());
}

Tensor Norm::operator()(Tape& tape, const Tensor& x) const {
  if (tape.calibrating && alpha_ && spec_.calibrate > 0) calibrate(tape, x);
  const Tensor y = forward(tape, x);
  if (tape.observer && !name_.empty()) tape.observer(name_, x, y);
  return y;
}

Tensor Norm::then_relu(Tape& tape, const Tensor& x) const {
  const bool fuses = spec_.kind == NormKind::batchnorm && !tape.observer;
  return fuses ? batch_normalized(tape, x, true) : relu(tape, (*this)(tape, x));
}

Tensor Norm::batch_normalized(Tape& tape, const Tensor& x, bool relu) const {
  return batchnorm(tape, x,
                   {.gamma = weight_,
                    .beta = bias_,
                    .running_mean = running_mean_,
                    .running_variance = running_var_,
                    .batches = batches_},
                   {.epsilon = spec_.epsilon, .frozen = spec_.frozen, .relu = relu});
}

// The sums are taken in double and in order, so the same input gives the same alpha.
void Norm::calibrate(Tape& tape, const Tensor& x) const {
  const std::vector<float> values = host_floats(tape, x);
  double sum = 0, squares = 0;
  for (const float v : values) sum += double(v);
  const double mean = sum / double(values.size());
  for (const float v : values) squares += (double(v) - mean) * (double(v) - mean);
  const double alpha = double(spec_.calibrate) / std::sqrt(squares / double(values.size()));
  if (std::isfinite(alpha)) parameters_->set_values(*alpha_, {alpha});
}

Tensor Norm::forward(Tape& tape, const Tensor& x) const {
  if (spec_.unfused && is_bf16_on_cpu(tape, x)) {
    return narrowed(tape, forward(tape, widened(tape, x)));
  }
  if (spec_.unfused) {
    return unfused_norm(tape, x, spec_.kind, {weight_, bias_, alpha_}, spec_.epsilon);
  }
  switch (spec_.kind) {
    case NormKind::none:
      return x;
    case NormKind::layernorm:
      return layernorm(tape, x, weight_, bias_, spec_.epsilon);
    case NormKind::rmsnorm:
      return rmsnorm(tape, x, weight_, spec_.epsilon);
    case NormKind::groupnorm:
      return groupnorm(tape, x, spec_.groups, weight_, bias_, spec_.epsilon);
    case NormKind::batchnorm:
      return batch_normalized(tape, x, false);
    default:
      return dyt(tape, x, {.alpha = alpha_, .shift = shift_, .gamma = weight_, .beta = bias_},
                 squash_of(spec_.kind));
  }
}

}  // namespace dyt
