// Read `forward` first, then `block_forward` and the branches: that is the page. Scalars,
// first_init, last_init and `spectral` serve NormFree (vit.h, experiment 13); a ViT with norms has
// none of them.
#include "models/vit.h"

#include <cmath>

#include "layers/mlp.h"
#include "models/presets.h"

namespace dyt {

ViT::ViT(const ViTConfig& c, Parameters& parameters) : config_(c) {
  require(c.width > 0 && c.depth > 0 && c.heads > 0 && c.classes > 0 && c.channels > 0,
          "a ViT needs a positive width (", c.width, "), depth (", c.depth, "), number of heads (",
          c.heads, ") and of classes (", c.classes, ")");
  require(c.width % c.heads == 0, "heads (", c.heads, ") must divide the width (", c.width, ")");
  require(c.patch_size > 0 && c.image_size > 0 && c.image_size % c.patch_size == 0,
          "the patch size (", c.patch_size, ") must divide the image size (", c.image_size, ")");
  require(c.pool == Pool::mean || c.class_token, "pooling by class token needs a class token");
  require(c.drop_path >= 0 && c.drop_path < 1, "drop path must be in [0, 1), not ", c.drop_path);
  require(c.norm_free == NormFree::no || c.norm.kind == NormKind::none,
          "Fixup, SkipInit and sigmaReparam take the place of norms: the norm must be none, not ",
          name_of(c.norm.kind));

  const int64_t C = c.width, P = c.patch_size, hidden = int64_t(float(c.width) * c.mlp_ratio);
  // Truncated at two standard deviations, which leaves a standard deviation of 0.0176. (timm's
  // trunc_normal_ of the same 0.02 cuts at the number 2, so not at all.)
  const Init weight = Init::truncated(0.02), zeros = Init::zeros();
  const bool spectral = c.norm_free == NormFree::sigma_reparam;
  const Init convolution = Init::uniform(1 / std::sqrt(double(c.channels * P * P)));  // PyTorch's
  if (c.class_token) {
    class_token_ = &parameters.add("cls_token", {1, 1, C}, Init::gaussian(1e-6), false);
  }
  position_ = &parameters.add("pos_embed", {1, c.tokens(), C}, weight, false);
  patch_weight_ =
      Weight(parameters, "patch_embed.proj.weight", {C, c.channels, P, P}, convolution, spectral);
  patch_bias_ = &parameters.add("patch_embed.proj.bias", {C}, convolution);
  for (int i = 0; i < c.depth; ++i) {
    const std::string name = "blocks." + std::to_string(i) + ".";
    Block& b = blocks_.emplace_back();
    b.norm1 = Norm(parameters, name + "norm1", C, c.norm);
    b.qkv_weight =
        Weight(parameters, name + "attn.qkv.weight", {3 * C, C}, first_init(4), spectral);
    b.qkv_bias = &parameters.add(name + "attn.qkv.bias", {3 * C}, zeros);
    b.proj_weight = Weight(parameters, name + "attn.proj.weight", {C, C}, last_init(), spectral);
    b.proj_bias = &parameters.add(name + "attn.proj.bias", {C}, zeros);
    b.norm2 = Norm(parameters, name + "norm2", C, c.norm);
    b.fc1_weight =
        Weight(parameters, name + "mlp.fc1.weight", {hidden, C}, first_init(2), spectral);
    b.fc1_bias = &parameters.add(name + "mlp.fc1.bias", {hidden}, zeros);
    b.fc2_weight = Weight(parameters, name + "mlp.fc2.weight", {C, hidden}, last_init(), spectral);
    b.fc2_bias = &parameters.add(name + "mlp.fc2.bias", {C}, zeros);
    b.attention = add_scalars(parameters, name + "attn.");
    b.mlp = add_scalars(parameters, name + "mlp.");
    b.drop_path = c.depth > 1 ? c.drop_path * float(i) / float(c.depth - 1) : 0;
  }
  // Post-LN's last block already ends in a norm; Pre-LN needs one more (arXiv 2002.04745, section
  // 3).
  if (c.norm.placement == Placement::pre) {
    norm_ = Norm(parameters, c.pool == Pool::mean ? "fc_norm" : "norm", C, c.norm);
  } else {
    norm_ = Norm(parameters, "", C, {.kind = NormKind::none});
  }
  head_weight_ = Weight(parameters, "head.weight", {c.classes, C},
                        c.norm_free == NormFree::fixup ? zeros : weight, spectral);
  head_bias_ = &parameters.add("head.bias", {c.classes}, zeros);
}

// Where a branch's first layer starts, and its last one: see NormFree.
Init ViT::first_init(int matrices) const {
  if (config_.norm_free != NormFree::fixup) return Init::truncated(0.02);
  const double shrink = std::pow(2.0 * config_.depth, -1.0 / (2 * matrices - 2));
  return Init::gaussian(std::sqrt(2.0 / config_.width) * shrink);
}

Init ViT::last_init() const {
  return config_.norm_free == NormFree::fixup ? Init::zeros() : Init::truncated(0.02);
}

ViT::Scalars ViT::add_scalars(Parameters& parameters, const std::string& branch) const {
  const bool fixup = config_.norm_free == NormFree::fixup;
  if (!fixup && config_.norm_free != NormFree::skipinit) return {};
  Scalars s;
  s.multiplier = &parameters.add(branch + "multiplier", {1}, Init::fill(fixup ? 1 : 0));
  if (!fixup) return s;
  s.first_bias = &parameters.add(branch + "first_bias", {1}, Init::zeros());
  s.last_bias = &parameters.add(branch + "last_bias", {1}, Init::zeros());
  return s;
}

// A branch's last layer, and what ends the branch: f, or residual + f.
Tensor ViT::end_branch(Tape& tape, const Tensor& x, const Weight& weight, const Parameter* bias,
                       const Scalars& scalars, const Tensor* residual) const {
  const Tensor input = scalars.last_bias ? scalar_affine(tape, x, nullptr, scalars.last_bias) : x;
  if (!scalars.multiplier) return linear(tape, input, weight(tape), bias, residual);
  return scalar_affine(tape, linear(tape, input, weight(tape), bias), scalars.multiplier, nullptr,
                       residual);
}

// f(x), or residual + f(x)
Tensor ViT::attention_branch(Tape& tape, const Block& b, const Tensor& x,
                             const Tensor* residual) const {
  const Parameter* first_bias = b.attention.first_bias;
  const Tensor input = first_bias ? scalar_affine(tape, x, nullptr, first_bias) : x;
  const Tensor qkv = linear(tape, input, b.qkv_weight(tape), b.qkv_bias);
  const Tensor heads = attention(tape, qkv, {.heads = config_.heads});
  return end_branch(tape, heads, b.proj_weight, b.proj_bias, b.attention, residual);
}

Tensor ViT::mlp_branch(Tape& tape, const Block& b, const Tensor& x, const Tensor* residual) const {
  if (!b.mlp.multiplier) {
    const Parameter &w1 = b.fc1_weight(tape), &w2 = b.fc2_weight(tape);
    return dyt::mlp(tape, x, {&w1, b.fc1_bias, &w2, b.fc2_bias}, Gelu::erf, residual);
  }
  const Parameter* first_bias = b.mlp.first_bias;
  const Tensor input = first_bias ? scalar_affine(tape, x, nullptr, first_bias) : x;
  const Tensor hidden = linear_gelu(tape, input, b.fc1_weight(tape), *b.fc1_bias);
  return end_branch(tape, hidden, b.fc2_weight, b.fc2_bias, b.mlp, residual);
}

Tensor ViT::block_forward(Tape& tape, const Block& b, const Tensor& x) const {
  // Without stochastic depth, the branch's last product adds to the residual directly.
  const bool drops = b.drop_path > 0 && tape.training;
  const auto add_branch = [&](auto branch, const Tensor& to, const Tensor& input) {
    if (!drops) return (this->*branch)(tape, b, input, &to);
    return residual_add(tape, to, (this->*branch)(tape, b, input, nullptr), b.drop_path);
  };
  if (config_.norm.placement == Placement::pre) {
    const Tensor y = add_branch(&ViT::attention_branch, x, b.norm1(tape, x));
    return add_branch(&ViT::mlp_branch, y, b.norm2(tape, y));
  }
  const Tensor y = b.norm1(tape, add_branch(&ViT::attention_branch, x, x));
  return b.norm2(tape, add_branch(&ViT::mlp_branch, y, y));
}

Tensor ViT::forward(Tape& tape, const Tensor& images) const {
  Tensor x = patch_embedding(tape, images, patch_weight_(tape), *patch_bias_);
  x = add_position(tape, x, class_token_, *position_);
  for (const Block& block : blocks_) x = block_forward(tape, block, x);
  if (config_.pool == Pool::mean) {
    x = norm_(tape, mean_pool(tape, x, config_.class_token ? 1 : 0));
  } else {
    x = norm_(tape, take_token(tape, x, 0));
  }
  return linear(tape, x, head_weight_(tape), head_bias_);
}

namespace {

const std::vector<Preset<ViTConfig>>& presets() {
  const auto at_224 = [](int width, int depth, int heads) {
    return ViTConfig{.image_size = 224,
                     .patch_size = 16,
                     .classes = 1000,
                     .width = width,
                     .depth = depth,
                     .heads = heads,
                     .class_token = true};
  };
  static const std::vector<Preset<ViTConfig>> all = {
      {"vit_micro", {.width = 128, .depth = 5, .heads = 4}},
      {"vit_ti4", {.width = 192, .depth = 12, .heads = 3}},
      {"vit_ti16", at_224(192, 12, 3)},
      {"vit_s16", at_224(384, 12, 6)},
      {"vit_b16", at_224(768, 12, 12)},
      {"vit_l16", at_224(1024, 24, 16)},
  };
  return all;
}

}  // namespace

const std::vector<std::string>& vit_presets() {
  static const std::vector<std::string> names = names_of(presets());
  return names;
}

ViTConfig vit_preset(const std::string& name) { return find_preset(presets(), name); }

}  // namespace dyt
