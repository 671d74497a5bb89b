#include "datasets/folder.h"

#include <gtest/gtest.h>

#include <cmath>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop

#include "tests/datasets/expect_error.h"
#include "tests/datasets/image_files.h"
#include "tests/datasets/temporary_folder.h"

namespace dyt {
namespace {

void append(void* to, void* data, int size) {
  static_cast<std::string*>(to)->append(static_cast<const char*>(data), size_t(size));
}

}  // namespace

std::string jpeg_bytes(const Image& image, int quality) {
  std::string bytes;
  stbi_write_jpg_to_func(append, &bytes, image.width, image.height, 3, image.pixels.data(),
                         quality);
  return bytes;
}
std::string png_bytes(const Image& image) {
  std::string bytes;
  stbi_write_png_to_func(append, &bytes, image.width, image.height, 3, image.pixels.data(), 0);
  return bytes;
}
Image flat_image(int height, int width, Color color) {
  Image image(height, width, 3);
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = color[i % 3];
  return image;
}

namespace {

constexpr Color red = {200, 20, 20}, green = {20, 200, 20}, blue = {20, 20, 200};

// Two classes; three and two train images of 8 x 8 pixels; one test image each.
class Folder : public testing::Test {
 protected:
  Folder() {
    folder_.write("set/train/cat/1.jpg", jpeg_bytes(flat_image(8, 8, red)));
    folder_.write("set/train/cat/2.JPEG", jpeg_bytes(flat_image(8, 8, green)));
    folder_.write("set/train/cat/3.png", png_bytes(flat_image(8, 8, blue)));
    folder_.write("set/train/dog/b.jpg", jpeg_bytes(flat_image(8, 8, blue)));
    folder_.write("set/train/dog/a.jpg", jpeg_bytes(flat_image(8, 8, green)));
    folder_.write("set/train/dog/notes.txt", "not an image");
    folder_.write("set/train/.cache/1.jpg", "hidden");
    folder_.write("set/val/dog/x.jpg", jpeg_bytes(flat_image(8, 8, red)));
    folder_.write("set/val/cat/y.jpg", jpeg_bytes(flat_image(8, 8, blue)));
  }
  std::string set() const { return folder_.path("set"); }
  void expect_list_error(const std::vector<std::string>& parts) const {
    expect_error([&] { list_folder(set()); }, parts);
  }
  void remove(const std::string& name) const { std::filesystem::remove_all(folder_.path(name)); }
  TemporaryFolder folder_;
};

// What a split shows at the middle of image n: r, g or b.
char color_of(const ImageDataset& data, size_t n) {
  const uint8_t* p = data.image(n) + 4 * 8 * 3 + 4 * 3;
  return p[0] > 150 ? 'r' : p[1] > 150 ? 'g' : 'b';
}

TEST_F(Folder, IsListedWithTheClassesTakingTurns) {
  const FolderFiles lists = list_folder(set());
  EXPECT_EQ(lists.train.class_names, (std::vector<std::string>{"cat", "dog"}));
  EXPECT_EQ(lists.train.labels, (std::vector<int32_t>{0, 1, 0, 1, 0}));
  ASSERT_EQ(lists.train.files.size(), 5u);
  EXPECT_EQ(lists.train.files[0], folder_.path("set/train/cat/1.jpg"));
  EXPECT_EQ(lists.train.files[1], folder_.path("set/train/dog/a.jpg"));
  EXPECT_EQ(lists.train.files[4], folder_.path("set/train/cat/3.png"));
  EXPECT_EQ(lists.test.labels, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(list_folder(set(), 3, 1).train.files.size(), 3u);
  EXPECT_EQ(list_folder(set(), 3, 1).test.files.size(), 1u);
}

TEST_F(Folder, IsDecodedIntoMemory) {
  const ImageSplits splits = load_folder(set());
  EXPECT_EQ(splits.train.height, 8);
  EXPECT_EQ(splits.train.width, 8);
  EXPECT_EQ(splits.train.labels, (std::vector<int32_t>{0, 1, 0, 1, 0}));
  std::string colors;
  for (size_t n = 0; n < splits.train.size(); ++n) colors += color_of(splits.train, n);
  EXPECT_EQ(colors, "rggbb");
  EXPECT_EQ(color_of(splits.test, 1), 'r');
  for (size_t i = 0; i < splits.train.image_size(); ++i) {  // the PNG, which loses nothing
    ASSERT_EQ(splits.train.image(4)[i], blue[i % 3]);
  }
  EXPECT_NEAR(splits.train.mean[0], (200 + 4 * 20) / 5 / 255.0, 0.02);
  EXPECT_EQ(splits.test.mean, splits.train.mean);
  EXPECT_EQ(load_images("folder:" + set(), 2, 1).train.size(), 2u);
}

TEST_F(Folder, TakesTestWhereThereIsNoVal) {
  std::filesystem::rename(folder_.path("set/val"), folder_.path("set/test"));
  EXPECT_EQ(list_folder(set()).test.files.size(), 2u);
}

TEST_F(Folder, ImagesOfOtherSizesAreScaledAndCutToTheOneAskedFor) {
  folder_.write("set/train/cat/0.png", png_bytes(flat_image(20, 33, red)));
  expect_error([&] { load_folder(set()); }, {"not all of one size", "train"});
  const ImageSplits splits = load_folder(set(), {.size = 8});
  EXPECT_EQ(color_of(splits.train, 0), 'r');
  EXPECT_EQ(splits.train.images.size(), 6u * 8 * 8 * 3);
  EXPECT_EQ(load_folder(set(), {.size = 5}).test.image_size(), 75u);
}

TEST_F(Folder, SaysWhatIsMissing) {
  expect_error([] { list_folder("no/such/folder"); }, {"no/such/folder", "train/CLASS"});
  remove("set/val/dog"), remove("set/val/cat");
  expect_list_error({"set/val", "no image"});
  remove("set/val");
  expect_list_error({"set/val", "set/test", "neither"});
  folder_.write("set/val/bird/1.jpg", "x");
  expect_list_error({"set/val/bird", "train/bird"});
  remove("set/val/bird");
  remove("set/train/dog/a.jpg"), remove("set/train/dog/b.jpg");
  expect_list_error({"train/dog", "holds no image"});
  remove("set/train/dog"), remove("set/train/cat");
  expect_list_error({"set/train", "is empty"});
  remove("set/train");
  expect_list_error({"set/train", "there is no folder"});
}

TEST_F(Folder, LeavesOutWhatCannotBeDecodedAndCountsIt) {
  const std::string whole = jpeg_bytes(flat_image(8, 8, red));
  folder_.write("set/train/cat/1.jpg", whole.substr(0, whole.size() - 30));
  folder_.write("set/train/dog/a.jpg", "");
  folder_.write("set/train/dog/b.jpg", "this is no image at all");
  const ImageSplits splits = load_folder(set());
  ASSERT_EQ(splits.train.size(), 2u);
  EXPECT_EQ(splits.train.labels, (std::vector<int32_t>{0, 0}));
  EXPECT_EQ(color_of(splits.train, 0), 'g');
  EXPECT_EQ(color_of(splits.train, 1), 'b');
  ASSERT_EQ(splits.train.skipped.size(), 3u);
  EXPECT_EQ(splits.train.skipped[0], folder_.path("set/train/cat/1.jpg") + ": it is cut off");
  const std::string text = describe_skipped(splits.train.skipped);
  EXPECT_EQ(text.substr(0, 18), "3 files left out: ") << text;
  EXPECT_NE(text.find("a.jpg: it is empty"), std::string::npos) << text;
  EXPECT_NE(text.find("b.jpg: it is not a JPEG"), std::string::npos) << text;
  EXPECT_EQ(describe_skipped({}), "");
  expect_error([&] { load_folder(set(), {.strict = true}); }, {"cannot decode", "train"});
  remove("set/train/cat/2.JPEG"), remove("set/train/cat/3.png");
  expect_error([&] { load_folder(set(), {.size = 8}); }, {"none of the 3 images", "cut off"});
}

TEST_F(Folder, RefusesWhatDoesNotFitIntoMemory) {
  expect_error([&] { load_folder(set(), {.size = 1000, .memory = 1 << 20}); },
               {"7 images", "20 MiB", "1 MiB"});
}

// Wherever a JPEG is cut, it is noticed; a byte too many at the end does no harm.
TEST(DecodeImage, NoticesEveryJpegThatIsCutOff) {
  const TemporaryFolder folder;
  Image image(24, 40, 3);
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = uint8_t(i * i / 7);
  const std::string whole = jpeg_bytes(image, 80);
  std::string why;
  const auto decode = [&](const std::string& bytes) {
    return decode_image(folder.write("image.jpg", bytes), why);
  };
  const std::optional<Image> decoded = decode(whole);
  ASSERT_TRUE(decoded) << why;
  EXPECT_EQ(decoded->height, 24);
  EXPECT_EQ(decoded->width, 40);
  ASSERT_TRUE(decode(whole + "xyz"));
  EXPECT_EQ(decode(whole + "xyz")->pixels, decoded->pixels);
  for (size_t size = 0; size + 1 < whole.size(); size += 17) {
    EXPECT_FALSE(decode(whole.substr(0, size))) << size << " of " << whole.size();
    EXPECT_FALSE(why.empty());
  }
  EXPECT_FALSE(decode(whole.substr(0, whole.size() - 2)));
  EXPECT_EQ(why, "it is cut off");
}

// A file of 54 bytes can claim to have 14,000 x 14,000 pixels.
TEST(DecodeImage, NoticesEveryBmpThatIsCutOff) {
  const TemporaryFolder folder;
  std::string whole(54 + 2 * 12, 0), why;  // 2 rows of 3 pixels, filled up to 4 bytes
  whole[0] = 'B', whole[1] = 'M', whole[10] = 54, whole[14] = 40;
  whole[18] = 3, whole[22] = 2, whole[26] = 1, whole[28] = 24;
  for (size_t i = 54; i < whole.size(); ++i) whole[i] = char(i);
  const auto decode = [&](const std::string& bytes) {
    return decode_image(folder.write("image.bmp", bytes), why);
  };
  const std::optional<Image> image = decode(whole);
  ASSERT_TRUE(image) << why;
  EXPECT_EQ(image->height, 2);
  EXPECT_EQ(image->width, 3);
  EXPECT_EQ(image->pixels[0], 54 + 12 + 2);  // its first row is the last one, blue comes first
  for (size_t size = 54; size < whole.size(); ++size) {
    EXPECT_FALSE(decode(whole.substr(0, size)));
    EXPECT_EQ(why, "it is cut off");
  }
}

TEST(DecodeImage, SurvivesDamage) {
  const TemporaryFolder folder;
  Image image(16, 16, 3);
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = uint8_t(i * 37);
  std::string why;
  for (const std::string& whole : {jpeg_bytes(image), png_bytes(image)}) {
    for (size_t at = 0; at < whole.size(); at += 3) {
      std::string damaged = whole;
      damaged[at] = char(~damaged[at]);
      const std::optional<Image> decoded = decode_image(folder.write("image", damaged), why);
      if (decoded) {
        EXPECT_EQ(decoded->pixels.size(), size_t(decoded->height) * decoded->width * 3);
      }
    }
  }
}

TEST(DecodeImage, DoesNotBelieveAGiganticSize) {
  const TemporaryFolder folder;
  std::string bytes = png_bytes(flat_image(8, 8, red)), why;
  bytes[18] = char(0x4e), bytes[19] = char(0x20);  // its width: 20000
  bytes[22] = char(0x2e), bytes[23] = char(0xe0);  // its height: 12000
  EXPECT_FALSE(decode_image(folder.write("image.png", bytes), why));
  EXPECT_NE(why.find("20000 x 12000"), std::string::npos) << why;
}

TEST(EvaluationView, OfAnImageOfTheRightSizeIsTheImage) {
  Image image(6, 6, 3);
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = uint8_t(i * 91);
  EXPECT_EQ(evaluation_view(image, 6).pixels, image.pixels);
}

}  // namespace
}  // namespace dyt
