#include "training/recipe.h"

#include <sstream>

#include "core/error.h"

namespace dyt {

Recipe parse_recipe(const std::string& name, int image_size) {
  if (name == "paper") {
    return {.name = name,
            .augment = Augment{.resized_crop = image_size > 32,
                               .rand_augment = 2,
                               .color_jitter = 0.4f,
                               .erase = 0.25f},
            .mix = {.mixup = 0.8f, .cutmix = 1.0f},
            .label_smoothing = 0.1f,
            .drop_path = 0.1f,
            .ema_decay = 0.9999,
            .max_norm = 0,
            .lr = 4e-3,
            .epochs = 300,
            .warmup_epochs = 20};
  }
  if (name == "cifar") {
    return {
        .name = name, .augment = Augment{.resized_crop = image_size > 64}, .label_smoothing = 0.1f};
  }
  if (name == "plain") return {.name = name};
  fail("unknown recipe \"", name, "\": expected paper, cifar or plain");
}

std::string describe(const Recipe& r) {
  std::ostringstream text;
  if (!r.augment) {
    text << "images as they are";
  } else {
    const Augment& a = *r.augment;
    if (a.resized_crop) {
      text << "random resized crop";
    } else {
      text << "crop padded by " << a.crop_padding;
    }
    if (a.flip) text << ", flip";
    if (a.rand_augment > 0) {
      text << ", RandAugment " << a.rand_augment << " x m" << a.magnitude << "-mstd"
           << a.magnitude_std;
    } else if (a.color_jitter > 0) {
      text << ", colour jitter " << a.color_jitter;
    }
    if (a.erase > 0) text << ", random erasing " << a.erase;
  }
  if (r.mix.mixup > 0) text << ", mixup " << r.mix.mixup;
  if (r.mix.cutmix > 0) text << ", cutmix " << r.mix.cutmix;
  if (r.label_smoothing > 0) text << ", label smoothing " << r.label_smoothing;
  if (r.drop_path > 0) text << ", drop path " << r.drop_path;
  if (r.ema_decay > 0) text << ", weight average " << r.ema_decay;
  return text.str();
}

}  // namespace dyt
