#include "models/vgg.h"

#include <algorithm>
#include <cmath>

#include "layers/activations_bf16.h"
#include "layers/convolutions.h"
#include "models/presets.h"

namespace dyt {
namespace {

// Gaussian weights (Cout, Cin, K, K) that keep the size of gradients (He et al., arXiv 1502.01852).
Init he(int64_t Cout, int64_t K) { return Init::gaussian(std::sqrt(2.0 / double(Cout * K * K))); }

void check(const VGGConfig& c) {
  require(!c.features.empty() && c.features[0] > 0, "a VGG starts with a convolution");
  for (int width : c.features) require(width >= 0, "a VGG's width can't be ", width);
  require(c.classes > 0 && c.channels > 0 && c.hidden >= 0,
          "a VGG needs a positive number of classes (", c.classes, ") and of channels (",
          c.channels, "), and no negative hidden width (", c.hidden, ")");
  int size = c.image_size;
  for (int width : c.features) size = width == 0 ? size / 2 : size;
  const int least = c.hidden > 0 ? 7 : 1;
  require(size >= least, "a VGG of images of ", c.image_size, " pixels has ", size, " left, of ",
          least, " that its head needs; take larger images",
          c.hidden > 0 ? " or a _cifar preset" : "");
}

}  // namespace

VGG::VGG(const VGGConfig& c, Parameters& parameters) : config_(c) {
  check(c);
  int64_t in = c.channels;
  int index = 0;  // of timm's list of convolutions, norms, ReLUs and maxima
  for (int width : c.features) {
    Layer& layer = features_.emplace_back();
    if (width == 0) {
      ++index;
      continue;
    }
    const auto name = [&] { return "features." + std::to_string(index++); };
    const std::string conv = name();
    layer.weight = &parameters.add(conv + ".weight", {width, in, 3, 3}, he(width, 3));
    layer.bias = &parameters.add(conv + ".bias", {width}, Init::zeros());
    if (c.norm.kind != NormKind::none)
      layer.norm = Norm(parameters, name(), width, c.norm);
    else
      layer.norm = Norm(parameters, conv, width, c.norm);  // no parameters; a name to observe
    ++index;                                               // the ReLU
    in = width;
  }
  if (c.hidden > 0) {
    const int64_t n = c.hidden;
    fc1_weight_ = &parameters.add("pre_logits.fc1.weight", {n, in, 7, 7}, he(n, 7));
    fc1_bias_ = &parameters.add("pre_logits.fc1.bias", {n}, Init::zeros());
    fc2_weight_ = &parameters.add("pre_logits.fc2.weight", {n, n, 1, 1}, he(n, 1));
    fc2_bias_ = &parameters.add("pre_logits.fc2.bias", {n}, Init::zeros());
    in = n;
  }
  head_weight_ = &parameters.add("head.fc.weight", {c.classes, in}, Init::gaussian(0.01));
  head_bias_ = &parameters.add("head.fc.bias", {c.classes}, Init::zeros());
}

Tensor VGG::forward(Tape& tape, const Tensor& images) const {
  Tensor x = as_activations(tape, images);
  for (const Layer& layer : features_) {
    if (layer.weight) {
      x = layer.norm.then_relu(tape, conv(tape, x, *layer.weight, layer.bias, 1, 1));
    } else {
      x = max_pool(tape, x, 2, 2);
    }
  }
  if (fc1_weight_) {
    x = relu(tape, conv(tape, x, *fc1_weight_, fc1_bias_));
    x = relu(tape, conv(tape, x, *fc2_weight_, fc2_bias_));
  }
  return linear(tape, global_average_pool(tape, x), *head_weight_, head_bias_);
}

namespace {

const std::vector<Preset<VGGConfig>>& presets() {
  static const std::vector<Preset<VGGConfig>> all = [] {
    std::vector<Preset<VGGConfig>> list;
    for (bool cifar : {true, false}) {
      for (int layers : {11, 13, 16, 19}) {
        // Convolutions of each stage; the numbers of layers count the three of the head.
        const int first = layers == 11 ? 1 : 2, last = layers == 16 ? 3 : layers == 19 ? 4 : 2;
        VGGConfig c;
        c.features.clear();
        for (int stage = 0; stage < 5; ++stage) {
          c.features.insert(c.features.end(), size_t(stage < 2 ? first : last),
                            std::min(64 << stage, 512));
          c.features.push_back(0);
        }
        if (cifar) c.image_size = 32, c.classes = 10, c.hidden = 0;
        list.push_back({"vgg" + std::to_string(layers) + "_bn" + (cifar ? "_cifar" : ""), c});
      }
    }
    return list;
  }();
  return all;
}

}  // namespace

const std::vector<std::string>& vgg_presets() {
  static const std::vector<std::string> names = names_of(presets());
  return names;
}

VGGConfig vgg_preset(const std::string& name) { return find_preset(presets(), name); }

}  // namespace dyt
