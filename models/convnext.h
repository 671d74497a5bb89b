// ConvNeXt, "A ConvNet for the 2020s" (arXiv 2201.03545), with timm's parameter names.
//
// timm builds its Atto to Nano with 1 x 1 convolutions in the blocks (conv_mlp=True), whose weights
// are ours with two dimensions of 1 behind them, (4 C, C, 1, 1). Files have them so:
// models/weights.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "layers/norm.h"

namespace dyt {

struct ConvNeXtConfig {
  int image_size = 224;
  int patch_size = 4;  // of the stem, a convolution with as large a stride
  int channels = 3;
  int classes = 1000;
  std::array<int, 4> depths = {3, 3, 9, 3};  // blocks of each stage
  std::array<int, 4> widths = {96, 192, 384, 768};
  // Whether the first stage, too, starts by halving the image. timm does so behind a stem of 2, so
  // that a network's stages work at 1/4, 1/8, 1/16 and 1/32 of the image with either stem.
  bool first_halves = patch_size == 2;
  bool conv_mlp = false;      // timm's: see above
  float layer_scale = 1e-6f;  // where gamma starts; 0: no layer scale
  float drop_path = 0;  // stochastic depth of the last block; falls linearly to 0 at the first
  NormSpec norm = {};
};

// At 224: "convnext_atto", "_femto", "_pico", "_nano", "_tiny", "_small", "_base", "_large"; at 32
// and with 10 classes: "convnext_atto_cifar", whose stem has patches of 2. Error listing them for
// any other name.
ConvNeXtConfig convnext_preset(const std::string& name);
const std::vector<std::string>& convnext_presets();

class ConvNeXt {
 public:
  // Declares the parameters; Error if the configuration can't be.
  ConvNeXt(const ConvNeXtConfig& config, Parameters& parameters);
  // images (B, H, W, 3), normalised; returns logits (B, classes).
  Tensor forward(Tape& tape, const Tensor& images) const;
  const ConvNeXtConfig& config() const { return config_; }

 private:
  struct Block {
    const Parameter *conv_weight, *conv_bias;
    Norm norm;
    const Parameter *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias;
    const Parameter* gamma = nullptr;
    float drop_path;
  };
  struct Stage {
    Norm norm;                                                       // before halving
    const Parameter *halve_weight = nullptr, *halve_bias = nullptr;  // null: the stage doesn't
    std::vector<Block> blocks;
  };
  void add_stage(int i, float drop_path_step, Parameters& parameters);
  Tensor block_forward(Tape& tape, const Block& block, const Tensor& x) const;

  ConvNeXtConfig config_;
  const Parameter *stem_weight_, *stem_bias_;
  Norm stem_norm_;
  std::vector<Stage> stages_;
  Norm norm_;  // of the pooled vector
  const Parameter *head_weight_, *head_bias_;
};

}  // namespace dyt
