#include "datasets/augment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "datasets/images.h"
#include "tests/datasets/expect_error.h"

namespace dyt {
namespace {

constexpr int H = 12, W = 10, C = 3;

// Mean 0 and standard deviation 1/255: a normalised value is the byte itself.
ImageDataset random_images(size_t count, int height = H, int width = W) {
  ImageDataset set;
  set.name = "random";
  set.height = height, set.width = width, set.channels = C;
  set.class_names = {"a", "b", "c"};
  set.std = {1 / 255.0f, 1 / 255.0f, 1 / 255.0f};
  RandomSequence random(3, 3);
  for (size_t n = 0; n < count; ++n) set.labels.push_back(int32_t(n % 3));
  for (size_t i = 0; i < count * set.image_size(); ++i) {
    set.images.push_back(uint8_t(random.below(256)));
  }
  return set;
}

std::vector<uint32_t> first(size_t n) {
  std::vector<uint32_t> indices(n);
  std::iota(indices.begin(), indices.end(), 0u);
  return indices;
}

std::vector<float> fill(const ImageDataset& set, const Augment& augment, uint64_t epoch = 0,
                        uint64_t seed = 1) {
  std::vector<float> images(set.images.size());
  std::vector<int32_t> labels(set.size());
  fill_batch(set, first(set.size()), &augment, seed, epoch, images.data(), labels.data());
  EXPECT_EQ(labels, set.labels);
  return images;
}

constexpr Augment nothing{.flip = false, .crop_padding = 0};

// How many of the images differ from those of `other`.
size_t changed(const ImageDataset& set, const std::vector<float>& images,
               const std::vector<float>& other) {
  size_t count = 0;
  for (size_t n = 0; n < set.size(); ++n) {
    const auto begin = images.begin() + long(n * set.image_size());
    count += !std::equal(begin, begin + long(set.image_size()),
                         other.begin() + long(n * set.image_size()));
  }
  return count;
}

TEST(Augment, OfNothingChangesNothing) {
  const ImageDataset set = random_images(5);
  const std::vector<float> images = fill(set, nothing);
  for (size_t i = 0; i < images.size(); ++i) ASSERT_NEAR(images[i], set.images[i], 1e-4);
}

// Two operations, each left out with probability 1/2; some of the fifteen leave some images alone.
TEST(RandAugment, ChangesAboutThreeQuartersOfTheImages) {
  const ImageDataset set = random_images(400);
  Augment augment = nothing;
  augment.rand_augment = 2;
  const size_t count = changed(set, fill(set, augment), fill(set, nothing));
  EXPECT_GT(count, 230u);
  EXPECT_LT(count, 320u);
}

// m9-mstd0.5: what an operation does to a flat image takes many values, where m9 alone would give
// two to each operation.
TEST(RandAugment, ItsStrengthScatters) {
  ImageDataset set = random_images(1000);
  std::fill(set.images.begin(), set.images.end(), uint8_t(100));
  const auto values = [&](float deviation) {
    Augment augment = nothing;
    augment.rand_augment = 1, augment.magnitude_std = deviation;
    const std::vector<float> images = fill(set, augment);
    std::set<int> seen;
    for (size_t n = 0; n < set.size(); ++n) {  // the middle, which nothing moves out of the image
      seen.insert(int(std::lround(images[n * set.image_size() + size_t(H / 2 * W + W / 2) * C])));
    }
    return seen.size();
  };
  EXPECT_LT(values(0), 12u);
  EXPECT_GT(values(0.5f), 20u);
}

// timm: max(0, min(magnitude, 10)). With an enormous deviation half of the levels become 0 and half
// 10. On an image of 100 whose surroundings are 100, too, the fifteen operations give at level 0:
// 100, posterised to 4 bits 96, inverted (as it has no level) 155; at level 10: brightness times
// 1.9 and 0.1, posterised to no bit 0, solarised from 0 on 155, and 110 more of what is below 128.
TEST(RandAugment, ItsStrengthStaysWithinNoneAndAll) {
  ImageDataset set = random_images(2000);
  std::fill(set.images.begin(), set.images.end(), uint8_t(100));
  std::fill(set.mean.begin(), set.mean.end(), 100 / 255.0f);
  Augment augment = nothing;
  augment.rand_augment = 1;
  for (const float magnitude : {0.0f, 5.0f, 10.0f}) {
    augment.magnitude = magnitude, augment.magnitude_std = 1e6f;
    std::set<int> seen;
    for (const float v : fill(set, augment)) seen.insert(int(std::lround(v)) + 100);
    EXPECT_EQ(seen, (std::set<int>{0, 10, 96, 100, 155, 190, 210})) << magnitude;
  }
}

TEST(RandAugment, DependsOnSeedEpochAndImageOnly) {
  const ImageDataset set = random_images(60);
  Augment augment = nothing;
  augment.rand_augment = 2;
  const std::vector<float> images = fill(set, augment);
  EXPECT_EQ(fill(set, augment), images);
  EXPECT_GT(changed(set, fill(set, augment, 1), images), 30u);
  EXPECT_GT(changed(set, fill(set, augment, 0, 2), images), 30u);
  std::vector<float> one(set.image_size());
  int32_t label;
  for (const uint32_t n : {7u, 41u}) {
    fill_batch(set, {{n}}, &augment, 1, 0, one.data(), &label);
    EXPECT_TRUE(std::equal(one.begin(), one.end(), images.begin() + long(n * one.size()))) << n;
  }
}

// As in timm, jitter steps back where RandAugment is on.
TEST(ColourJitter, ScalesBrightnessContrastAndColourUnlessRandAugmentIsOn) {
  ImageDataset set = random_images(200);
  for (size_t i = 0; i < set.images.size(); ++i) set.images[i] = uint8_t(100);  // flat and grey
  Augment jitter = nothing, both = nothing;
  jitter.color_jitter = 0.4f;
  both.rand_augment = 2, both.color_jitter = 0.4f;
  const std::vector<float> images = fill(set, jitter);
  double sum = 0;
  std::set<int> seen;
  for (size_t i = 0; i < images.size(); i += set.image_size()) {
    EXPECT_GE(images[i], 59.9f);  // only brightness can change a flat grey image
    EXPECT_LE(images[i], 140.1f);
    sum += images[i];
    seen.insert(int(std::lround(images[i])));
  }
  EXPECT_NEAR(sum / double(set.size()), 100, 6);
  EXPECT_GT(seen.size(), 50u);
  Augment only = both;
  only.color_jitter = 0;
  EXPECT_EQ(fill(set, both), fill(set, only));
}

TEST(RandomPart, LiesInTheImageWithAreaAndAspectInRange) {
  const Augment augment;
  double smallest = 1, largest = 0, area = 0;
  for (uint32_t n = 0; n < 2000; ++n) {
    const Box box = random_part(augment, 300, 400, 5, 1, n);
    ASSERT_GE(box.top, 0);
    ASSERT_GE(box.left, 0);
    ASSERT_LE(box.top + box.height, 300);
    ASSERT_LE(box.left + box.width, 400);
    const double share = double(box.height) * box.width / (300 * 400);
    const double aspect = double(box.width) / box.height;
    ASSERT_GT(aspect, 0.74);
    ASSERT_LT(aspect, 1.35);
    smallest = std::min(smallest, share), largest = std::max(largest, share);
    area += share / 2000;
  }
  EXPECT_GT(smallest, 0.077);
  EXPECT_LT(smallest, 0.09);
  EXPECT_GT(largest, 0.9);
  EXPECT_NEAR(area, 0.433, 0.02);  // timm's mean for this size: the largest often do not fit
}

TEST(RandomPart, OfAnExtremeShapeIsTheMiddle) {
  EXPECT_EQ(random_part({}, 10, 1000, 1, 1, 1), (Box{0, 493, 10, 13}));
  EXPECT_EQ(random_part({}, 1000, 9, 1, 1, 1), (Box{494, 0, 12, 9}));
  const Box one = random_part({}, 1, 1, 1, 1, 1);
  EXPECT_EQ(one, (Box{0, 0, 1, 1}));
}

TEST(ResizedCrop, TakesPartsOfTheImageAndFlipsHalfOfThem) {
  // Brightness rises to the right, so a flip shows, and the value at a corner says where it is
  // from.
  ImageDataset set = random_images(300);
  for (size_t i = 0; i < set.images.size(); ++i) set.images[i] = uint8_t(20 * (i / C % W));
  Augment augment = nothing;
  augment.resized_crop = true;
  augment.crop_padding = 4;  // not used beside a resized crop
  const auto count_flips = [&](const std::vector<float>& images) {
    size_t flipped = 0;
    for (size_t n = 0; n < set.size(); ++n) {
      const float* image = images.data() + n * set.image_size();
      const float left = image[0], right = image[(W - 1) * C];
      EXPECT_NE(left, right);
      flipped += left > right;
      for (size_t i = 0; i < set.image_size(); ++i)
        EXPECT_LE(image[i], 200.1f);  // cubic: a little overshoot
    }
    return flipped;
  };
  EXPECT_EQ(count_flips(fill(set, augment)), 0u);
  augment.flip = true;
  const size_t flipped = count_flips(fill(set, augment));
  EXPECT_GT(flipped, 110u);
  EXPECT_LT(flipped, 190u);
}

TEST(RandomErasing, FillsARectangleOfAQuarterOfTheImagesWithNormalNumbers) {
  const ImageDataset set = random_images(800, 16, 16);
  Augment augment = nothing;
  augment.erase = 0.25f;
  const std::vector<float> images = fill(set, augment), original = fill(set, nothing);
  size_t erased = 0;
  double sum = 0, squares = 0, count = 0, flattest = 1, steepest = 1;
  for (size_t n = 0; n < set.size(); ++n) {
    int top = 16, bottom = -1, left = 16, right = -1;
    std::vector<bool> touched(16 * 16);
    for (int p = 0; p < 16 * 16; ++p) {
      for (int c = 0; c < C; ++c) {
        const size_t i = n * set.image_size() + size_t(p * C + c);
        if (images[i] == original[i]) continue;
        sum += images[i], squares += images[i] * images[i], count += 1;
        touched[size_t(p)] = true;
        top = std::min(top, p / 16), bottom = std::max(bottom, p / 16);
        left = std::min(left, p % 16), right = std::max(right, p % 16);
      }
    }
    if (bottom < 0) continue;
    ++erased;
    for (int y = top; y <= bottom; ++y) {
      for (int x = left; x <= right; ++x) ASSERT_TRUE(touched[size_t(y * 16 + x)]);
    }
    const int area = (bottom - top + 1) * (right - left + 1);
    EXPECT_GE(area, 3);       // 2 % of 256, and rounding
    EXPECT_LE(area, 96);      // a third, and rounding
    if (area < 20) continue;  // rounding makes too much of these
    const double aspect = double(bottom - top + 1) / (right - left + 1);
    flattest = std::min(flattest, aspect), steepest = std::max(steepest, aspect);
  }
  EXPECT_NEAR(flattest, 0.3, 0.1);  // timm's bounds
  EXPECT_NEAR(steepest, 1 / 0.3, 1);
  EXPECT_NEAR(double(erased), 200, 45);
  EXPECT_NEAR(sum / count, 0, 0.03);
  EXPECT_NEAR(squares / count, 1, 0.05);
}

// Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
TEST(Mixing, DrawsLambdaFromTheBetaDistribution) {
  for (const float a : {0.2f, 0.8f, 1.0f, 3.0f}) {
    double sum = 0, squares = 0;
    constexpr int draws = 20000;
    for (uint32_t batch = 0; batch < draws; ++batch) {
      const MixDraw draw = draw_mix({.mixup = a}, 8, 8, 1, 0, batch);
      ASSERT_FALSE(draw.cut);
      ASSERT_GE(draw.own, 0);
      ASSERT_LE(draw.own, 1);
      sum += double(draw.own), squares += double(draw.own) * double(draw.own);
    }
    const double mean = sum / draws;
    EXPECT_NEAR(mean, 0.5, 0.012) << a;
    EXPECT_NEAR(squares / draws - mean * mean, 1 / (4 * (2 * double(a) + 1)), 0.005) << a;
  }
}

TEST(Mixing, SwitchesBetweenMixupAndCutmix) {
  int cuts = 0;
  for (uint32_t batch = 0; batch < 1000; ++batch) {
    cuts += draw_mix({.mixup = 0.8f, .cutmix = 1}, 8, 8, 1, 0, batch).cut;
    EXPECT_TRUE(draw_mix({.cutmix = 1}, 8, 8, 1, 0, batch).cut);
  }
  EXPECT_NEAR(cuts, 500, 60);
  const MixDraw off = draw_mix({}, 8, 8, 1, 0, 0);
  EXPECT_EQ(off.own, 1);
  EXPECT_FALSE(off.cut);
}

TEST(Mixing, CutmixLeavesAsMuchOfAnImageAsLambdaSays) {
  double mean = 0;
  for (uint32_t batch = 0; batch < 2000; ++batch) {
    const MixDraw draw = draw_mix({.cutmix = 1}, 20, 30, 2, 5, batch);
    const Box& b = draw.box;
    ASSERT_GE(b.top, 0);
    ASSERT_GE(b.left, 0);
    ASSERT_LE(b.top + b.height, 20);
    ASSERT_LE(b.left + b.width, 30);
    EXPECT_NEAR(draw.own, 1 - b.height * b.width / 600.0, 1e-6);
    mean += double(draw.own) / 2000;
  }
  EXPECT_GT(mean, 0.5);  // what the border cuts off stays the image's own
  EXPECT_LT(mean, 0.75);
}

// Five images of constant value b: the pairs are (0, 4), (1, 3), and 2 with itself.
TEST(Mixing, MixesPairsAndTheirLabelsAlike) {
  constexpr int B = 5, size = 4 * 4 * 1, K = 6;
  const std::vector<int32_t> labels = {0, 1, 2, 1, 4};
  const auto mix = [&](const MixDraw& draw) {
    std::vector<float> images;
    for (int b = 0; b < B; ++b) images.insert(images.end(), size, float(b));
    mix_images(draw, B, 4, 4, 1, images.data());
    return images;
  };
  const std::vector<float> mixed = mix({.own = 0.7f});
  for (int b = 0; b < B; ++b) {
    for (int i = 0; i < size; ++i) {
      EXPECT_NEAR(mixed[size_t(b * size + i)], 0.7 * b + 0.3 * (B - 1 - b), 1e-6);
    }
  }
  const MixDraw cut{.own = 0.75f, .cut = true, .box = {1, 2, 2, 2}};
  const std::vector<float> pasted = mix(cut);
  for (int b = 0; b < B; ++b) {
    for (int y = 0; y < 4; ++y) {
      for (int x = 0; x < 4; ++x) {
        const bool inside = y >= 1 && y < 3 && x >= 2;
        EXPECT_EQ(pasted[size_t(b * size + y * 4 + x)], float(inside ? B - 1 - b : b));
      }
    }
  }
  std::vector<float> targets(B * K);
  mix_labels(cut, labels, K, 0.12f, targets.data());
  const auto target = [&](int b, int k) { return targets[size_t(b * K + k)]; };
  for (int b = 0; b < B; ++b) {
    double sum = 0;
    for (int k = 0; k < K; ++k) sum += double(target(b, k));
    EXPECT_NEAR(sum, 1, 1e-6);
  }
  EXPECT_NEAR(target(0, 0), 0.88 * 0.75 + 0.02, 1e-6);
  EXPECT_NEAR(target(0, 4), 0.88 * 0.25 + 0.02, 1e-6);
  EXPECT_NEAR(target(4, 0), 0.88 * 0.25 + 0.02, 1e-6);
  EXPECT_NEAR(target(1, 1), 0.88 + 0.02, 1e-6);  // both of the pair are of class 1
  EXPECT_NEAR(target(2, 2), 0.88 + 0.02, 1e-6);
  EXPECT_NEAR(target(2, 5), 0.02, 1e-6);
}

TEST(Augment, RefusesNumbersThatMakeNoSense) {
  expect_error([] { check(Augment{.crop_padding = -1}); }, {"-1", "0 or more"});
  expect_error([] { check(Augment{.min_area = 0}); }, {"(0, 1]", "0 to 1"});
  expect_error([] { check(Augment{.min_aspect = 2}); }, {"aspect", "2"});
  expect_error([] { check(Augment{.rand_augment = -2}); }, {"-2"});
  expect_error([] { check(Augment{.magnitude = 11}); }, {"0 to 10", "11"});
  expect_error([] { check(Augment{.color_jitter = 1.5f}); }, {"colour jitter", "1.5"});
  expect_error([] { check(Augment{.erase = -0.1f}); }, {"erasing", "-0.1"});
  expect_error([] { check(Mix{.mixup = -1}); }, {"mixup", "-1"});
  expect_error([] { check(Mix{.cutmix = NAN}); }, {"cutmix", "nan"});
  expect_error([] { check(Mix{.mixup = 1, .switch_probability = 2}); }, {"2"});
  check(Augment{});
  check(Mix{.mixup = 0.8f, .cutmix = 1});
}

}  // namespace
}  // namespace dyt
