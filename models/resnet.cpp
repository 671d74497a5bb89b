#include "models/resnet.h"

#include <cmath>
#include <numeric>

#include "layers/activations_bf16.h"
#include "layers/convolutions.h"
#include "models/presets.h"

namespace dyt {
namespace {

void check(const ResNetConfig& c) {
  require(!c.depths.empty() && c.depths.size() == c.widths.size(),
          "a ResNet needs a depth and a width for each stage, not ", c.depths.size(), " and ",
          c.widths.size());
  for (size_t i = 0; i < c.depths.size(); ++i) {
    require(c.widths[i] > 0 && c.depths[i] > 0,
            "a ResNet's stages need a positive width and depth; stage ", i + 1, " has ",
            c.widths[i], " and ", c.depths[i]);
  }
  require(c.classes > 0 && c.channels > 0 && c.stem_width > 0 && c.image_size > 0,
          "a ResNet needs a positive number of classes (", c.classes, ") and of channels (",
          c.channels, "), stem width (", c.stem_width, ") and image size (", c.image_size, ")");
  require(c.drop_path >= 0 && c.drop_path < 1, "drop path must be in [0, 1), not ", c.drop_path);
}

}  // namespace

ResNet::ResNet(const ResNetConfig& c, Parameters& parameters) : config_(c) {
  check(c);
  const int stem = c.large_stem ? 7 : 3;
  const Init conv = Init::gaussian(std::sqrt(2.0 / double(c.stem_width * stem * stem)));
  stem_.weight = &parameters.add("conv1.weight", {c.stem_width, c.channels, stem, stem}, conv);
  stem_.norm = Norm(parameters, "bn1", c.stem_width, c.norm);
  stem_.stride = c.large_stem ? 2 : 1;
  stem_.padding = stem / 2;
  const int blocks = std::accumulate(c.depths.begin(), c.depths.end(), 0);
  int64_t in = c.stem_width;
  for (size_t i = 0; i < c.depths.size(); ++i) {
    for (int j = 0; j < c.depths[i]; ++j) {
      const std::string name = "layer" + std::to_string(i + 1) + "." + std::to_string(j) + ".";
      const int earlier = int(blocks_.size());
      blocks_.push_back(make_block(
          name, in, c.widths[i], i > 0 && j == 0 ? 2 : 1,
          blocks > 1 ? c.drop_path * float(earlier) / float(blocks - 1) : 0, parameters));
      in = c.widths[i] * (c.bottleneck ? 4 : 1);
    }
  }
  const Init head = Init::uniform(1 / std::sqrt(double(in)));  // PyTorch's
  head_weight_ = &parameters.add("fc.weight", {c.classes, in}, head);
  head_bias_ = &parameters.add("fc.bias", {c.classes}, head);
}

ResNet::Block ResNet::make_block(const std::string& name, int64_t in, int64_t width, int stride,
                                 float drop_path, Parameters& parameters) const {
  // Gaussian weights that keep the size of gradients (He et al., arXiv 1502.01852). The last norm
  // of a branch starts at 0, so that every block starts as its shortcut (arXiv 1706.02677,
  // section 5.1).
  const auto conv_norm = [&](const std::string& conv, const std::string& norm, int64_t from,
                             int64_t to, int K, int s, float weight0) {
    ConvNorm layer;
    layer.weight = &parameters.add(name + conv + ".weight", {to, from, K, K},
                                   Init::gaussian(std::sqrt(2.0 / double(to * K * K))));
    layer.norm = Norm(parameters, name + norm, to, config_.norm, weight0);
    layer.stride = s;
    layer.padding = K / 2;
    return layer;
  };
  Block b;
  const int64_t out = width * (config_.bottleneck ? 4 : 1);
  if (config_.bottleneck) {
    b.branch.push_back(conv_norm("conv1", "bn1", in, width, 1, 1, 1));
    b.branch.push_back(conv_norm("conv2", "bn2", width, width, 3, stride, 1));
    b.branch.push_back(conv_norm("conv3", "bn3", width, out, 1, 1, 0));
  } else {
    b.branch.push_back(conv_norm("conv1", "bn1", in, width, 3, stride, 1));
    b.branch.push_back(conv_norm("conv2", "bn2", width, out, 3, 1, 0));
  }
  if (stride != 1 || in != out) {
    b.shortcut = conv_norm("downsample.0", "downsample.1", in, out, 1, stride, 1);
  }
  b.drop_path = drop_path;
  return b;
}

Tensor ResNet::ConvNorm::operator()(Tape& tape, const Tensor& x) const {
  return norm(tape, conv(tape, x, *weight, nullptr, stride, padding));
}

Tensor ResNet::ConvNorm::then_relu(Tape& tape, const Tensor& x) const {
  return norm.then_relu(tape, conv(tape, x, *weight, nullptr, stride, padding));
}

Tensor ResNet::block_forward(Tape& tape, const Block& b, const Tensor& x) const {
  Tensor y = x;
  for (size_t i = 0; i + 1 < b.branch.size(); ++i) y = b.branch[i].then_relu(tape, y);
  y = b.branch.back()(tape, y);
  const Tensor shortcut = b.shortcut.weight ? b.shortcut(tape, x) : x;
  if (b.drop_path > 0 && tape.training) {
    return relu(tape, residual_add(tape, shortcut, y, b.drop_path));
  }
  return relu(tape, y, &shortcut);
}

Tensor ResNet::forward(Tape& tape, const Tensor& images) const {
  Tensor x = stem_.then_relu(tape, as_activations(tape, images));
  if (config_.large_stem) x = max_pool(tape, x, 3, 2, 1);
  for (const Block& block : blocks_) x = block_forward(tape, block, x);
  return linear(tape, global_average_pool(tape, x), *head_weight_, head_bias_);
}

namespace {

const std::vector<Preset<ResNetConfig>>& presets() {
  const auto cifar = [](int depth) {
    return ResNetConfig{.image_size = 32,
                        .classes = 10,
                        .large_stem = false,
                        .stem_width = 16,
                        .depths = {depth, depth, depth},
                        .widths = {16, 32, 64}};
  };
  static const std::vector<Preset<ResNetConfig>> all = {
      {"resnet20", cifar(3)},
      {"resnet56", cifar(9)},
      {"resnet18", {.depths = {2, 2, 2, 2}}},
      {"resnet34", {.depths = {3, 4, 6, 3}}},
      {"resnet50", {.bottleneck = true, .depths = {3, 4, 6, 3}}},
      {"resnet101", {.bottleneck = true, .depths = {3, 4, 23, 3}}},
  };
  return all;
}

}  // namespace

const std::vector<std::string>& resnet_presets() {
  static const std::vector<std::string> names = names_of(presets());
  return names;
}

ResNetConfig resnet_preset(const std::string& name) { return find_preset(presets(), name); }

}  // namespace dyt
