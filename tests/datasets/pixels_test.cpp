#include "datasets/pixels.h"

#include <gtest/gtest.h>

#include "core/safetensors.h"
#include "datasets/augment.h"
#include "datasets/folder.h"
#include "tests/datasets/expect_error.h"
#include "tests/op_check.h"

namespace dyt {
namespace {

const TensorFile& fixture() {
  static const TensorFile file =
      read_safetensors(test::reference_folder() + "/augment.safetensors");
  return file;
}

std::vector<uint8_t> bytes(const std::string& key) {
  const std::vector<int64_t> values = fixture().integers(key);
  return {values.begin(), values.end()};
}

Image stored_image(const std::string& key) {
  const std::vector<int64_t>& shape = fixture().at(key).shape;
  const int height = int(shape[0]), width = int(shape[1]);
  Image image(height, width, 3);
  image.pixels = bytes(key);
  return image;
}

// The n-th of the images (n, H, W, 3) stored under a key.
std::vector<uint8_t> nth(const std::string& key, size_t n, size_t size) {
  const std::vector<uint8_t> all = bytes(key);
  return {all.begin() + long(n * size), all.begin() + long((n + 1) * size)};
}

void expect_same(const Image& image, const std::vector<uint8_t>& expected,
                 const std::string& what) {
  ASSERT_EQ(image.pixels.size(), expected.size()) << what;
  size_t different = 0;
  int worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const int d = std::abs(int(image.pixels[i]) - int(expected[i]));
    different += d > 0;
    worst = std::max(worst, d);
  }
  EXPECT_EQ(different, 0u) << what << ": of " << expected.size() << ", by up to " << worst;
}

constexpr Color fill = {124, 116, 104};

TEST(Pixels, EveryOperationOfRandAugmentIsTimms) {
  const Image original = stored_image("image");
  for (int operation = 0; operation < rand_augment_operations; ++operation) {
    const std::string key = std::to_string(operation);
    const std::vector<double> levels = fixture().doubles(key + "/levels");
    const std::vector<int64_t> negate = fixture().integers(key + "/negate");
    for (size_t i = 0; i < levels.size(); ++i) {
      Image image = original;
      rand_augment_operation(image, operation, levels[i], negate[i] != 0, fill);
      expect_same(image, nth(key + "/images", i, image.pixels.size()),
                  std::string(rand_augment_names[size_t(operation)]) + " at level " +
                      std::to_string(levels[i]) + (negate[i] ? ", the other way" : ""));
    }
  }
  Image image = original;
  expect_error([&] { rand_augment_operation(image, 15, 9, false, fill); }, {"0 to 14", "15"});
}

TEST(Pixels, ColourJitterIsPillows) {
  const Image original = stored_image("image");
  const auto check = [&](const std::string& name, void (*operation)(Image&, float)) {
    const std::vector<double> factors = fixture().doubles("jitter/" + name + "/factors");
    for (size_t i = 0; i < factors.size(); ++i) {
      Image image = original;
      operation(image, float(factors[i]));
      expect_same(image, nth("jitter/" + name + "/images", i, image.pixels.size()), name);
    }
  };
  check("brightness", pixels::brightness);
  check("contrast", pixels::contrast);
  check("color", pixels::color);
}

TEST(Pixels, BicubicScalingIsPillows) {
  const Image original = stored_image("image");
  for (const std::string name : {"down", "up", "mixed", "same"}) {
    const std::vector<int64_t> b = fixture().integers("resize/" + name + "/box");
    const std::vector<int64_t> size = fixture().integers("resize/" + name + "/size");
    const Box box{int(b[0]), int(b[1]), int(b[2]), int(b[3])};
    const Image image = resize_bicubic(original, box, int(size[0]), int(size[1]));
    expect_same(image, bytes("resize/" + name + "/image"), name);
  }
}

TEST(Pixels, EvaluationSeesWhatTimmShows) {
  for (const std::string name : {"wide", "tall", "small"}) {
    const int size = int(fixture().integers("view/" + name + "/size")[0]);
    expect_same(evaluation_view(stored_image("view/" + name + "/original"), size),
                bytes("view/" + name + "/image"), name);
  }
}

TEST(Pixels, AWindowOfAScaledImageIsThatPartOfIt) {
  const Image original = stored_image("image");
  const Box crop{1, 2, 14, 17}, window{3, 1, 4, 6};
  const Image whole = resize_bicubic(original, crop, 9, 8);
  const Image part = resize_bicubic(original, crop, 9, 8, window);
  for (int y = 0; y < window.height; ++y) {
    for (int i = 0; i < window.width * 3; ++i) {
      EXPECT_EQ(part.row(y)[i], whole.row(window.top + y)[window.left * 3 + i]);
    }
  }
}

TEST(Pixels, AnImageOfAGreyChannelIsTreatedAsOneOfThreeEqualChannels) {
  const Image rgb = stored_image("image");
  Image grey(rgb.height, rgb.width, 1), three(rgb.height, rgb.width, 3);
  for (size_t i = 0; i < grey.pixels.size(); ++i) {
    grey.pixels[i] = rgb.pixels[3 * i + 1];
    for (size_t c = 0; c < 3; ++c) three.pixels[3 * i + c] = grey.pixels[i];
  }
  const Color same = {77, 77, 77};
  for (int operation = 0; operation < rand_augment_operations; ++operation) {
    Image one = grey, all = three;
    rand_augment_operation(one, operation, 8.5, true, same);
    rand_augment_operation(all, operation, 8.5, true, same);
    for (size_t i = 0; i < one.pixels.size(); ++i) {
      ASSERT_EQ(one.pixels[i], all.pixels[3 * i + 2]) << rand_augment_names[size_t(operation)];
    }
  }
  const Image small = resize_bicubic(grey, {0, 0, 15, 20}, 5, 6);
  const Image small_three = resize_bicubic(three, {0, 0, 15, 20}, 5, 6);
  for (size_t i = 0; i < small.pixels.size(); ++i) {
    EXPECT_EQ(small.pixels[i], small_three.pixels[3 * i]);
  }
}

// Histograms of one value, images of one pixel.
TEST(Pixels, DegenerateImagesSurviveEverything) {
  for (const auto& [height, width] : {std::pair{1, 1}, {1, 7}, {5, 1}, {2, 2}}) {
    for (int operation = 0; operation < rand_augment_operations; ++operation) {
      for (const bool negate : {false, true}) {
        Image image(height, width, 3);
        std::fill(image.pixels.begin(), image.pixels.end(), 200);
        rand_augment_operation(image, operation, 10, negate, {200, 200, 200});
        for (const uint8_t v : image.pixels) ASSERT_EQ(v, image.pixels[0]);
        if (operation < 2 || operation >= 11) {
          EXPECT_EQ(image.pixels[0], 200) << operation;
        }
      }
    }
    Image image(height, width, 3);
    std::fill(image.pixels.begin(), image.pixels.end(), 200);
    for (const uint8_t v : resize_bicubic(image, {0, 0, height, width}, 3, 4).pixels) {
      EXPECT_EQ(v, 200);
    }
  }
}

TEST(Pixels, FlippingMirrorsEveryRow) {
  const Image original = stored_image("image");
  Image image = original;
  pixels::flip_left_right(image);
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      for (int c = 0; c < 3; ++c) {
        ASSERT_EQ(image.row(y)[x * 3 + c], original.row(y)[(image.width - 1 - x) * 3 + c]);
      }
    }
  }
}

TEST(Pixels, RejectBoxesThatLieOutside) {
  const Image image(10, 20, 3);
  expect_error(
      [&] {
        resize_bicubic(image, {0, 5, 10, 16}, 4, 4);
      },
      {"crop", "10 x 16", "(0, 5)", "10 x 20"});
  expect_error([&] { resize_bicubic(image, {0, 0, 0, 4}, 4, 4); }, {"0 x 4"});
  expect_error([&] { resize_bicubic(image, {0, 0, 4, 4}, 4, 4, {2, 0, 3, 4}); }, {"window"});
  expect_error([&] { resize_bicubic(image, {-1, 0, 4, 4}, 4, 4); }, {"(-1, 0)"});
}

}  // namespace
}  // namespace dyt
