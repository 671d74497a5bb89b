#include "datasets/images.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "datasets/synthetic.h"
#include "tests/datasets/expect_error.h"

namespace dyt {
namespace {

constexpr int H = 8, W = 8, C = 3;

// Images whose pixels say where they are: (10 + y, 100 + x, 200 + image), label 2 * image.
ImageDataset coordinates(int count) {
  ImageDataset set;
  set.name = "coordinates";
  set.height = H, set.width = W, set.channels = C;
  set.class_names.resize(2 * count);
  for (int n = 0; n < count; ++n) {
    set.labels.push_back(2 * n);
    for (int y = 0; y < H; ++y) {
      for (int x = 0; x < W; ++x) {
        for (const int v : {10 + y, 100 + x, 200 + n}) set.images.push_back(uint8_t(v));
      }
    }
  }
  set.mean = {0.25f, 0.5f, 0.75f};
  set.std = {0.5f, 0.25f, 0.125f};
  return set;
}

struct Batch {
  std::vector<float> images;
  std::vector<int32_t> labels;

  // The byte that was normalised into this float.
  int byte(const ImageDataset& set, size_t b, int y, int x, int c) const {
    const float v = images[((b * H + y) * W + x) * C + c];
    return int(std::lround((v * set.std[c] + set.mean[c]) * 255));
  }
};

Batch fill(const ImageDataset& set, const std::vector<uint32_t>& indices, const Augment* augment,
           uint64_t seed = 1, uint64_t epoch = 0) {
  Batch batch{std::vector<float>(indices.size() * H * W * C), std::vector<int32_t>(indices.size())};
  fill_batch(set, indices, augment, seed, epoch, batch.images.data(), batch.labels.data());
  return batch;
}

std::vector<uint32_t> first(size_t n) {
  std::vector<uint32_t> indices(n);
  std::iota(indices.begin(), indices.end(), 0u);
  return indices;
}

// How image b was moved: (dy, dx, flipped) such that pixel (y, x) shows the original's (y + dy, x +
// dx), or its mirror image's. Read off the pixels around the centre, then checked on all pixels.
struct Move {
  int dy, dx;
  bool flipped;
  auto operator<=>(const Move&) const = default;
};
Move find_move(const ImageDataset& set, const Batch& batch, size_t b, uint32_t index) {
  const auto at = [&](int y, int x, int c) { return batch.byte(set, b, y, x, c); };
  const bool flipped = at(H / 2, W / 2, 1) < at(H / 2, W / 2 - 1, 1);
  const int column = flipped ? W - 1 - W / 2 : W / 2;
  const Move move{at(H / 2, W / 2, 0) - 10 - H / 2, at(H / 2, W / 2, 1) - 100 - column, flipped};
  for (int y = 0; y < H; ++y) {
    for (int x = 0; x < W; ++x) {
      const int oy = y + move.dy, ox = (flipped ? W - 1 - x : x) + move.dx;
      const bool inside = oy >= 0 && oy < H && ox >= 0 && ox < W;
      EXPECT_EQ(at(y, x, 0), inside ? 10 + oy : 0) << y << " " << x;
      EXPECT_EQ(at(y, x, 1), inside ? 100 + ox : 0) << y << " " << x;
      EXPECT_EQ(at(y, x, 2), inside ? 200 + int(index) : 0) << y << " " << x;
    }
  }
  return move;
}

TEST(FillBatch, WithoutAugmentationNormalisesTheImagesInTheOrderAsked) {
  const ImageDataset set = coordinates(3);
  const Batch batch = fill(set, {2, 0, 2}, nullptr);
  EXPECT_EQ(batch.labels, (std::vector<int32_t>{4, 0, 4}));
  EXPECT_NEAR(batch.images[0], (10 / 255.0 - 0.25) / 0.5, 1e-6);
  EXPECT_NEAR(batch.images[1], (100 / 255.0 - 0.5) / 0.25, 1e-6);
  EXPECT_NEAR(batch.images[2], (202 / 255.0 - 0.75) / 0.125, 1e-6);
  EXPECT_NEAR(batch.images[(1 * H * W + 3 * W + 5) * C + 1], (105 / 255.0 - 0.5) / 0.25, 1e-6);
  for (size_t b = 0; b < 3; ++b) {
    EXPECT_EQ(find_move(set, batch, b, b == 1 ? 0 : 2), (Move{0, 0, false}));
  }
}

TEST(FillBatch, PaddingIsBlackBeforeNormalisation) {
  const ImageDataset set = coordinates(1);
  const Augment augment{.flip = false, .crop_padding = 2};
  for (uint64_t epoch = 0; epoch < 50; ++epoch) {
    const Batch batch = fill(set, {0}, &augment, 1, epoch);
    if (find_move(set, batch, 0, 0).dy >= 0) continue;
    EXPECT_NEAR(batch.images[0], (0 - 0.25) / 0.5, 1e-6);  // the top row was padded
    EXPECT_NEAR(batch.images[1], (0 - 0.5) / 0.25, 1e-6);
    return;
  }
  FAIL() << "no crop of 50 reached into the padding";
}

TEST(FillBatch, CropsAreUniformOverAllOffsetsAndFlipsFair) {
  const ImageDataset set = coordinates(10);
  const Augment augment{.flip = true, .crop_padding = 1};
  std::map<Move, int> count;
  for (uint64_t epoch = 0; epoch < 180; ++epoch) {
    const Batch batch = fill(set, first(10), &augment, 7, epoch);
    for (uint32_t b = 0; b < 10; ++b) ++count[find_move(set, batch, b, b)];
  }
  EXPECT_EQ(count.size(), 18u);  // 3 vertical x 3 horizontal offsets x flipped or not
  double chi2 = 0;
  for (const auto& [move, times] : count) {
    EXPECT_LE(std::abs(move.dy), 1);
    EXPECT_LE(std::abs(move.dx), 1);
    chi2 += (times - 100) * (times - 100) / 100.0;
  }
  EXPECT_LT(chi2, 40.79);  // exceeded once in 1000 times with 17 degrees of freedom
}

TEST(FillBatch, FlipAndCropCanBeUsedAlone) {
  const ImageDataset set = coordinates(20);
  const Augment flip{.flip = true, .crop_padding = 0}, crop{.flip = false, .crop_padding = 3};
  const Batch flips = fill(set, first(20), &flip), crops = fill(set, first(20), &crop);
  int flipped = 0, moved = 0;
  for (uint32_t b = 0; b < 20; ++b) {
    const Move f = find_move(set, flips, b, b), c = find_move(set, crops, b, b);
    EXPECT_TRUE(f.dy == 0 && f.dx == 0);
    EXPECT_FALSE(c.flipped);
    flipped += f.flipped, moved += c.dy != 0 || c.dx != 0;
  }
  EXPECT_GT(flipped, 3);
  EXPECT_LT(flipped, 17);
  EXPECT_GT(moved, 14);
}

TEST(FillBatch, AnImageIsAugmentedAlikeInEveryBatchOfAnEpoch) {
  const ImageDataset set = coordinates(20);
  const Augment augment{.flip = true, .crop_padding = 3};
  const Batch all = fill(set, first(20), &augment, 5, 2);
  const Batch some = fill(set, {17, 3}, &augment, 5, 2);
  const size_t size = set.image_size();
  EXPECT_TRUE(std::equal(&some.images[0], &some.images[0] + size, &all.images[17 * size]));
  EXPECT_TRUE(std::equal(&some.images[size], &some.images[size] + size, &all.images[3 * size]));
  EXPECT_NE(fill(set, first(20), &augment, 5, 3).images, all.images);  // another epoch
  EXPECT_NE(fill(set, first(20), &augment, 6, 2).images, all.images);  // another seed
}

TEST(FillBatch, RejectsAnIndexOutOfRangeAndANegativePadding) {
  const ImageDataset set = coordinates(3);
  expect_error([&] { fill(set, {0, 3}, nullptr); }, {"image 3", "coordinates", "3 images"});
  const Augment augment{.flip = true, .crop_padding = -2};
  expect_error([&] { fill(set, {0}, &augment); }, {"-2", "0 or more"});
}

TEST(EpochOrder, IsAPermutationThatDependsOnSeedAndEpoch) {
  const std::vector<uint32_t> order = epoch_order(1000, 4, 7);
  std::vector<uint32_t> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(sorted, first(1000));
  EXPECT_EQ(epoch_order(1000, 4, 7), order);
  EXPECT_NE(epoch_order(1000, 4, 8), order);
  EXPECT_NE(epoch_order(1000, 5, 7), order);
  EXPECT_EQ(epoch_order(1, 4, 7), first(1));
  EXPECT_TRUE(epoch_order(0, 4, 7).empty());
}

TEST(EpochOrder, EveryPermutationIsEquallyLikely) {
  std::map<std::vector<uint32_t>, int> count;
  for (uint64_t epoch = 0; epoch < 6000; ++epoch) ++count[epoch_order(3, 1, epoch)];
  EXPECT_EQ(count.size(), 6u);
  double chi2 = 0;
  for (const auto& [order, times] : count) chi2 += (times - 1000) * (times - 1000) / 1000.0;
  EXPECT_LT(chi2, 20.52);  // exceeded once in 1000 times with 5 degrees of freedom
}

TEST(MeanAndStd, AreThoseOfTheTrainSplitForBothSplits) {
  ImageSplits splits;
  splits.train.height = splits.train.width = 1;
  splits.train.channels = 3;
  splits.train.labels = {0, 0};
  splits.train.images = {0, 51, 9, 255, 153, 9};  // two pixels; blue never varies
  splits.test.channels = 3;
  set_mean_and_std(splits);
  for (const ImageDataset* set : {&splits.train, &splits.test}) {
    EXPECT_FLOAT_EQ(set->mean[0], 0.5f);
    EXPECT_FLOAT_EQ(set->mean[1], 0.4f);
    EXPECT_FLOAT_EQ(set->mean[2], 9 / 255.0f);
    EXPECT_FLOAT_EQ(set->std[0], 0.5f);
    EXPECT_FLOAT_EQ(set->std[1], 0.2f);
    EXPECT_EQ(set->std[2], 1.0f);
  }
}

TEST(MeanAndStd, NormaliseABatchToMean0AndStd1) {
  const ImageDataset train = load_synthetic(200, 10).train;
  std::vector<float> images(200 * train.image_size());
  std::vector<int32_t> labels(200);
  fill_batch(train, first(200), nullptr, 0, 0, images.data(), labels.data());
  for (int c = 0; c < 3; ++c) {
    double sum = 0, squares = 0;
    for (size_t i = c; i < images.size(); i += 3)
      sum += images[i], squares += images[i] * images[i];
    EXPECT_NEAR(sum / (images.size() / 3), 0, 1e-4);
    EXPECT_NEAR(squares / (images.size() / 3), 1, 1e-4);
  }
}

TEST(LoadImages, TakesTheSyntheticSetWithLimits) {
  const ImageSplits splits = load_images("synthetic", 37, 11);
  EXPECT_EQ(splits.train.size(), 37u);
  EXPECT_EQ(splits.test.size(), 11u);
  EXPECT_EQ(splits.train.images.size(), 37u * 32 * 32 * 3);
  EXPECT_EQ(splits.train.classes(), 10);
  EXPECT_EQ(splits.test.class_names, splits.train.class_names);
  EXPECT_GT(splits.train.mean[0], 0.0f);
  EXPECT_EQ(splits.test.std, splits.train.std);
}

TEST(LoadImages, NamesAnUnknownSpecAndWhatWouldBeRight) {
  for (const std::string spec : {"mnist", "", "cifar10", "cifar10:", "synthetic:x"}) {
    expect_error([&] { load_images(spec, 0, 0); },
                 {"\"" + spec + "\"", "synthetic", "cifar10:DIR"});
  }
}

TEST(LoadImages, PassesTheFolderToTheCifar10Loader) {
  expect_error([] { load_images("cifar10:no/such/folder", 0, 0); }, {"no/such/folder"});
}

}  // namespace
}  // namespace dyt
