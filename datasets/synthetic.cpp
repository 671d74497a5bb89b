// Equal bits everywhere: this file uses only operations that IEEE 754 rounds in one way (+ - * /,
// sqrt, floor, comparisons, integers) and its own sine, since the last bit of std::sin differs
// between libraries. A fused multiply-add rounds once where two operations round twice, which could
// tip a pixel to the next byte, so the Makefile compiles this file with -ffp-contract=off. For the
// same reason floating-point helpers are local: of an inline function, the linker may keep the copy
// that another file compiled with other settings. synthetic_test.cpp pins checksums of the images.
#include "datasets/synthetic.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "core/philox.h"

#if defined(__FAST_MATH__)
#error "datasets/synthetic.cpp must not be compiled with -ffast-math: its images would change"
#endif
static_assert(FLT_EVAL_METHOD == 0, "double arithmetic must round to double at every step");

namespace dyt {
namespace {

constexpr int side = 32;
constexpr uint64_t train_seed = 1, test_seed = 2;

enum Class { disk, ring, triangle, square, hourglass, cross, stripes, checkerboard, dots, grid };
const std::vector<std::string> class_names = {"disk",      "ring",  "triangle", "square",
                                              "hourglass", "cross", "stripes",  "checkerboard",
                                              "dots",      "grid"};

struct Vec {
  double x, y;
};
struct Colour {
  double r, g, b;
};

double between(RandomSequence& random, double low, double high) {
  return low + (high - low) * (random.next() * 0x1p-32);
}

// sin(2 pi turns): the Taylor series on a quarter turn either side of 0, good to 1e-9.
double sine(double turns) {
  turns -= std::floor(turns + 0.5);       // now within half a turn of 0
  if (turns > 0.25) turns = 0.5 - turns;  // sin(pi - a) = sin(a)
  if (turns < -0.25) turns = -0.5 - turns;
  const double a = turns * 6.283185307179586476925, s = a * a;
  double sum = 1.0;
  for (int n = 14; n >= 2; n -= 2) sum = 1.0 - s / double(n * (n + 1)) * sum;
  return a * sum;
}
Vec direction(double turns) { return {sine(turns + 0.25), sine(turns)}; }
double dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y; }

// Where an object is: local coordinates = rotate(p - centre) / stretch.
struct Pose {
  Vec centre, axis, stretch;
  double radius, period;
  Vec phase;  // where a texture's lattice starts, in cells

  Vec local(Vec p) const {
    const Vec q = {p.x - centre.x, p.y - centre.y};
    return {dot(q, axis) / stretch.x, dot(q, {-axis.y, axis.x}) / stretch.y};
  }
};

// Signed distance in pixels to the nearest edge of stripes one period apart: negative on a stripe.
double stripe_distance(double x, double period, double phase, double share) {
  const double cell = x / period + phase;
  return (std::abs(cell - std::floor(cell) - 0.5) - 0.5 * share) * period;
}

// Dots of one size, every other row moved by half a cell.
double dots_distance(Vec p, const Pose& pose) {
  const double row = std::floor(p.y / pose.period + pose.phase.y);
  const bool odd = row != 2.0 * std::floor(0.5 * row);
  const double shift = odd ? 0.5 : 0.0;
  const double cx = p.x / pose.period + pose.phase.x + shift, cy = p.y / pose.period + pose.phase.y;
  const Vec q = {cx - std::floor(cx) - 0.5, cy - row - 0.5};
  return (std::sqrt(dot(q, q)) - 0.27) * pose.period;
}

// Signed distance in pixels from p (local coordinates) to the object's outline, negative inside.
// Textures fill a round plate that nearly covers the image.
double shape_distance(Class kind, Vec p, const Pose& pose) {
  const double r = pose.radius, ax = std::abs(p.x), ay = std::abs(p.y);
  const double length = std::sqrt(dot(p, p));
  const auto plate = [&](double texture) { return std::max(length - 1.4 * r, texture); };
  const auto stripe = [&](double x, double phase, double share) {
    return stripe_distance(x, pose.period, phase, share);
  };
  switch (kind) {
    case disk:
      return length - 0.9 * r;
    case ring:
      return std::abs(length - 0.75 * r) - 0.22 * r;
    case triangle:
      return std::max(p.y, 0.8660254037844386 * ax - 0.5 * p.y) - 0.55 * r;
    case square:
      return std::max(ax, ay) - 0.88 * r;
    case hourglass:
      return std::max(ay - 0.95 * r, 0.8 * ax - 0.6 * ay - 0.1 * r);
    case cross:
      return std::min(std::max(ax - 0.22 * r, ay - r), std::max(ax - r, ay - 0.22 * r));
    case stripes:
      return plate(stripe(p.x, pose.phase.x, 0.5));
    case checkerboard: {
      const double a = stripe(p.x, pose.phase.x, 0.5), b = stripe(p.y, pose.phase.y, 0.5);
      const double edge = std::min(std::abs(a), std::abs(b));
      return plate((a < 0) == (b < 0) ? -edge : edge);
    }
    case dots:
      return plate(dots_distance(p, pose));
    case grid:
      return plate(std::min(stripe(p.x, pose.phase.x, 0.3), stripe(p.y, pose.phase.y, 0.3)));
  }
  return 0.0;
}

Colour random_colour(RandomSequence& random) {
  return {between(random, 0.0, 1.0), between(random, 0.0, 1.0), between(random, 0.0, 1.0)};
}

double brightness(const Colour& c) { return (c.r + c.g + c.b) / 3.0; }

Pose random_pose(RandomSequence& random, const SyntheticDifficulty& d) {
  const double middle = 0.5 * side;
  const Vec centre = {middle + between(random, -d.max_shift, d.max_shift),
                      middle + between(random, -d.max_shift, d.max_shift)};
  const Vec axis = direction(between(random, -d.max_rotation, d.max_rotation));
  const double stretch = between(random, -d.max_stretch, d.max_stretch);
  const double radius = between(random, d.min_radius, d.max_radius);
  const double period = between(random, d.min_period, d.max_period);
  const Vec phase = {between(random, 0.0, 1.0), between(random, 0.0, 1.0)};
  return {centre, axis, {1.0 + stretch, 1.0 - stretch}, radius, period, phase};
}

// A canvas of colours that things are painted onto, from back to front.
struct Canvas {
  Colour pixels[side * side];

  // Paints where `distance(p)` is negative; the pixel at an edge is covered in part.
  template <class Distance>
  void paint(const Colour& colour, const Distance& distance) {
    for (int y = 0; y < side; ++y) {
      for (int x = 0; x < side; ++x) {
        const double cover = std::clamp(0.5 - distance(Vec{x + 0.5, y + 0.5}), 0.0, 1.0);
        Colour& c = pixels[y * side + x];
        c.r += cover * (colour.r - c.r);
        c.g += cover * (colour.g - c.g);
        c.b += cover * (colour.b - c.b);
      }
    }
  }
};

// Blobs from round to long and thin, up to a third of an object in size.
void paint_clutter(Canvas& canvas, RandomSequence& random, const SyntheticDifficulty& d) {
  const uint32_t count = random.below(uint32_t(d.max_clutter) + 1);
  for (uint32_t i = 0; i < count; ++i) {
    const Colour colour = random_colour(random);
    const Vec centre = {between(random, 0.0, side), between(random, 0.0, side)};
    const Vec axis = direction(between(random, 0.0, 1.0));
    const double length = between(random, 0.0, 4.0), thickness = between(random, 0.8, 2.0);
    canvas.paint(colour, [&](Vec p) {
      const Vec q = {p.x - centre.x, p.y - centre.y};
      const double along = std::clamp(dot(q, axis), -length, length);
      const Vec rest = {q.x - along * axis.x, q.y - along * axis.y};
      return std::sqrt(dot(rest, rest)) - thickness;
    });
  }
}

// A straight bar from edge to edge, passing near the object's centre.
void paint_bar(Canvas& canvas, RandomSequence& random, Vec centre, const SyntheticDifficulty& d) {
  if (between(random, 0.0, 1.0) >= d.occlusion) return;
  const Colour colour = random_colour(random);
  const Vec normal = direction(between(random, 0.0, 1.0));
  const double offset = dot(centre, normal) + between(random, -8.0, 8.0);
  const double half_width = 0.5 * between(random, d.min_bar, d.max_bar);
  canvas.paint(colour, [&](Vec p) { return std::abs(dot(p, normal) - offset) - half_width; });
}

// Noise of standard deviation 1, near enough normal: the sum of a random word's four bytes, less
// its mean, divided by its standard deviation sqrt(4 (256^2 - 1) / 12).
double noise(uint32_t word) {
  const int sum = int(word & 255) + int(word >> 8 & 255) + int(word >> 16 & 255) + int(word >> 24);
  return (sum - 510) / 147.80054127;
}

// Lights the canvas unevenly, adds the noise and rounds to bytes (H, W, C).
void develop(const Canvas& canvas, RandomSequence& random, const SyntheticDifficulty& d,
             uint8_t* image) {
  const Vec light = direction(between(random, 0.0, 1.0));
  for (int y = 0; y < side; ++y) {
    for (int x = 0; x < side; ++x) {
      const Vec p = {(x + 0.5) / (0.5 * side) - 1.0, (y + 0.5) / (0.5 * side) - 1.0};
      const double light_here = 1.0 + d.shading * dot(p, light);
      const Colour& c = canvas.pixels[y * side + x];
      for (const double value : {c.r, c.g, c.b}) {
        const double v = value * light_here + d.noise * noise(random.next());
        *image++ = uint8_t(std::clamp(v, 0.0, 1.0) * 255.0 + 0.5);
      }
    }
  }
}

void draw(Class kind, RandomSequence& random, const SyntheticDifficulty& d, uint8_t* image) {
  const Pose pose = random_pose(random, d);
  Colour background, object;
  do {
    background = random_colour(random), object = random_colour(random);
  } while (brightness(object) - brightness(background) < d.min_contrast);
  if (between(random, 0.0, 1.0) < d.inverted) std::swap(background, object);
  Canvas canvas;
  std::fill_n(canvas.pixels, side * side, background);
  paint_clutter(canvas, random, d);
  canvas.paint(object, [&](Vec p) { return shape_distance(kind, pose.local(p), pose); });
  paint_bar(canvas, random, pose.centre, d);
  develop(canvas, random, d, image);
}

}  // namespace

ImageDataset make_synthetic(size_t count, uint64_t split_seed,
                            const SyntheticDifficulty& difficulty) {
  require(difficulty.min_contrast <= 0.6, "min_contrast is ", difficulty.min_contrast,
          ": it should be at most 0.6, since hardly any two random colours are further apart");
  ImageDataset set;
  set.name = "synthetic";
  set.height = set.width = side;
  set.channels = 3;
  set.class_names = class_names;
  set.labels.resize(count);
  set.images.resize(count * set.image_size());
#pragma omp parallel for schedule(static)
  for (size_t i = 0; i < count; ++i) {
    set.labels[i] = int32_t(i % class_names.size());
    RandomSequence random(split_seed, i);
    draw(Class(set.labels[i]), random, difficulty, set.images.data() + i * set.image_size());
  }
  return set;
}

ImageSplits load_synthetic(size_t train_count, size_t test_count) {
  ImageSplits splits;
  splits.train = make_synthetic(train_count ? train_count : synthetic_train_size, train_seed);
  splits.test = make_synthetic(test_count ? test_count : synthetic_test_size, test_seed);
  set_mean_and_std(splits);
  return splits;
}

}  // namespace dyt
