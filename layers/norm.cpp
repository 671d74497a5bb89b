#include "layers/norm.h"

namespace dyt {
namespace {

struct Name {
  NormKind kind;
  const char* name;
};
constexpr Name names[] = {
    {NormKind::layernorm, "layernorm"}, {NormKind::dyt, "dyt"},
    {NormKind::derf, "derf"},           {NormKind::hardtanh, "hardtanh"},
    {NormKind::sigmoid, "sigmoid"},     {NormKind::isru, "isru"},
    {NormKind::identity, "identity"},   {NormKind::none, "none"}};

Squash squash_of(NormKind kind) {
  switch (kind) {
    case NormKind::derf: return Squash::erf;
    case NormKind::hardtanh: return Squash::hardtanh;
    case NormKind::sigmoid: return Squash::sigmoid;
    case NormKind::isru: return Squash::isru;
    case NormKind::identity: return Squash::identity;
    default: return Squash::tanh;
  }
}

}  // namespace

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

Norm::Norm(Parameters& parameters, const std::string& name, int64_t channels, const NormSpec& spec)
    : spec_(spec) {
  if (spec.kind == NormKind::none) return;
  if (spec.kind != NormKind::layernorm) {
    require(!spec.learn_alpha || spec.alpha0 > 0, "alpha0 must be positive, not ", spec.alpha0);
    if (spec.learn_alpha) alpha_ = &parameters.add(name + ".alpha", {1}, Init::fill(spec.alpha0));
    if (spec.kind == NormKind::derf) {
      shift_ = &parameters.add(name + ".shift", {1}, Init::zeros());
    }
  }
  weight_ = &parameters.add(name + ".weight", {channels}, Init::ones());
  if (spec.bias) bias_ = &parameters.add(name + ".bias", {channels}, Init::zeros());
}

Tensor Norm::operator()(Tape& tape, const Tensor& x) const {
  if (spec_.kind == NormKind::none) return x;
  if (spec_.kind == NormKind::layernorm) return layernorm(tape, x, weight_, bias_, spec_.epsilon);
  return dyt(tape, x, {.alpha = alpha_, .shift = shift_, .gamma = weight_, .beta = bias_},
             squash_of(spec_.kind));
}

}  // namespace dyt
