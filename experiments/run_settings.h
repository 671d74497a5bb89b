// Everything a training run depends on, as text: what a record of it must agree in. Each function
// takes its structure apart by a structured binding, so a new field does not compile until it
// stands here too.
#pragma once
#include <string>

#include "datasets/images.h"
#include "datasets/text.h"
#include "models/convnext.h"
#include "models/gpt.h"
#include "models/resnet.h"
#include "models/transformer.h"
#include "models/vgg.h"
#include "models/vit.h"
#include "training/trainer.h"
#include "training/translation.h"

namespace dyt {

std::string settings_of(const NormSpec& spec);
std::string settings_of(const ViTConfig& config);
std::string settings_of(const ConvNeXtConfig& config);
std::string settings_of(const ResNetConfig& config);
std::string settings_of(const VGGConfig& config);
std::string settings_of(const GPTConfig& config);
std::string settings_of(const TransformerConfig& config);
// But for the seed, which is the run's.
std::string settings_of(const TrainOptions& options);
// The name, the sizes and a fingerprint of all that is in it.
std::string settings_of(const ImageSplits& data);
std::string settings_of(const TextDataset& text);
std::string settings_of(const TranslationTask& task);

}  // namespace dyt
