// The tiny models of tests/reference/ that a preset and changes to it can describe, and the weights
// in their files.
#pragma once
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "models/model.h"
#include "tests/op_check.h"

namespace dyt::test {

struct TinyModel {
  const char* file;
  ModelSpec spec;
};

inline ModelSpec tiny_gpt2() {
  return {.preset = "gpt", .width = 32, .depth = 2, .heads = 2, .vocabulary = 61, .context = 16};
}

inline ModelSpec tiny_llama(NormKind norm) {
  return {.preset = "llama",
          .width = 32,
          .depth = 2,
          .heads = 2,
          .kv_heads = 1,
          .hidden = 48,
          .vocabulary = 61,
          .context = 16,
          .tied = false,
          .norm = norm};
}

// A gradient that is one number (alpha's, a factor's) is the sum over a whole activation, whose
// terms have both signs: more of its digits are lost than of others, by a factor of two at most.
inline double room_for(const StoredTensor& gradient) { return gradient.size() == 1 ? 2 : 1; }

inline std::vector<TinyModel> tiny_language_models() {
  return {{"gpt2.safetensors", tiny_gpt2()},
          {"llama.safetensors", tiny_llama(NormKind::rmsnorm)},
          {"llama_dyt.safetensors", tiny_llama(NormKind::dyt)}};
}

inline ModelSpec tiny_vit(NormKind norm, bool class_token) {
  return {.preset = "vit",
          .image_size = 16,
          .class_token = class_token,
          .width = 32,
          .depth = 2,
          .heads = 2,
          .norm = norm};
}

inline std::vector<TinyModel> tiny_vits() {
  return {{"vit_layernorm.safetensors", tiny_vit(NormKind::layernorm, false)},
          {"vit_dyt.safetensors", tiny_vit(NormKind::dyt, false)},
          {"vit_class_token.safetensors", tiny_vit(NormKind::layernorm, true)}};
}

inline GPTConfig config_of(const ModelSpec& spec) {
  Parameters p;
  return Model(spec, p).language()->config();
}

// The parameters alone, as a file of timm's or Hugging Face's has them.
inline TensorFile weights_of(const TensorFile& file) {
  TensorFile weights;
  for (const auto& [name, tensor] : file.tensors) {
    if (file.contains("grad." + name)) weights.tensors[name] = tensor;
  }
  weights.source = file.source;
  return weights;
}

}  // namespace dyt::test
