#include "models/model.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <tuple>
#include <type_traits>

namespace dyt {
namespace {

bool is_one_of(const std::vector<std::string>& presets, const std::string& name) {
  return std::find(presets.begin(), presets.end(), name) != presets.end();
}

ModelSpec resolved(ModelSpec spec) {
  spec.preset = resolve_preset(spec.preset);
  return spec;
}

template <class Value>
void set(Value& value, const std::optional<Value>& given) {
  if (given) value = *given;
}

// Error if anything but these and the norm is to be changed.
void accept(const ModelSpec& spec, std::initializer_list<std::string_view> names) {
  visit_fields(spec, [&](std::string_view name, const auto& field) {
    for (std::string_view known : {"norm", "epsilon", "alpha0", "learn_alpha", "frozen"}) {
      if (name == known) return;
    }
    const bool known = std::find(names.begin(), names.end(), name) != names.end();
    if (!field || known) return;
    std::string all;
    for (std::string_view n : names) all += (all.empty() ? "" : ", ") + std::string(n);
    fail(spec.preset, " has no ", name, " to choose, only ", all, " and the norm");
  });
}

void set_norm(NormSpec& norm, const ModelSpec& spec) {
  set(norm.kind, spec.norm);
  set(norm.placement, spec.placement);
  // A preset's epsilon is LayerNorm's or RMSNorm's, and does for both.
  if (norm.kind != NormKind::layernorm && norm.kind != NormKind::rmsnorm) norm.epsilon = 0;
  set(norm.epsilon, spec.epsilon);
  if (spec.alpha0 && spec.alpha0->automatic) norm.calibrate = auto_calibration;
  if (spec.alpha0 && !spec.alpha0->automatic) norm.alpha0 = spec.alpha0->value;
  set(norm.learn_alpha, spec.learn_alpha);
  set(norm.frozen, spec.frozen);
  require(!spec.epsilon || has_statistics(norm.kind), name_of(norm.kind), " has no epsilon");
  require(!spec.epsilon || *spec.epsilon > 0, "epsilon must be positive, not ", norm.epsilon);
  require((!spec.alpha0 && !spec.alpha0_attention && !spec.learn_alpha) || has_alpha(norm.kind),
          name_of(norm.kind), " has no alpha");
  require(norm.learn_alpha || (!spec.alpha0 && !spec.alpha0_attention),
          "alpha is 1 where it is not learned: alpha0 has no meaning");
}

// What all image models have.
template <class Config>
void set_common(Config& config, const ModelSpec& spec) {
  set(config.image_size, spec.image_size);
  set(config.classes, spec.classes);
  set(config.channels, spec.channels);
  set_norm(config.norm, spec);
}

ViTConfig configure(ViTConfig c, const ModelSpec& spec) {
  accept(spec, {"image_size", "classes", "channels", "patch", "class_token", "drop_path", "width",
                "depth", "heads", "placement"});
  set_common(c, spec);
  set(c.drop_path, spec.drop_path);
  set(c.patch_size, spec.patch);
  set(c.width, spec.width);
  set(c.depth, spec.depth);
  set(c.heads, spec.heads);
  if (spec.class_token) {
    c.class_token = *spec.class_token;
    c.pool = c.class_token ? Pool::class_token : Pool::mean;
  }
  return c;
}

ConvNeXtConfig configure(ConvNeXtConfig c, const ModelSpec& spec) {
  accept(spec, {"image_size", "classes", "channels", "patch", "drop_path", "width"});
  set_common(c, spec);
  set(c.drop_path, spec.drop_path);
  if (spec.patch) c.patch_size = *spec.patch, c.first_halves = *spec.patch == 2;
  if (spec.width) c.widths = {*spec.width, 2 * *spec.width, 4 * *spec.width, 8 * *spec.width};
  return c;
}

ResNetConfig configure(ResNetConfig c, const ModelSpec& spec) {
  accept(spec, {"image_size", "classes", "channels", "drop_path", "width"});
  set_common(c, spec);
  set(c.drop_path, spec.drop_path);
  if (spec.width) {
    const int before = c.stem_width;
    for (int& width : c.widths) width = width / before * *spec.width;
    c.stem_width = *spec.width;
  }
  return c;
}

VGGConfig configure(VGGConfig c, const ModelSpec& spec) {
  accept(spec, {"image_size", "classes", "channels", "width", "hidden"});
  set_common(c, spec);
  set(c.hidden, spec.hidden);
  if (spec.width) {
    const int before = c.features[0];
    for (int& width : c.features) width = width / before * *spec.width;  // 0 stays: a maximum
  }
  return c;
}

GPTConfig configure(GPTConfig c, const ModelSpec& spec) {
  accept(spec, {"width", "depth", "heads", "kv_heads", "hidden", "vocabulary", "context", "tied",
                "dropout", "placement", "alpha0_attention"});
  if (spec.width) {
    c.width = *spec.width, c.hidden = 0;
    std::tie(c.alpha0_attention, c.norm.alpha0) = tuned_alpha0(c.width);
  }
  set(c.depth, spec.depth);
  set(c.heads, spec.heads);
  set(c.kv_heads, spec.kv_heads);
  set(c.hidden, spec.hidden);
  set(c.vocabulary, spec.vocabulary);
  set(c.context, spec.context);
  set(c.tied, spec.tied);
  set(c.dropout, spec.dropout);
  if (spec.alpha0 && !spec.alpha0->automatic) c.alpha0_attention = spec.alpha0->value;
  require(!spec.alpha0_attention || !spec.alpha0 || !spec.alpha0->automatic,
          "with alpha0 auto, alpha is measured before attention too: leave alpha0_attention out");
  set(c.alpha0_attention, spec.alpha0_attention);
  set_norm(c.norm, spec);
  return c;
}

using AnyModel = std::variant<ViT, ConvNeXt, ResNet, VGG, GPT>;

AnyModel build(const ModelSpec& spec, Parameters& parameters) {
  const std::string& preset = spec.preset;
  if (is_one_of(vit_presets(), preset)) {
    return ViT(configure(vit_preset(preset), spec), parameters);
  }
  if (is_one_of(convnext_presets(), preset)) {
    return ConvNeXt(configure(convnext_preset(preset), spec), parameters);
  }
  if (is_one_of(resnet_presets(), preset)) {
    return ResNet(configure(resnet_preset(preset), spec), parameters);
  }
  if (is_one_of(vgg_presets(), preset)) {
    return VGG(configure(vgg_preset(preset), spec), parameters);
  }
  return GPT(configure(gpt_preset(preset), spec), parameters);
}

}  // namespace

std::vector<std::string> image_model_presets() {
  std::vector<std::string> list;
  for (const auto* presets :
       {&vit_presets(), &convnext_presets(), &resnet_presets(), &vgg_presets()}) {
    list.insert(list.end(), presets->begin(), presets->end());
  }
  return list;
}

const std::vector<std::string>& model_presets() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> list = image_model_presets();
    list.insert(list.end(), gpt_presets().begin(), gpt_presets().end());
    return list;
  }();
  return all;
}

std::string resolve_preset(const std::string& name) {
  const std::pair<const char*, const char*> families[] = {
      {"vit", "vit_micro"},   {"convnext", "convnext_atto_cifar"},
      {"resnet", "resnet20"}, {"vgg", "vgg11_bn_cifar"},
      {"gpt", "gpt_char"},    {"bert", "bert_char"},
      {"llama", "llama_char"}};
  for (const auto& [family, preset] : families) {
    if (name == family) return preset;
  }
  if (is_one_of(model_presets(), name)) return name;
  std::string known;
  for (const std::string& preset : model_presets()) known += (known.empty() ? "" : ", ") + preset;
  fail("unknown model '", name, "'; choose one of ", known);
}

bool reads_text(const std::string& preset) {
  return is_one_of(gpt_presets(), resolve_preset(preset));
}

Model::Model(const ModelSpec& spec, Parameters& parameters)
    : spec_(resolved(spec)), model_(build(spec_, parameters)) {}

const NormSpec& Model::norm() const {
  return std::visit([](const auto& m) -> const NormSpec& { return m.config().norm; }, model_);
}

Tensor Model::forward(Tape& tape, const Tensor& input) const {
  return std::visit(
      [&](const auto& m) -> Tensor {
        if constexpr (std::is_same_v<std::decay_t<decltype(m)>, GPT>) {
          return m.logits(tape, input);
        } else {
          return m.forward(tape, input);
        }
      },
      model_);
}

Tensor Model::loss(Tape& tape, const Tensor& input, const Tensor& labels) const {
  if (const GPT* gpt = language()) return gpt->loss(tape, input, labels);
  return cross_entropy(tape, forward(tape, input), labels);
}

namespace {

// What `read` reads off the configuration of an image model.
template <class Read>
int of_images(const AnyModel& model, Read&& read) {
  return std::visit(
      [&](const auto& m) -> int {
        if constexpr (std::is_same_v<std::decay_t<decltype(m)>, GPT>) {
          fail("a language model reads no images");
        } else {
          return read(m.config());
        }
      },
      model);
}

}  // namespace

int Model::image_size() const {
  return of_images(model_, [](const auto& c) { return c.image_size; });
}
int Model::channels() const {
  return of_images(model_, [](const auto& c) { return c.channels; });
}
int Model::classes() const {
  return of_images(model_, [](const auto& c) { return c.classes; });
}

}  // namespace dyt
