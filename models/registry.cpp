#include "models/registry.h"

#include <algorithm>
#include <memory>

#include "models/convnext.h"
#include "models/resnet.h"
#include "models/vgg.h"
#include "models/vit.h"

namespace dyt {
namespace {

template <class Value>
void set(Value& value, const std::optional<Value>& given) {
  if (given) value = *given;
}

// What all configurations have.
template <class Config>
void set_common(Config& config, const ImageModelOptions& options) {
  set(config.image_size, options.image_size);
  set(config.classes, options.classes);
  set(config.channels, options.channels);
  set(config.norm, options.norm);
}

void refuse(const std::string& preset, const char* option, bool given) {
  require(!given, preset, " has no ", option, " to choose");
}

// `widths` start at `first` and double from each to the next.
template <class Widths>
void double_from(int first, Widths& widths) {
  for (int& width : widths) width = first, first *= 2;
}

ViTConfig configure(ViTConfig c, const std::string&, const ImageModelOptions& options) {
  set_common(c, options);
  set(c.drop_path, options.drop_path);
  set(c.patch_size, options.patch);
  set(c.width, options.width);
  set(c.depth, options.depth);
  set(c.heads, options.heads);
  if (options.class_token) {
    c.class_token = *options.class_token;
    c.pool = c.class_token ? Pool::class_token : Pool::mean;
  }
  return c;
}

ConvNeXtConfig configure(ConvNeXtConfig c, const std::string& preset,
                         const ImageModelOptions& options) {
  set_common(c, options);
  set(c.drop_path, options.drop_path);
  if (options.patch) c.patch_size = *options.patch, c.first_halves = *options.patch == 2;
  if (options.width) double_from(*options.width, c.widths);
  refuse(preset, "depth", options.depth.has_value());
  refuse(preset, "number of heads", options.heads.has_value());
  refuse(preset, "class token", options.class_token.value_or(false));
  return c;
}

ResNetConfig configure(ResNetConfig c, const std::string& preset,
                       const ImageModelOptions& options) {
  set_common(c, options);
  set(c.drop_path, options.drop_path);
  if (options.width) double_from(c.stem_width = *options.width, c.widths);
  refuse(preset, "patch size", options.patch.has_value());
  refuse(preset, "depth", options.depth.has_value());
  refuse(preset, "number of heads", options.heads.has_value());
  refuse(preset, "class token", options.class_token.value_or(false));
  return c;
}

VGGConfig configure(VGGConfig c, const std::string& preset, const ImageModelOptions& options) {
  set_common(c, options);
  refuse(preset, "drop path", options.drop_path.value_or(0) != 0);
  refuse(preset, "patch size", options.patch.has_value());
  refuse(preset, "width", options.width.has_value());
  refuse(preset, "depth", options.depth.has_value());
  refuse(preset, "number of heads", options.heads.has_value());
  refuse(preset, "class token", options.class_token.value_or(false));
  return c;
}

template <class Model, class Config>
ImageModel build(const std::string& preset, const Config& start, const ImageModelOptions& options,
                 Parameters& parameters) {
  const Config config = configure(start, preset, options);
  const auto model = std::make_shared<const Model>(config, parameters);
  return {.preset = preset,
          .image_size = config.image_size,
          .channels = config.channels,
          .classes = config.classes,
          .forward = [model](Tape& tape, const Tensor& images) {
            return model->forward(tape, images);
          }};
}

bool is_one_of(const std::vector<std::string>& presets, const std::string& name) {
  return std::find(presets.begin(), presets.end(), name) != presets.end();
}

}  // namespace

const std::vector<std::string>& image_model_presets() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> list;
    for (const auto* presets :
         {&vit_presets(), &convnext_presets(), &resnet_presets(), &vgg_presets()}) {
      list.insert(list.end(), presets->begin(), presets->end());
    }
    return list;
  }();
  return all;
}

std::string image_model_preset(const std::string& name) {
  const std::pair<const char*, const char*> families[] = {{"vit", "vit_micro"},
                                                          {"convnext", "convnext_atto_cifar"},
                                                          {"resnet", "resnet20"},
                                                          {"vgg", "vgg11_bn_cifar"}};
  for (const auto& [family, preset] : families) {
    if (name == family) return preset;
  }
  if (is_one_of(image_model_presets(), name)) return name;
  std::string known;
  for (const std::string& preset : image_model_presets())
    known += (known.empty() ? "" : ", ") + preset;
  fail("unknown model '", name, "'; choose one of ", known);
}

ImageModel build_image_model(const std::string& name, const ImageModelOptions& options,
                             Parameters& parameters) {
  const std::string preset = image_model_preset(name);
  if (is_one_of(convnext_presets(), preset)) {
    return build<ConvNeXt>(preset, convnext_preset(preset), options, parameters);
  }
  if (is_one_of(resnet_presets(), preset)) {
    return build<ResNet>(preset, resnet_preset(preset), options, parameters);
  }
  if (is_one_of(vgg_presets(), preset)) {
    return build<VGG>(preset, vgg_preset(preset), options, parameters);
  }
  return build<ViT>(preset, vit_preset(preset), options, parameters);
}

}  // namespace dyt
