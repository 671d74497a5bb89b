#include "models/convnext.h"

#include <numeric>

#include "layers/activations_bf16.h"
#include "layers/convolutions.h"
#include "layers/mlp.h"
#include "models/presets.h"

namespace dyt {
namespace {

const Init weight = Init::truncated(0.02), zeros = Init::zeros();

void check(const ConvNeXtConfig& c) {
  for (int i = 0; i < 4; ++i) {
    require(c.widths[i] > 0 && c.depths[i] > 0,
            "a ConvNeXt's stages need a positive width and depth; stage ", i, " has ", c.widths[i],
            " and ", c.depths[i]);
  }
  require(c.classes > 0 && c.channels > 0, "a ConvNeXt needs a positive number of classes (",
          c.classes, ") and of channels (", c.channels, ")");
  const int reduction = c.patch_size * (c.first_halves ? 16 : 8);
  require(c.patch_size > 0 && c.image_size >= reduction, "a ConvNeXt with patches of ",
          c.patch_size, " needs images of at least ", reduction, " pixels, not ", c.image_size);
  require(c.drop_path >= 0 && c.drop_path < 1, "drop path must be in [0, 1), not ", c.drop_path);
}

}  // namespace

ConvNeXt::ConvNeXt(const ConvNeXtConfig& c, Parameters& parameters) : config_(c) {
  check(c);
  const int64_t P = c.patch_size;
  stem_weight_ = &parameters.add("stem.0.weight", {c.widths[0], c.channels, P, P}, weight);
  stem_bias_ = &parameters.add("stem.0.bias", {c.widths[0]}, zeros);
  stem_norm_ = Norm(parameters, "stem.1", c.widths[0], c.norm);
  const int blocks = std::accumulate(c.depths.begin(), c.depths.end(), 0);
  for (int i = 0; i < 4; ++i) {
    add_stage(i, blocks > 1 ? c.drop_path / float(blocks - 1) : 0, parameters);
  }
  norm_ = Norm(parameters, "head.norm", c.widths[3], c.norm);
  head_weight_ = &parameters.add("head.fc.weight", {c.classes, c.widths[3]}, weight);
  head_bias_ = &parameters.add("head.fc.bias", {c.classes}, zeros);
}

void ConvNeXt::add_stage(int i, float drop_path_step, Parameters& parameters) {
  const std::string name = "stages." + std::to_string(i) + ".";
  const int64_t C = config_.widths[i], before = config_.widths[i > 0 ? i - 1 : 0];
  const int earlier = std::accumulate(config_.depths.begin(), config_.depths.begin() + i, 0);
  Stage& stage = stages_.emplace_back();
  if (i > 0 || config_.first_halves) {
    stage.norm = Norm(parameters, name + "downsample.0", before, config_.norm);
    stage.halve_weight = &parameters.add(name + "downsample.1.weight", {C, before, 2, 2}, weight);
    stage.halve_bias = &parameters.add(name + "downsample.1.bias", {C}, zeros);
  }
  for (int j = 0; j < config_.depths[i]; ++j) {
    const std::string block = name + "blocks." + std::to_string(j) + ".";
    Block& b = stage.blocks.emplace_back();
    if (config_.layer_scale != 0) {
      b.gamma = &parameters.add(block + "gamma", {C}, Init::fill(config_.layer_scale));
    }
    b.conv_weight = &parameters.add(block + "conv_dw.weight", {C, 1, 7, 7}, weight);
    b.conv_bias = &parameters.add(block + "conv_dw.bias", {C}, zeros);
    b.norm = Norm(parameters, block + "norm", C, config_.norm);
    b.fc1_weight = &parameters.add(block + "mlp.fc1.weight", {4 * C, C}, weight);
    b.fc1_bias = &parameters.add(block + "mlp.fc1.bias", {4 * C}, zeros);
    b.fc2_weight = &parameters.add(block + "mlp.fc2.weight", {C, 4 * C}, weight);
    b.fc2_bias = &parameters.add(block + "mlp.fc2.bias", {C}, zeros);
    b.drop_path = drop_path_step * float(earlier + j);
  }
}

Tensor ConvNeXt::block_forward(Tape& tape, const Block& b, const Tensor& x) const {
  const bool drops = b.drop_path > 0 && tape.training;
  Tensor y = depthwise_conv(tape, x, *b.conv_weight, b.conv_bias);
  y = b.norm(tape, y);
  // The residual is added by whatever op comes last.
  y = mlp(tape, y, {b.fc1_weight, b.fc1_bias, b.fc2_weight, b.fc2_bias}, Gelu::erf,
          !b.gamma && !drops ? &x : nullptr);
  if (b.gamma) y = layer_scale(tape, y, *b.gamma, !drops ? &x : nullptr);
  return drops ? residual_add(tape, x, y, b.drop_path) : y;
}

Tensor ConvNeXt::forward(Tape& tape, const Tensor& images) const {
  Tensor x =
      conv(tape, as_activations(tape, images), *stem_weight_, stem_bias_, config_.patch_size);
  x = stem_norm_(tape, x);
  for (const Stage& stage : stages_) {
    if (stage.halve_weight) {
      x = conv(tape, stage.norm(tape, x), *stage.halve_weight, stage.halve_bias, 2);
    }
    for (const Block& block : stage.blocks) x = block_forward(tape, block, x);
  }
  x = norm_(tape, global_average_pool(tape, x));
  return linear(tape, x, *head_weight_, head_bias_);
}

namespace {

const std::vector<Preset<ConvNeXtConfig>>& presets() {
  const auto sizes = [](int width, std::array<int, 4> depths) {
    return ConvNeXtConfig{.depths = depths,
                          .widths = {width, 2 * width, 4 * width, 8 * width},
                          .conv_mlp = width < 96};  // up to Nano
  };
  static const std::vector<Preset<ConvNeXtConfig>> all = {
      {"convnext_atto_cifar",
       {.image_size = 32,
        .patch_size = 2,
        .classes = 10,
        .depths = {2, 2, 6, 2},
        .widths = {40, 80, 160, 320},
        .conv_mlp = true}},
      {"convnext_atto", sizes(40, {2, 2, 6, 2})},
      {"convnext_femto", sizes(48, {2, 2, 6, 2})},
      {"convnext_pico", sizes(64, {2, 2, 6, 2})},
      {"convnext_nano", sizes(80, {2, 2, 8, 2})},
      {"convnext_tiny", sizes(96, {3, 3, 9, 3})},
      {"convnext_small", sizes(96, {3, 3, 27, 3})},
      {"convnext_base", sizes(128, {3, 3, 27, 3})},
      {"convnext_large", sizes(192, {3, 3, 27, 3})},
  };
  return all;
}

}  // namespace

const std::vector<std::string>& convnext_presets() {
  static const std::vector<std::string> names = names_of(presets());
  return names;
}

ConvNeXtConfig convnext_preset(const std::string& name) { return find_preset(presets(), name); }

}  // namespace dyt
