// What training does to images on their way into a batch. The order is timm's:
//
//   bytes:   random part, scaled (or padded crop) -> flip -> RandAugment, or colour jitter
//   floats:  normalisation -> random erasing -> mixup or cutmix of the whole batch
//
// Every random number is a function of (seed, epoch, image) or, for mixing, of (seed, epoch,
// batch): not of the thread that draws it, nor of what was drawn before. So a batch can be made by
// any number of threads, in any order, and made again after a restart.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/philox.h"
#include "datasets/pixels.h"

namespace dyt {

// What happens to one image. Evaluation does nothing (a null pointer).
struct Augment {
  bool flip = true;      // mirror left-right, with probability 1/2
  int crop_padding = 4;  // pad with this many black pixels on every side, then crop (H, W) anywhere
  // Instead of the padded crop: a part of random area, place and aspect ratio, scaled to (H, W)
  // ("Going Deeper with Convolutions", 1409.4842, section 6).
  bool resized_crop = false;
  float min_area = 0.08f, max_area = 1;                // of the image's area
  float min_aspect = 3.0f / 4, max_aspect = 4.0f / 3;  // width over height
  // RandAugment (1909.13719) as timm's "rand-m9-mstd0.5-inc1": this many operations (0: none), each
  // drawn from fifteen, done with probability 1/2, with a magnitude around `magnitude` of 10.
  int rand_augment = 0;
  float magnitude = 9, magnitude_std = 0.5f;
  // Brightness, contrast and colour times a random number in [1 - this, 1 + this], in random order.
  // As in timm, only if there is no RandAugment, which has these three among its operations.
  float color_jitter = 0;
  // With this probability a rectangle of 2 to 33 % of the area is filled with normal random numbers
  // (1708.04896).
  float erase = 0;
};

// Pairs of images become one another's mixture, and so do their labels: image b with image B - 1 -
// b of the batch. lambda, the share of the image itself, is drawn from Beta(a, a) once per batch.
struct Mix {
  float mixup = 0;                  // a; 0: no mixup (1710.09412: weighted mean of the images)
  float cutmix = 0;                 // a; 0: no cutmix (1905.04899: a rectangle of the other image)
  float switch_probability = 0.5f;  // of cutmix, where both are on
  bool on() const { return mixup > 0 || cutmix > 0; }
};

// Bytes to what a model takes: (v / 255 - mean[c]) / std[c].
class Normalise {
 public:
  Normalise(int channels, const std::array<float, 3>& mean, const std::array<float, 3>& std);
  void operator()(const Image& image, float* out) const;  // out (H, W, C)
  Color mean_color() const { return mean_color_; }        // what RandAugment fills with, as timm

 private:
  std::array<std::array<float, 256>, 3> table_{};
  Color mean_color_{};
};

// Throws Error, naming the number, unless every number makes sense.
void check(const Augment& augment);
void check(const Mix& mix);

// The part that a resized crop takes of an image of this size.
Box random_part(const Augment& augment, int height, int width, uint64_t seed, uint64_t epoch,
                uint32_t index);

// Everything after the resized crop: an image (H, W, C) of bytes, which is used up, to out (H, W,
// C) of floats. Without `augment` it is only normalised.
void finish_image(Image& image, const Augment* augment, const Normalise& normalise, uint64_t seed,
                  uint64_t epoch, uint32_t index, float* out);

// RandAugment alone. The fifteen operations are numbered in timm's order; a level is 0 .. 10, and
// `negate` turns the direction of those that have one.
inline constexpr int rand_augment_operations = 15;
extern const std::array<const char*, rand_augment_operations> rand_augment_names;
void rand_augment_operation(Image& image, int operation, double level, bool negate, Color fill);

// The rectangle that random erasing fills, or an empty one.
Box erased_box(const Augment& augment, int height, int width, RandomSequence& random);

// How a batch is mixed: `own` is lambda, and with cutmix what the box leaves of an image.
struct MixDraw {
  float own = 1;
  bool cut = false;
  Box box = {};  // of cutmix
};
MixDraw draw_mix(const Mix& mix, int height, int width, uint64_t seed, uint64_t epoch,
                 uint32_t batch);
void mix_images(const MixDraw& draw, int64_t B, int H, int W, int C, float* images);
// targets (B, K): own times the smoothed label of b plus 1 - own times that of B - 1 - b.
void mix_labels(const MixDraw& draw, std::span<const int32_t> labels, int64_t K, float smoothing,
                float* targets);

}  // namespace dyt
