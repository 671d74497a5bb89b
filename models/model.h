// Every model behind one type, chosen by name.
#pragma once
#include <string>
#include <variant>
#include <vector>

#include "models/convnext.h"
#include "models/gpt.h"
#include "models/model_spec.h"
#include "models/resnet.h"
#include "models/vgg.h"
#include "models/vit.h"

namespace dyt {

std::vector<std::string> image_model_presets();
const std::vector<std::string>& model_presets();  // image models, then language models
// The preset that `name` stands for. Error listing all of them for an unknown name.
std::string resolve_preset(const std::string& name);
bool reads_text(const std::string& preset);  // Error as above

class Model {
 public:
  // Declares the parameters. Error for an unknown preset, for something to change that the model
  // doesn't have, and for a model that can't be.
  Model(const ModelSpec& spec, Parameters& parameters);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelSpec& spec() const { return spec_; }  // its preset resolved
  const NormSpec& norm() const;

  // Images (B, H, W, C), normalised, to logits (B, classes); tokens (B, T) i32 to (B, T, V).
  Tensor forward(Tape& tape, const Tensor& input) const;
  // Mean cross-entropy with labels i32: (B) of images, (B, T) of tokens.
  Tensor loss(Tape& tape, const Tensor& input, const Tensor& labels) const;

  // Of image models; Error if this is a language model.
  int image_size() const;
  int channels() const;
  int classes() const;

  const GPT* language() const { return as<GPT>(); }  // null: it reads images
  // The model itself; null if it is of another kind.
  template <class Kind>
  const Kind* as() const {
    return std::get_if<Kind>(&model_);
  }

 private:
  ModelSpec spec_;
  std::variant<ViT, ConvNeXt, ResNet, VGG, GPT> model_;
};

}  // namespace dyt
