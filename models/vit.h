// The Vision Transformer (arXiv 2010.11929), with timm's parameter names.
#pragma once
#include <string>
#include <vector>

#include "layers/norm.h"
#include "layers/norm_free.h"

namespace dyt {

enum class Pool { mean, class_token };

// What a ViT without norms (norm.kind none) has in their place. Biases of layers are as ever.
//
// fixup (arXiv 1901.09321, section 3, rules 1 to 3): the head and the last layer of each residual
//   branch start at 0; a branch's first layer starts as He et al. have it (standard deviation
//   sqrt(2 / Cin)) times L^(-1/(2m-2)), with L = 2 depth branches of m matrices: of attention 4
//   (queries, keys, values, output; so its authors count in their repository), else 2. A scalar
//   multiplier, at first 1, ends every branch, and a scalar bias, at first 0, is added to what each
//   of its layers reads. (What GELU reads has the bias of the layer before it.)
// skipinit (2002.10444): a scalar multiplier, at first 0, ends every branch.
// sigma_reparam (2303.06296): every layer's weight, the head's and the patch embedding's too, is
//   gamma / sigma(W) W, see layers/spectral_weight.cu. gamma starts at sigma(W), and all norms are
//   gone, as in the authors' code for ViT.
enum class NormFree { no, fixup, skipinit, sigma_reparam };

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
  Pool pool = Pool::mean;  // mean: over the patches, then `fc_norm`; class_token: it, then `norm`
  float drop_path = 0;     // stochastic depth of the last block; falls linearly to 0 at the first
  NormSpec norm = {};
  NormFree norm_free = NormFree::no;

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
  // images (B, H, W, channels), normalised; returns logits (B, classes).
  Tensor forward(Tape& tape, const Tensor& images) const;
  const ViTConfig& config() const { return config_; }

 private:
  // Fixup's and SkipInit's of a branch; null: there is none.
  struct Scalars {
    const Parameter *multiplier = nullptr, *first_bias = nullptr, *last_bias = nullptr;
  };
  struct Block {
    Norm norm1, norm2;
    Weight qkv_weight, proj_weight, fc1_weight, fc2_weight;
    const Parameter *qkv_bias, *proj_bias, *fc1_bias, *fc2_bias;
    Scalars attention, mlp;
    float drop_path;
  };
  Init first_init(int matrices) const;
  Init last_init() const;
  Scalars add_scalars(Parameters& parameters, const std::string& branch) const;
  Tensor end_branch(Tape& tape, const Tensor& x, const Weight& weight, const Parameter* bias,
                    const Scalars& scalars, const Tensor* residual) const;
  Tensor attention_branch(Tape& tape, const Block& block, const Tensor& x,
                          const Tensor* residual) const;
  Tensor mlp_branch(Tape& tape, const Block& block, const Tensor& x, const Tensor* residual) const;
  Tensor block_forward(Tape& tape, const Block& block, const Tensor& x) const;

  ViTConfig config_;
  Weight patch_weight_, head_weight_;
  const Parameter *patch_bias_, *head_bias_, *class_token_ = nullptr, *position_;
  std::vector<Block> blocks_;
  Norm norm_;  // before the pooled vector is classified
};

}  // namespace dyt
