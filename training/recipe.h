// Named training recipes for images: what is on, as plain values.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "datasets/augment.h"

namespace dyt {

struct Recipe {
  std::string name;
  std::optional<Augment> augment = {};  // none: images as they are
  Mix mix = {};                         // soft targets if on
  float label_smoothing = 0;
  float drop_path = 0;   // of the deepest block; the first has 0
  double ema_decay = 0;  // 0: no average of weights
  float weight_decay = 0.05f, beta2 = 0.999f;
  float max_norm = 1;  // of the gradient, with AdamW; 0: it isn't clipped
  // The paper's learning rate, for batches of `lr_batch` and to be scaled with the batch; 0: as the
  // model has it.
  double lr = 0, lr_floor = 1e-6;
  int lr_batch = 4096;
  int epochs = 0, warmup_epochs = 0;  // 0: as asked for
};

// "paper": the ImageNet recipe of "Transformers without Normalization", which is ConvNeXt's
//          (2201.03545, table 5) with drop path 0.1: all of it on. In timm's words: --aa
//          rand-m9-mstd0.5-inc1 --color-jitter 0.4 --mixup 0.8 --cutmix 1.0 --smoothing 0.1
//          --reprob 0.25 --remode pixel --model-ema-decay 0.9999 --drop-path 0.1. Images of at most
//          32 x 32 are cropped with a padding of 4 instead of a random part being scaled, as there.
//          Gradients are not clipped; with the other two they are.
// "cifar": padded crop (of images above 64 x 64: a random part, scaled) and flip, label smoothing
//          0.1.
// "plain": images as they are, labels as they are; weight decay and clipping alone.
// Throws Error on another name, listing these.
Recipe parse_recipe(const std::string& name, int image_size);

// "crop and flip, RandAugment 2 x m9, ..." for whoever is told what is going on.
std::string describe(const Recipe& recipe);

}  // namespace dyt
