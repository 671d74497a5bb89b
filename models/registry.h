// Every image model by its preset's name, for the command line.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "layers/norm.h"

namespace dyt {

// What to change in a preset. Error for what a model doesn't have.
struct ImageModelOptions {
  std::optional<int> image_size = {}, classes = {}, channels = {};
  std::optional<NormSpec> norm = {};
  std::optional<float> drop_path = {};  // not of VGG
  std::optional<int> patch = {};        // ViT, ConvNeXt: the stem's
  std::optional<int> width =
      {};  // ViT; ConvNeXt, ResNet: of the first stage, doubled from each to the next
  std::optional<int> depth = {}, heads = {};  // ViT
  std::optional<bool> class_token =
      {};  // ViT: the head reads it, and not the mean over the patches
};

struct ImageModel {
  std::string preset;
  int image_size, channels, classes;
  std::function<Tensor(Tape& tape, const Tensor& images)> forward;  // (B, H, W, C) to (B, classes)
};

// Declares the model's parameters. `name` is a preset or "vit", "convnext", "resnet", "vgg", which
// stand for the smallest preset of 32 x 32 images. Error listing them all for any other name.
ImageModel build_image_model(const std::string& name, const ImageModelOptions& options,
                             Parameters& parameters);

const std::vector<std::string>& image_model_presets();

// The preset that `name` stands for; Error as above.
std::string image_model_preset(const std::string& name);

}  // namespace dyt
