#include "bench/flops.h"

namespace dyt {
namespace {

double linear_flops(double rows, double in, double out) { return 2 * rows * in * out; }

// Scores and their products with the values, over the width of all heads together.
double attention_flops(double tokens, double width, bool causal) {
  return 2 * linear_flops(tokens, tokens, width) * (causal ? 0.5 : 1);
}

double flops_of(const GPTConfig& c) {
  const double T = c.context, C = c.width, H = c.hidden_width();
  const double feed_forward = linear_flops(T, C, H) * (c.style == GPTStyle::llama ? 3 : 2);
  const double block = linear_flops(T, C, c.qkv_width()) + attention_flops(T, C, true) +
                       linear_flops(T, C, C) + feed_forward;
  return c.depth * block + linear_flops(T, C, c.vocabulary);
}

double flops_of(const ViTConfig& c) {
  const double T = c.tokens(), C = c.width, patches = T - c.class_token;
  const double block = linear_flops(T, C, 3 * C) + attention_flops(T, C, false) +
                       linear_flops(T, C, C) + 2 * linear_flops(T, C, c.mlp_ratio * C);
  return linear_flops(patches, c.channels * c.patch_size * c.patch_size, C) + c.depth * block +
         linear_flops(1, C, c.classes);
}

double flops_of(const ConvNeXtConfig& c) {
  double side = c.image_size / c.patch_size, width = c.widths[0];
  double flops = linear_flops(side * side, c.channels * c.patch_size * c.patch_size, width);
  for (size_t i = 0; i < c.depths.size(); ++i) {
    if (i > 0 || c.first_halves) {  // a convolution of 2 x 2 pixels, with a stride of 2
      side = double(int(side) / 2);
      flops += linear_flops(side * side, 4 * width, c.widths[i]);
      width = c.widths[i];
    }
    const double pixels = side * side;
    flops += c.depths[i] * (linear_flops(pixels, 49, width) +  // depthwise, 7 x 7
                            2 * linear_flops(pixels, width, 4 * width));
  }
  return flops + linear_flops(1, width, c.classes);
}

}  // namespace

double forward_flops(const Model& model) {
  if (const GPT* gpt = model.as<GPT>()) return flops_of(gpt->config());
  if (const ViT* vit = model.as<ViT>()) return flops_of(vit->config());
  if (const ConvNeXt* convnext = model.as<ConvNeXt>()) return flops_of(convnext->config());
  return 0;
}

}  // namespace dyt
