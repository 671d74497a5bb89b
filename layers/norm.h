// A norm is a value, not a fork: every model takes a NormSpec and never asks what is in it.
#pragma once
#include <string>
#include <vector>

#include "layers/layers.h"

namespace dyt {

enum class NormKind {
  // By statistics of the activations.
  layernorm,
  rmsnorm,
  batchnorm,
  groupnorm,
  // Element by element: Dynamic Tanh's family.
  dyt,
  derf,
  hardtanh,
  sigmoid,
  isru,
  identity,
  shifted_tanh,
  arcsinh,
  deadzone,
  bump,
  none
};
enum class Placement { pre, post };  // x + f(norm(x)), or norm(x + f(x)): arXiv 2002.04745

struct NormSpec {
  NormKind kind = NormKind::layernorm;
  Placement placement = Placement::pre;
  float epsilon = 0;        // 0: 1e-5 for batchnorm and groupnorm, 1e-6 for layernorm and rmsnorm
  float alpha0 = 0.5f;      // of the DyT family: where alpha starts
  float calibrate = 0;      // above 0: alpha starts at calibrate / std of the norm's first input
  bool learn_alpha = true;  // false: alpha stays 1 and is no parameter (the paper's table 9)
  bool bias = true;         // false: no beta, as language models in LLaMA's style
  int groups = 32;          // of groupnorm, at most: the largest number that divides the channels
  bool frozen = false;      // batchnorm: training, too, takes the running statistics as they are
  bool unfused = false;     // layernorm, rmsnorm, dyt: the naive version of layers/unfused.h
};

// `calibrate` of --alpha0 auto: alpha x has this standard deviation at every norm when training
// begins, as a norm's output would have. Experiment 11 derives it and sets it against sweeps.
constexpr float auto_calibration = 1.0f;

bool has_statistics(NormKind kind);  // it looks at more than one number at a time
bool has_alpha(NormKind kind);       // Dynamic Tanh's family

const char* name_of(NormKind kind);
NormKind parse_norm(const std::string& name);  // Error listing the names there are
const std::vector<std::string>& norm_names();  // what parse_norm accepts
const char* name_of(Placement placement);
Placement parse_placement(const std::string& name);

// A norm in a model: `name`.weight, `name`.bias (C), and `name`.alpha (1) where the kind has one,
// of batchnorm the buffers `name`.running_mean, .running_var (C) and .num_batches_tracked (1).
// Rmsnorm has no bias. Kind none has no parameters and passes x through.
class Norm {
 public:
  Norm() = default;
  // weight0: where the weight starts, e.g. 0 for the last norm of a residual branch.
  Norm(Parameters& parameters, const std::string& name, int64_t channels, const NormSpec& spec,
       float weight0 = 1);
  // x (..., C); groupnorm: (B, ..., C). If the tape is calibrating and the norm is to be
  // calibrated, sets alpha by x first; x with no spread leaves it at alpha0.
  Tensor operator()(Tape& tape, const Tensor& x) const;
  // relu(norm(x)): of batchnorm in one pass, unless the tape has an observer, who sees the norm.
  Tensor then_relu(Tape& tape, const Tensor& x) const;

 private:
  Tensor forward(Tape& tape, const Tensor& x) const;
  Tensor batch_normalized(Tape& tape, const Tensor& x, bool relu) const;
  void calibrate(Tape& tape, const Tensor& x) const;

  std::string name_;
  Parameters* parameters_ = nullptr;
  NormSpec spec_;  // with the epsilon and the groups that it takes
  const Parameter *weight_ = nullptr, *bias_ = nullptr, *alpha_ = nullptr, *shift_ = nullptr;
  const ModelBuffer *running_mean_ = nullptr, *running_var_ = nullptr, *batches_ = nullptr;
};

}  // namespace dyt
