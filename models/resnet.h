// ResNet, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), with the parameter
// names of timm and torchvision.
#pragma once
#include <string>
#include <vector>

#include "layers/norm.h"

namespace dyt {

struct ResNetConfig {
  int image_size = 224;
  int channels = 3;
  int classes = 1000;
  bool large_stem = true;  // 7 x 7 of stride 2 and a 3 x 3 maximum; false: 3 x 3 (CIFAR)
  int stem_width = 64;
  bool bottleneck = false;  // blocks of 1 x 1, 3 x 3, 1 x 1 to 4 times the width, not two 3 x 3
  std::vector<int> depths = {2, 2, 2,
                             2};  // blocks of each stage; all but the first start by halving
  std::vector<int> widths = {64, 128, 256, 512};
  float drop_path = 0;  // stochastic depth of the last block; falls linearly to 0 at the first
  NormSpec norm = {.kind = NormKind::batchnorm};
};

// At 224: "resnet18", "resnet34", "resnet50", "resnet101"; at 32 with 10 classes: "resnet20" and
// "resnet56" (section 4.2, but with a 1 x 1 convolution and a norm where a shortcut changes shape).
// Error listing them for any other name.
ResNetConfig resnet_preset(const std::string& name);
const std::vector<std::string>& resnet_presets();

class ResNet {
 public:
  // Declares the parameters; Error if the configuration can't be.
  ResNet(const ResNetConfig& config, Parameters& parameters);
  // images (B, H, W, 3), normalised; returns logits (B, classes).
  Tensor forward(Tape& tape, const Tensor& images) const;
  const ResNetConfig& config() const { return config_; }

 private:
  struct ConvNorm {
    const Parameter* weight = nullptr;
    Norm norm;
    int stride, padding;
    Tensor operator()(Tape& tape, const Tensor& x) const;
    Tensor then_relu(Tape& tape, const Tensor& x) const;
  };
  struct Block {
    std::vector<ConvNorm> branch;  // two or three, a ReLU between them
    ConvNorm shortcut;             // no weight: the block's input as it is
    float drop_path;
  };
  Block make_block(const std::string& name, int64_t in, int64_t width, int stride, float drop_path,
                   Parameters& parameters) const;
  Tensor block_forward(Tape& tape, const Block& block, const Tensor& x) const;

  ResNetConfig config_;
  ConvNorm stem_;
  std::vector<Block> blocks_;
  const Parameter *head_weight_, *head_bias_;
};

}  // namespace dyt
