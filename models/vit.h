// The Vision Transformer (arXiv 2010.11929), with timm's parameter names.
#pragma once
#include <string>
#include <vector>

#include "layers/norm.h"

namespace dyt {

enum class Pool { mean, class_token };

struct ViTConfig {
  int image_size = 32;
  int patch_size = 4;
  int channels = 3;
  int classes = 10;
  int width = 128;
  int depth = 5;
  int heads = 4;
  float mlp_ratio = 4;
  bool class_token = false;
  Pool pool = Pool::mean;  // mean: over the patches, then `fc_norm`; class_token: `norm`, then it
  float drop_path = 0;     // stochastic depth of the last block; falls linearly to 0 at the first
  NormSpec norm = {};

  int tokens() const { return image_size / patch_size * (image_size / patch_size) + class_token; }
};

// "vit_micro" (1 M parameters, 32 x 32), "vit_ti4" (ViT-Ti with 4 x 4 patches, 32 x 32), and at
// 224: "vit_ti16", "vit_s16", "vit_b16", "vit_l16". Error listing them for any other name.
ViTConfig vit_preset(const std::string& name);
const std::vector<std::string>& vit_presets();

class ViT {
 public:
  // Declares the parameters; Error if the configuration can't be (heads that don't divide ...).
  ViT(const ViTConfig& config, Parameters& parameters);
  // images (B, H, W, 3), normalised; returns logits (B, classes).
  Tensor forward(Tape& tape, const Tensor& images) const;
  const ViTConfig& config() const { return config_; }

 private:
  struct Block {
    Norm norm1, norm2;
    const Parameter *qkv_weight, *qkv_bias, *proj_weight, *proj_bias;
    const Parameter *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias;
    float drop_path;
  };
  Tensor attention_branch(Tape& tape, const Block& block, const Tensor& x,
                          const Tensor* residual) const;
  Tensor mlp_branch(Tape& tape, const Block& block, const Tensor& x, const Tensor* residual) const;
  Tensor block_forward(Tape& tape, const Block& block, const Tensor& x) const;

  ViTConfig config_;
  const Parameter *patch_weight_, *patch_bias_, *class_token_ = nullptr, *position_;
  std::vector<Block> blocks_;
  Norm norm_;  // before the pooled vector is classified
  const Parameter *head_weight_, *head_bias_;
};

}  // namespace dyt
