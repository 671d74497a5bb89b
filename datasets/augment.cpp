#include "datasets/augment.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace dyt {
namespace {

// The streams of a seed that augmentation draws from: a letter in the top byte, so that they meet
// none of a training step's, then the epoch.
constexpr uint64_t letter(char c) { return uint64_t(c) << 56; }

// The random numbers of one image (or batch) in an epoch, for one purpose.
RandomSequence random_of(char purpose, uint64_t seed, uint64_t epoch, uint32_t index) {
  return {seed, letter(purpose) | (epoch & 0xffffff) << 32 | index};
}

double uniform(RandomSequence& random, double low, double high) {
  return low + (high - low) * double(random.uniform());
}
int integer_up_to(RandomSequence& random, int n) { return int(random.below(uint32_t(n) + 1)); }

// A gamma variate of shape a >= 1 (Marsaglia and Tsang, ACM TOMS 26, 2000); below 1 by their
// reduction G(a) = G(a + 1) U^(1 / a).
double gamma(RandomSequence& random, double a) {
  if (a < 1) {
    const double u = 1 - double(random.uniform());
    return gamma(random, a + 1) * std::pow(u, 1 / a);
  }
  const double d = a - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = random.normal(), t = 1 + c * x, v = t * t * t;
    const double u = 1 - double(random.uniform());
    if (v > 0 && std::log(u) < x * x / 2 + d * (1 - v + std::log(v))) return d * v;
  }
}
double beta(RandomSequence& random, double a) {
  const double x = gamma(random, a), y = gamma(random, a);
  return x + y > 0 ? x / (x + y) : 0.5;
}

// --- Crop and flip -------------------------------------------------------------------------------

// Where the pixels of one augmented image come from: (y, x) of the result is (y + dy, x + dx) of
// the original, counted from the right edge if flipped.
struct Placement {
  int dy = 0, dx = 0;
  bool flip = false;
};

Placement random_placement(const Augment& augment, uint64_t seed, uint64_t epoch, uint32_t index) {
  const Random4 bits = philox(seed, index, letter('A') | epoch);
  const int padding = augment.resized_crop ? 0 : augment.crop_padding;
  const uint64_t offsets = 2 * uint64_t(padding) + 1;
  return {.dy = int(bits.x[0] * offsets >> 32) - padding,
          .dx = int(bits.x[1] * offsets >> 32) - padding,
          .flip = augment.flip && (bits.x[2] >> 31)};
}

void place(Image& image, const Placement& p) {
  if (p.dy != 0 || p.dx != 0) {
    Image moved(image.height, image.width, image.channels);  // black
    const int C = image.channels, left = std::max(0, p.dx);
    const int right = std::min(image.width, image.width + p.dx);
    for (int y = 0; y < image.height && right > left; ++y) {
      const int from_y = y + p.dy;
      if (from_y < 0 || from_y >= image.height) continue;
      std::memcpy(moved.row(y) + (left - p.dx) * C, image.row(from_y) + left * C,
                  size_t(right - left) * C);
    }
    image = std::move(moved);
  }
  if (p.flip) pixels::flip_left_right(image);
}

// --- Colour --------------------------------------------------------------------------------------

void color_jitter(Image& image, float strength, RandomSequence& random) {
  std::array<int, 3> order = {0, 1, 2};
  for (uint32_t i = 3; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  for (const int what : order) {
    const float factor = random.uniform(std::max(0.0f, 1 - strength), 1 + strength);
    if (what == 0) pixels::brightness(image, factor);
    if (what == 1) pixels::contrast(image, factor);
    if (what == 2) pixels::color(image, factor);
  }
}

void rand_augment(Image& image, const Augment& augment, Color fill, RandomSequence& random) {
  for (int n = 0; n < augment.rand_augment; ++n) {
    const int operation = int(random.below(rand_augment_operations));
    const bool skip = random.next() >> 31, negate = random.next() >> 31;
    const double level =
        double(augment.magnitude) + double(augment.magnitude_std) * random.normal();
    if (!skip) rand_augment_operation(image, operation, std::clamp(level, 0.0, 10.0), negate, fill);
  }
}

}  // namespace

const std::array<const char*, rand_augment_operations> rand_augment_names = {
    "AutoContrast", "Equalize",    "Invert", "Rotate",     "Posterize",
    "Solarize",     "SolarizeAdd", "Color",  "Contrast",   "Brightness",
    "Sharpness",    "ShearX",      "ShearY", "TranslateX", "TranslateY"};

// The arguments grow with the level, as timm's "inc1" has them.
void rand_augment_operation(Image& image, int operation, double level, bool negate, Color fill) {
  const double share = level / 10, sign = negate ? -1 : 1;
  const auto factor = [&] { return float(std::max(0.1, 1 + sign * (share * 0.9))); };
  const double shear = sign * (share * 0.3), move = sign * (share * 0.45);
  switch (operation) {
    case 0:
      return pixels::auto_contrast(image);
    case 1:
      return pixels::equalize(image);
    case 2:
      return pixels::invert(image);
    case 3:
      return pixels::rotate(image, sign * (share * 30), fill);
    case 4:
      return pixels::posterize(image, 4 - int(share * 4));
    case 5:
      return pixels::solarize(image, 256 - std::min(256, int(share * 256)));
    case 6:
      return pixels::solarize_add(image, std::min(128, int(share * 110)));
    case 7:
      return pixels::color(image, factor());
    case 8:
      return pixels::contrast(image, factor());
    case 9:
      return pixels::brightness(image, factor());
    case 10:
      return pixels::sharpness(image, factor());
    case 11:
      return pixels::affine(image, {1, shear, 0, 0, 1, 0}, fill);
    case 12:
      return pixels::affine(image, {1, 0, 0, shear, 1, 0}, fill);
    case 13:
      return pixels::affine(image, {1, 0, move * image.width, 0, 1, 0}, fill);
    case 14:
      return pixels::affine(image, {1, 0, 0, 0, 1, move * image.height}, fill);
  }
  fail("RandAugment has operations 0 to ", rand_augment_operations - 1, ", not ", operation);
}

Normalise::Normalise(int channels, const std::array<float, 3>& mean,
                     const std::array<float, 3>& std) {
  for (size_t c = 0; c < size_t(channels); ++c) {
    for (int v = 0; v < 256; ++v) {
      table_[c][size_t(v)] = float((v / 255.0 - double(mean[c])) / double(std[c]));
    }
    mean_color_[c] = uint8_t(std::clamp(std::lround(255 * double(mean[c])), 0l, 255l));
  }
}

void Normalise::operator()(const Image& image, float* out) const {
  const uint8_t* v = image.pixels.data();
  for (size_t i = 0; i < image.pixels.size(); i += size_t(image.channels)) {
    for (size_t c = 0; c < size_t(image.channels); ++c) *out++ = table_[c][*v++];
  }
}

void check(const Augment& a) {
  const auto share = [](const char* what, float v) {
    require(v >= 0 && v <= 1, what, " is a share in [0, 1], not ", v);
  };
  require(a.crop_padding >= 0, "crop padding is ", a.crop_padding, " pixels: it must be 0 or more");
  share("the probability of random erasing", a.erase);
  share("colour jitter", a.color_jitter);
  require(a.min_area > 0 && a.min_area <= a.max_area && a.max_area <= 1,
          "a resized crop takes a share of the image in (0, 1], not ", a.min_area, " to ",
          a.max_area);
  require(a.min_aspect > 0 && a.min_aspect <= a.max_aspect,
          "the aspect ratio of a resized crop can't be ", a.min_aspect, " to ", a.max_aspect);
  require(a.rand_augment >= 0, "RandAugment can't do ", a.rand_augment, " operations");
  require(a.magnitude >= 0 && a.magnitude <= 10 && a.magnitude_std >= 0,
          "RandAugment's magnitude is 0 to 10 with a deviation of 0 or more, not ", a.magnitude,
          " and ", a.magnitude_std);
}

void check(const Mix& mix) {
  require(
      mix.mixup >= 0 && mix.cutmix >= 0 && std::isfinite(mix.mixup) && std::isfinite(mix.cutmix),
      "mixup (", mix.mixup, ") and cutmix (", mix.cutmix, ") must be 0, which is off, or more");
  require(mix.switch_probability >= 0 && mix.switch_probability <= 1,
          "the probability of cutmix is in [0, 1], not ", mix.switch_probability);
}

Box random_part(const Augment& augment, int height, int width, uint64_t seed, uint64_t epoch,
                uint32_t index) {
  RandomSequence random = random_of('C', seed, epoch, index);
  const double low = std::log(double(augment.min_aspect)),
               high = std::log(double(augment.max_aspect));
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double area = uniform(random, augment.min_area, augment.max_area) * height * width;
    const double aspect = std::exp(uniform(random, low, high));
    const int w = std::max(1, int(std::lround(std::sqrt(area * aspect))));
    const int h = std::max(1, int(std::lround(std::sqrt(area / aspect))));
    if (w > width || h > height) continue;
    const int top = integer_up_to(random, height - h), left = integer_up_to(random, width - w);
    return {top, left, h, w};
  }
  // The largest part in the middle whose aspect ratio is allowed.
  int w = width, h = height;
  const double aspect = double(width) / height;
  if (aspect < double(augment.min_aspect)) h = int(std::lround(w / double(augment.min_aspect)));
  if (aspect > double(augment.max_aspect)) w = int(std::lround(h * double(augment.max_aspect)));
  return {(height - h) / 2, (width - w) / 2, h, w};
}

Box erased_box(const Augment& augment, int height, int width, RandomSequence& random) {
  if (!(random.uniform() < augment.erase)) return {};
  const double bound = std::log(1 / 0.3);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double area = uniform(random, 0.02, 1.0 / 3) * height * width;
    const double aspect = std::exp(uniform(random, -bound, bound));
    const int h = int(std::lround(std::sqrt(area * aspect)));
    const int w = int(std::lround(std::sqrt(area / aspect)));
    if (w >= width || h >= height || w < 1 || h < 1) continue;
    const int top = integer_up_to(random, height - h), left = integer_up_to(random, width - w);
    return {top, left, h, w};
  }
  return {};
}

void finish_image(Image& image, const Augment* augment, const Normalise& normalise, uint64_t seed,
                  uint64_t epoch, uint32_t index, float* out) {
  if (!augment) return normalise(image, out);
  place(image, random_placement(*augment, seed, epoch, index));
  if (augment->rand_augment > 0 || augment->color_jitter > 0) {
    RandomSequence random = random_of('R', seed, epoch, index);
    if (augment->rand_augment > 0) {
      rand_augment(image, *augment, normalise.mean_color(), random);
    } else {
      color_jitter(image, augment->color_jitter, random);
    }
  }
  normalise(image, out);
  if (augment->erase <= 0) return;
  RandomSequence random = random_of('E', seed, epoch, index);
  const Box box = erased_box(*augment, image.height, image.width, random);
  for (int y = box.top; y < box.top + box.height; ++y) {
    float* row = out + (size_t(y) * image.width + box.left) * image.channels;
    for (int i = 0; i < box.width * image.channels; ++i) row[i] = float(random.normal());
  }
}

MixDraw draw_mix(const Mix& mix, int height, int width, uint64_t seed, uint64_t epoch,
                 uint32_t batch) {
  MixDraw draw;
  if (!mix.on()) return draw;
  RandomSequence random = random_of('M', seed, epoch, batch);
  const bool choose = mix.mixup > 0 && mix.cutmix > 0;
  const float u = random.uniform();
  draw.cut = choose ? u < mix.switch_probability : mix.cutmix > 0;
  draw.own = float(beta(random, double(draw.cut ? mix.cutmix : mix.mixup)));
  if (!draw.cut) return draw;
  // A box of 1 - lambda of the area around a random pixel; what the border cuts off is not mixed.
  const double side = std::sqrt(1 - double(draw.own));
  const int h = int(height * side), w = int(width * side);
  const int y = int(random.below(uint32_t(height))), x = int(random.below(uint32_t(width)));
  const int top = std::max(0, y - h / 2), bottom = std::min(height, y + (h + 1) / 2);
  const int left = std::max(0, x - w / 2), right = std::min(width, x + (w + 1) / 2);
  draw.box = {top, left, bottom - top, right - left};
  draw.own = float(1 - double(draw.box.height) * draw.box.width / (double(height) * width));
  return draw;
}

void mix_images(const MixDraw& draw, int64_t B, int H, int W, int C, float* images) {
  const int64_t size = int64_t(H) * W * C;
  for (int64_t b = 0; b < B / 2; ++b) {
    float *first = images + b * size, *second = images + (B - 1 - b) * size;
    if (draw.cut) {
      const Box& box = draw.box;
      for (int y = box.top; y < box.top + box.height; ++y) {
        const int64_t at = (int64_t(y) * W + box.left) * C;
        std::swap_ranges(first + at, first + at + int64_t(box.width) * C, second + at);
      }
    } else {
      const float own = draw.own, other = 1 - draw.own;
      for (int64_t i = 0; i < size; ++i) {
        const float a = first[i], z = second[i];
        first[i] = own * a + other * z;
        second[i] = own * z + other * a;
      }
    }
  }
}

void mix_labels(const MixDraw& draw, std::span<const int32_t> labels, int64_t K, float smoothing,
                float* targets) {
  const size_t B = labels.size();
  std::fill_n(targets, int64_t(B) * K, smoothing / float(K));
  for (size_t b = 0; b < B; ++b) {
    float* row = targets + int64_t(b) * K;
    row[labels[b]] += (1 - smoothing) * draw.own;
    row[labels[B - 1 - b]] += (1 - smoothing) * (1 - draw.own);
  }
}

}  // namespace dyt
