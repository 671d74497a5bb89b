// A norm is a value, not a fork: every model takes a NormSpec and never asks what is in it.
#pragma once
#include <string>
#include <vector>

#include "layers/layers.h"

namespace dyt {

enum class NormKind { layernorm, dyt, derf, hardtanh, sigmoid, isru, identity, none };
enum class Placement { pre, post };  // x + f(norm(x)), or norm(x + f(x)): arXiv 2002.04745

struct NormSpec {
  NormKind kind = NormKind::layernorm;
  Placement placement = Placement::pre;
  float epsilon = 1e-6f;      // of layernorm
  float alpha0 = 0.5f;        // of the DyT family: where alpha starts
  bool learn_alpha = true;    // false: alpha stays 1 and is no parameter (the paper's table 9)
  bool bias = true;           // false: no beta, as language models in LLaMA's style
};

const char* name_of(NormKind kind);
NormKind parse_norm(const std::string& name);    // Error listing the names there are
const std::vector<std::string>& norm_names();    // what parse_norm accepts
const char* name_of(Placement placement);
Placement parse_placement(const std::string& name);

// A norm in a model: `name`.weight, `name`.bias (C), and `name`.alpha (1) where the kind has one.
// Kind none has no parameters and passes x through.
class Norm {
 public:
  Norm() = default;
  Norm(Parameters& parameters, const std::string& name, int64_t channels, const NormSpec& spec);
  Tensor operator()(Tape& tape, const Tensor& x) const;

 private:
  NormSpec spec_;
  const Parameter *weight_ = nullptr, *bias_ = nullptr, *alpha_ = nullptr, *shift_ = nullptr;
};

}  // namespace dyt
