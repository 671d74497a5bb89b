// Which model: a preset's name and what to change in it, as the command line takes it and the
// metadata of a checkpoint keeps it.
#pragma once
#include <optional>
#include <string>

#include "layers/norm.h"

namespace dyt {

// Where DyT's alpha starts: at a number, or, "auto", where the first batch says
// (NormSpec::calibrate).
struct Alpha0 {
  float value = 0;
  bool automatic = false;
  Alpha0() = default;
  Alpha0(float number) : value(number) {}
  static Alpha0 measured() {
    Alpha0 alpha0;
    alpha0.automatic = true;
    return alpha0;
  }
  bool operator==(const Alpha0&) const = default;
};

struct ModelSpec {
  // "vit_ti4" and so on; or "vit", "convnext", "resnet", "vgg", "gpt", "llama", which stand for a
  // small preset, of 32 x 32 images or of bytes
  std::string preset;

  // Image models. class_token: of a ViT, whose head then reads it and not the mean over patches.
  std::optional<int> image_size = {}, classes = {}, channels = {};
  std::optional<int> patch = {};  // ViT; ConvNeXt: the stem's
  std::optional<bool> class_token = {};
  std::optional<float> drop_path = {};  // not of VGG

  // width: of every layer in a ViT or language model; of the first stage in the others, whose later
  // stages keep their proportion to it. depth, heads: ViT, language models.
  std::optional<int> width = {}, depth = {}, heads = {};

  // Language models; hidden: of VGG, too. A width that is given without it changes it in
  // proportion.
  std::optional<int> kv_heads = {}, hidden = {}, vocabulary = {}, context = {};
  std::optional<bool> tied = {};
  std::optional<float> dropout = {};

  // What normalises. placement: ViT, language models. epsilon: of a norm with statistics. alpha0,
  // learn_alpha: of DyT's family; alpha0_attention: of language models.
  std::optional<NormKind> norm = {};
  std::optional<Placement> placement = {};
  std::optional<float> epsilon = {}, alpha0_attention = {};
  std::optional<Alpha0> alpha0 = {};
  std::optional<bool> learn_alpha = {};
  std::optional<bool> frozen = {};  // batchnorm: training, too, takes the running statistics

  bool operator==(const ModelSpec&) const = default;
};

// {"preset": "vit_micro", "width": 96, "norm": "dyt"}: what is given, and nothing else.
std::string to_json(const ModelSpec& spec);
// Error for text that isn't JSON, an unknown key, or a value that its key can't have.
ModelSpec model_spec_from_json(const std::string& text);

// Calls visit(name, field) with everything that can be changed in a preset.
template <class Spec, class Visit>
void visit_fields(Spec& spec, Visit&& visit) {
  visit("image_size", spec.image_size);
  visit("classes", spec.classes);
  visit("channels", spec.channels);
  visit("patch", spec.patch);
  visit("class_token", spec.class_token);
  visit("drop_path", spec.drop_path);
  visit("width", spec.width);
  visit("depth", spec.depth);
  visit("heads", spec.heads);
  visit("kv_heads", spec.kv_heads);
  visit("hidden", spec.hidden);
  visit("vocabulary", spec.vocabulary);
  visit("context", spec.context);
  visit("tied", spec.tied);
  visit("dropout", spec.dropout);
  visit("norm", spec.norm);
  visit("placement", spec.placement);
  visit("epsilon", spec.epsilon);
  visit("alpha0", spec.alpha0);
  visit("alpha0_attention", spec.alpha0_attention);
  visit("learn_alpha", spec.learn_alpha);
  visit("frozen", spec.frozen);
}

}  // namespace dyt
