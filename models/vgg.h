// VGG, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (arXiv 1409.1556), with
// norms, and with timm's parameter names.
#pragma once
#include <string>
#include <vector>

#include "layers/norm.h"

namespace dyt {

struct VGGConfig {
  int image_size = 224;
  int channels = 3;
  int classes = 1000;
  // Widths of the 3 x 3 convolutions; 0: a 2 x 2 maximum of stride 2. The default is VGG-11.
  std::vector<int> features = {64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0};
  // The two wide layers before the classifier, of which the first sees 7 x 7 pixels. 0: there are
  // none, and the classifier takes the mean over the last pixels.
  int hidden = 4096;
  NormSpec norm = {.kind = NormKind::batchnorm};  // kind none: timm's names without "_bn"
};

// At 224: "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"; at 32 with 10 classes and one linear
// layer behind the convolutions: the same names with "_cifar" behind. Error listing them for any
// other name.
VGGConfig vgg_preset(const std::string& name);
const std::vector<std::string>& vgg_presets();

class VGG {
 public:
  // Declares the parameters; Error if the configuration can't be.
  VGG(const VGGConfig& config, Parameters& parameters);
  // images (B, H, W, 3), normalised; returns logits (B, classes).
  Tensor forward(Tape& tape, const Tensor& images) const;
  const VGGConfig& config() const { return config_; }

 private:
  struct Layer {
    const Parameter *weight = nullptr, *bias = nullptr;  // null: a maximum
    Norm norm;
  };
  VGGConfig config_;
  std::vector<Layer> features_;
  const Parameter *fc1_weight_ = nullptr, *fc1_bias_, *fc2_weight_, *fc2_bias_;
  const Parameter *head_weight_, *head_bias_;
};

}  // namespace dyt
