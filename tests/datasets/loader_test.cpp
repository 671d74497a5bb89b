#include "datasets/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <set>

#include "tests/datasets/expect_error.h"
#include "tests/datasets/image_files.h"
#include "tests/datasets/temporary_folder.h"

namespace dyt {
namespace {

// An image's first pixel says which it is; label n % 3.
ImageDataset numbered_images(size_t count) {
  ImageDataset set;
  set.name = "numbered";
  set.height = set.width = 8, set.channels = 3;
  set.class_names = {"a", "b", "c"};
  for (size_t n = 0; n < count; ++n) {
    set.labels.push_back(int32_t(n % 3));
    for (int i = 0; i < 8 * 8 * 3; ++i) set.images.push_back(uint8_t(n + (i >= 3) * i));
  }
  set.std = {1 / 255.0f, 1 / 255.0f, 1 / 255.0f};
  return set;
}

Augment everything() { return {.resized_crop = true, .rand_augment = 2, .erase = 0.5f}; }

struct Copy {
  std::vector<float> images, targets;
  std::vector<int32_t> labels;
  bool operator==(const Copy&) const = default;
};
std::vector<Copy> take(ImageLoader& loader, int count) {
  std::vector<Copy> batches;
  for (int i = 0; i < count; ++i) {
    const ImageBatch* b = loader.next();
    if (!b) break;
    EXPECT_EQ(b->labels.size(), size_t(b->count));
    batches.push_back({b->images, b->targets, b->labels});
  }
  return batches;
}

TEST(ImageLoader, TrainsOnEveryEpochsOrderWithoutItsIncompleteBatch) {
  const ImageDataset set = numbered_images(23);
  const MemorySource source(set);
  ImageLoader loader(source, {.batch = 5, .seed = 9, .threads = 3});
  EXPECT_EQ(loader.batches(), 4);
  for (uint64_t epoch = 0; epoch < 3; ++epoch) {
    const std::vector<uint32_t> order = epoch_order(23, 9, epoch);
    for (size_t i = 0; i < 4; ++i) {
      const ImageBatch& batch = *loader.next();
      ASSERT_EQ(batch.count, 5);
      EXPECT_TRUE(batch.targets.empty());
      for (size_t b = 0; b < 5; ++b) {
        const uint32_t n = order[i * 5 + b];
        EXPECT_NEAR(batch.images[b * 192], float(n), 1e-4);
        EXPECT_EQ(batch.labels[b], int32_t(n % 3));
      }
    }
  }
}

TEST(ImageLoader, EvaluatesEveryImageOnceInOrder) {
  const ImageDataset set = numbered_images(23);
  const MemorySource source(set);
  // What is for training only is left aside.
  ImageLoader loader(
      source,
      {.batch = 5, .training = false, .augment = everything(), .mix = {.mixup = 1}, .threads = 4});
  EXPECT_EQ(loader.batches(), 5);
  const std::vector<Copy> batches = take(loader, 100);
  ASSERT_EQ(batches.size(), 5u);
  EXPECT_EQ(loader.next(), nullptr);
  EXPECT_EQ(batches[4].labels.size(), 3u);
  for (size_t n = 0; n < 23; ++n) {
    EXPECT_NEAR(batches[n / 5].images[n % 5 * 192], float(n), 1e-4);
    EXPECT_TRUE(batches[n / 5].targets.empty());
  }
}

TEST(ImageLoader, TakesTheSameImagesAsFillBatch) {
  const ImageDataset set = numbered_images(12);
  const MemorySource source(set);
  ImageLoader loader(source, {.batch = 6, .seed = 4, .augment = everything(), .threads = 2});
  const Augment augment = everything();
  for (uint64_t epoch = 0; epoch < 2; ++epoch) {
    const std::vector<uint32_t> order = epoch_order(12, 4, epoch);
    for (size_t i = 0; i < 2; ++i) {
      std::vector<float> images(6 * 192);
      std::vector<int32_t> labels(6);
      fill_batch(set, std::span(order).subspan(6 * i, 6), &augment, 4, epoch, images.data(),
                 labels.data());
      const ImageBatch& batch = *loader.next();
      EXPECT_EQ(batch.images, images);
      EXPECT_EQ(batch.labels, labels);
    }
  }
}

// Of a batch of all there is, mixed in every epoch: the larger share of a label.
TEST(ImageLoader, MixesInAnotherProportionEveryTime) {
  const ImageDataset set = numbered_images(2);
  const MemorySource source(set);
  ImageLoader loader(source, {.batch = 2, .seed = 4, .mix = {.mixup = 1}});
  std::set<float> shares;
  for (const Copy& batch : take(loader, 10)) {
    shares.insert(*std::max_element(batch.targets.begin(), batch.targets.end()));
  }
  EXPECT_EQ(shares.size(), 10u);
}

TEST(ImageLoader, GivesTheSameBitsForAnyNumberOfThreadsAndAfterARestart) {
  const ImageDataset set = numbered_images(40);
  const MemorySource source(set);
  const auto options = [](int threads, int ahead, int64_t first = 0) {
    return LoaderOptions{.batch = 7,
                         .seed = 2,
                         .augment = everything(),
                         .mix = {.mixup = 0.8f, .cutmix = 1},
                         .label_smoothing = 0.1f,
                         .first_batch = first,
                         .threads = threads,
                         .ahead = ahead};
  };
  ImageLoader one(source, options(1, 2));
  const std::vector<Copy> expected = take(one, 17);
  ASSERT_EQ(expected.size(), 17u);
  EXPECT_EQ(expected[3].targets.size(), 7u * 3);
  for (const auto& [threads, ahead] : {std::pair{2, 3}, {5, 2}, {8, 9}}) {
    ImageLoader many(source, options(threads, ahead));
    EXPECT_EQ(take(many, 17), expected) << threads << " threads";
  }
  ImageLoader resumed(source, options(3, 4, 9));
  EXPECT_EQ(take(resumed, 8), std::vector<Copy>(expected.begin() + 9, expected.end()));
}

TEST(ImageLoader, MixesImagesAndTargetsOfABatch) {
  const ImageDataset set = numbered_images(4);
  const MemorySource source(set);
  ImageLoader loader(source, {.batch = 4, .seed = 3, .mix = {.mixup = 1}, .label_smoothing = 0.3f});
  const ImageBatch& batch = *loader.next();
  const std::vector<uint32_t> order = epoch_order(4, 3, 0);
  const MixDraw draw = draw_mix({.mixup = 1}, 8, 8, 3, 0, 0);
  for (size_t b = 0; b < 4; ++b) {
    const uint32_t n = order[b], other = order[3 - b];
    EXPECT_NEAR(batch.images[b * 192], draw.own * n + (1 - draw.own) * other, 1e-4);
    std::vector<double> target(3, 0.1);
    target[n % 3] += 0.7 * double(draw.own);
    target[other % 3] += 0.7 * (1 - double(draw.own));
    for (size_t k = 0; k < 3; ++k) EXPECT_NEAR(batch.targets[b * 3 + k], target[k], 1e-6);
  }
}

// A source that is slow, and counts what is asked of it.
class SlowSource : public MemorySource {
 public:
  using MemorySource::MemorySource;
  bool read(uint32_t n, const Augment* augment, uint64_t seed, uint64_t epoch, Image& image,
            std::string& why) const override {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ++reads;
    return MemorySource::read(n, augment, seed, epoch, image, why);
  }
  mutable std::atomic<int> reads = 0;
};

TEST(ImageLoader, WorksAheadButNotTooFar) {
  const ImageDataset set = numbered_images(100);
  const SlowSource source(set);
  ImageLoader loader(source, {.batch = 4, .threads = 2, .ahead = 3});
  const auto wait_for = [&](int reads) {
    for (int i = 0; i < 2000 && source.reads < reads; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return source.reads.load();
  };
  EXPECT_EQ(wait_for(12), 12);  // three batches before anybody asks
  loader.next();
  EXPECT_EQ(wait_for(12), 12);  // the first is still held
  loader.next();
  EXPECT_EQ(wait_for(16), 16);
}

TEST(ImageLoader, CanBeGivenUpAtAnyTime) {
  const ImageDataset set = numbered_images(100);
  const SlowSource source(set);
  for (int taken = 0; taken < 4; ++taken) {
    ImageLoader loader(source, {.batch = 10, .threads = 4});
    take(loader, taken);
  }
  EXPECT_LT(source.reads, 4 * 100);
}

class BrokenSource : public MemorySource {
 public:
  using MemorySource::MemorySource;
  bool read(uint32_t, const Augment*, uint64_t, uint64_t, Image&, std::string&) const override {
    fail("the disk is on fire");
  }
};

TEST(ImageLoader, PassesOnTheErrorOfAWorker) {
  const ImageDataset set = numbered_images(10);
  const BrokenSource source(set);
  ImageLoader loader(source, {.batch = 5, .threads = 3});
  expect_error([&] { loader.next(); }, {"on fire"});
  expect_error([&] { loader.next(); }, {"on fire"});  // again, rather than waiting forever
}

TEST(ImageLoader, RefusesOptionsThatMakeNoSense) {
  const ImageDataset set = numbered_images(10), none = numbered_images(0);
  const MemorySource source(set), empty(none);
  const auto expect = [&](const LoaderOptions& options, const std::vector<std::string>& parts) {
    expect_error([&] { ImageLoader loader(source, options); }, parts);
  };
  expect({.batch = 0}, {"positive", "0"});
  expect({.batch = 11}, {"11", "10 images", "numbered"});
  expect({.batch = 5, .ahead = 1}, {"at least 2", "1"});
  expect({.batch = 5, .first_batch = -3}, {"-3"});
  expect({.batch = 5, .label_smoothing = 2}, {"smoothing", "2"});
  expect({.batch = 5, .augment = Augment{.erase = 3}}, {"erasing", "3"});
  expect({.batch = 5, .mix = {.cutmix = -1}}, {"cutmix", "-1"});
  expect_error([&] { ImageLoader loader(empty, {.batch = 5, .training = false}); }, {"0 images"});
}

// --- Folders -------------------------------------------------------------------------------------

// Ten images of 20 x 30 pixels in each of two classes, and three to test on.
class FolderLoader : public testing::Test {
 protected:
  FolderLoader() {
    for (int n = 0; n < 10; ++n) {
      const std::string name = std::to_string(n) + ".jpg";
      const auto shade = uint8_t(40 + 20 * n);
      folder_.write("train/bright/" + name, jpeg_bytes(flat_image(20, 30, {shade, 250, 250})));
      folder_.write("train/dark/" + name, jpeg_bytes(flat_image(20, 30, {shade, 5, 5})));
    }
    for (const std::string name : {"bright/1.jpg", "dark/1.jpg", "dark/2.jpg"}) {
      const uint8_t v = name[0] == 'b' ? 250 : 5;
      folder_.write("val/" + name, jpeg_bytes(flat_image(16, 16, {100, v, v})));
    }
  }
  std::string spec() const { return "folder:" + folder_.path(); }
  void damage(const std::string& name) const {
    folder_.write(name, folder_.read(name).substr(0, 300));
  }
  TemporaryFolder folder_;
};

// Green of the first pixel, back as a byte.
double green(const ImageSource& source, const Copy& batch, size_t b) {
  const size_t size = size_t(source.height) * source.width * 3;
  return (double(batch.images[b * size + 1]) * double(source.std[1]) + double(source.mean[1])) *
         255;
}

TEST_F(FolderLoader, DecodesFilesAsTheyAreNeeded) {
  const ImageSources data = open_images(spec(), {.size = 12});
  EXPECT_EQ(data.memory, nullptr);
  EXPECT_EQ(data.train->size(), 20u);
  EXPECT_EQ(data.train->height, 12);
  EXPECT_EQ(data.train->mean, (std::array{0.485f, 0.456f, 0.406f}));  // timm's, of ImageNet
  EXPECT_EQ(data.test->std, (std::array{0.229f, 0.224f, 0.225f}));
  ImageLoader loader(*data.train, {.batch = 10, .augment = everything(), .threads = 2});
  EXPECT_EQ(take(loader, 5)[4].images.size(), 10u * 12 * 12 * 3);
  ImageLoader plain(*data.train, {.batch = 10, .threads = 2});
  for (const Copy& batch : take(plain, 2)) {
    for (size_t b = 0; b < 10; ++b) {
      EXPECT_NEAR(green(*data.train, batch, b), batch.labels[b] == 0 ? 250 : 5, 6);
    }
  }
  ImageLoader test(*data.test, {.batch = 2, .training = false});
  EXPECT_EQ(take(test, 9)[0].labels, (std::vector<int32_t>{0, 1}));
}

TEST_F(FolderLoader, GivesTheSameBitsForAnyNumberOfThreads) {
  const ImageSources data = open_images(spec(), {.size = 12});
  std::vector<Copy> expected;
  for (const int threads : {1, 3, 6}) {
    ImageLoader loader(*data.train, {.batch = 6, .augment = everything(), .threads = threads});
    const std::vector<Copy> batches = take(loader, 7);
    if (expected.empty()) expected = batches;
    EXPECT_EQ(batches, expected);
  }
}

TEST_F(FolderLoader, GoesIntoMemoryIfTheImagesHaveTheSizeAskedForAndFit) {
  for (int n = 0; n < 10; ++n) {
    for (const std::string kind : {"bright/", "dark/"}) {
      folder_.write("train/" + kind + std::to_string(n) + ".jpg",
                    jpeg_bytes(flat_image(16, 16, {9, 9, 9})));
    }
  }
  EXPECT_NE(open_images(spec()).memory, nullptr);
  EXPECT_EQ(open_images(spec()).train->height, 16);
  EXPECT_NE(open_images(spec(), {.size = 16}).memory, nullptr);
  EXPECT_EQ(open_images(spec(), {.size = 12}).memory, nullptr);
  EXPECT_EQ(open_images(spec(), {.memory = 1000}).memory, nullptr);
}

TEST_F(FolderLoader, AsksForASizeIfTheImagesHaveNoCommonOne) {
  expect_error([&] { open_images(spec()); }, {"not all of one size", "train"});
}

TEST_F(FolderLoader, OpensOtherDatasetsToo) {
  const ImageSources data = open_images("synthetic", {}, 20, 10);
  EXPECT_EQ(data.train->size(), 20u);
  EXPECT_EQ(data.test->size(), 10u);
  EXPECT_EQ(data.test->mean, data.memory->train.mean);
  expect_error([] { open_images("folder:"); }, {"\"folder:\"", "folder:DIR"});
}

TEST_F(FolderLoader, TrainsOnTheNextImageInPlaceOfADamagedOne) {
  damage("train/bright/3.jpg");
  damage("train/dark/3.jpg");
  damage("train/dark/9.jpg");  // the last of the list: the first follows
  const ImageSources data = open_images(spec(), {.size = 12});
  std::vector<Copy> expected;
  for (const int threads : {1, 4}) {
    ImageLoader loader(*data.train, {.batch = 10, .threads = threads});
    const std::vector<Copy> batches = take(loader, 6);
    for (const Copy& batch : batches) {
      ASSERT_EQ(batch.labels.size(), 10u);
      for (size_t b = 0; b < 10; ++b) {
        EXPECT_NEAR(green(*data.train, batch, b), batch.labels[b] == 0 ? 250 : 5, 6);
      }
    }
    const std::vector<std::string> skipped = loader.skipped();
    ASSERT_EQ(skipped.size(), 3u);
    EXPECT_EQ(skipped[0], folder_.path("train/bright/3.jpg") + ": it is cut off");
    if (expected.empty()) expected = batches;
    EXPECT_EQ(batches, expected);
  }
}

TEST_F(FolderLoader, EvaluatesWithoutADamagedImage) {
  damage("val/dark/1.jpg");
  const ImageSources data = open_images(spec(), {.size = 12});
  ImageLoader loader(*data.test, {.batch = 2, .training = false});
  const std::vector<Copy> batches = take(loader, 9);
  ASSERT_EQ(batches.size(), 2u);
  EXPECT_EQ(batches[0].labels, (std::vector<int32_t>{0}));
  EXPECT_EQ(batches[0].images.size(), 12u * 12 * 3);
  EXPECT_EQ(batches[1].labels, (std::vector<int32_t>{1}));
  EXPECT_EQ(loader.skipped().size(), 1u);
}

TEST_F(FolderLoader, StopsAtADamagedImageIfStrict) {
  damage("val/dark/1.jpg");
  const ImageSources data = open_images(spec(), {.size = 12});
  ImageLoader loader(*data.test, {.batch = 3, .training = false, .strict = true});
  expect_error([&] { loader.next(); }, {"cannot decode", "val/dark/1.jpg", "cut off"});
}

TEST_F(FolderLoader, SaysIfNoImageAtAllCanBeDecoded) {
  for (int n = 0; n < 10; ++n) {
    damage("train/bright/" + std::to_string(n) + ".jpg");
    damage("train/dark/" + std::to_string(n) + ".jpg");
  }
  const ImageSources data = open_images(spec(), {.size = 12});
  ImageLoader loader(*data.train, {.batch = 2});
  expect_error([&] { loader.next(); }, {"none of the 20 images", "cut off"});
}

}  // namespace
}  // namespace dyt
