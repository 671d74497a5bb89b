#include "datasets/idx.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "tests/datasets/expect_error.h"
#include "tests/datasets/temporary_folder.h"

namespace dyt {
namespace {

using namespace std::string_literals;

std::string big_endian(uint32_t v) { return {char(v >> 24), char(v >> 16), char(v >> 8), char(v)}; }
std::string header(const std::vector<uint32_t>& dims) {
  std::string bytes = {0, 0, 8, char(dims.size())};
  for (const uint32_t d : dims) bytes += big_endian(d);
  return bytes;
}
std::string values(size_t count, int start) {
  std::string bytes;
  for (size_t i = 0; i < count; ++i) bytes += char(start + int(i));
  return bytes;
}

std::string compressed(const std::string& bytes) {
  z_stream z{};
  deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);  // 16: with a gzip header
  std::string out(bytes.size() + 100, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  z.avail_in = uInt(bytes.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = uInt(out.size());
  deflate(&z, Z_FINISH);
  out.resize(out.size() - z.avail_out);
  deflateEnd(&z);
  return out;
}

// Three train images of 4 x 5 pixels and two test images, plain.
class Idx : public testing::Test {
 protected:
  Idx() {
    folder_.write("train-images-idx3-ubyte", header({3, 4, 5}) + values(60, 0));
    folder_.write("train-labels-idx1-ubyte", header({3}) + "\7\0\11"s);
    folder_.write("t10k-images-idx3-ubyte", header({2, 4, 5}) + values(40, 100));
    folder_.write("t10k-labels-idx1-ubyte", header({2}) + "\1\2"s);
  }
  ImageSplits load(size_t train_limit = 0, size_t test_limit = 0) const {
    return load_mnist(folder_.path(), train_limit, test_limit);
  }
  void expect_load_error(const std::vector<std::string>& parts) const {
    expect_error([&] { load(); }, parts);
  }
  // A file is compressed in place of being plain.
  void compress(const std::string& name) const {
    folder_.write(name + ".gz", compressed(folder_.read(name)));
    std::filesystem::remove(folder_.path(name));
  }

  TemporaryFolder folder_;
};

TEST_F(Idx, ReadsImagesAndLabels) {
  const ImageSplits splits = load();
  EXPECT_EQ(splits.train.labels, (std::vector<int32_t>{7, 0, 9}));
  EXPECT_EQ(splits.test.labels, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(splits.train.height, 4);
  EXPECT_EQ(splits.train.width, 5);
  EXPECT_EQ(splits.train.channels, 1);
  EXPECT_EQ(splits.train.classes(), 10);
  EXPECT_EQ(splits.train.images.size(), 60u);
  EXPECT_EQ(splits.train.image(2)[6], 46);
  EXPECT_EQ(splits.test.image(1)[0], 120);
  EXPECT_NEAR(splits.test.mean[0], 29.5 / 255, 1e-6);  // of the train split
  EXPECT_EQ(load_fashion_mnist(folder_.path()).train.class_names[9], "Ankle boot");
  EXPECT_EQ(load_images("mnist:" + folder_.path()).train.name, "mnist");
  EXPECT_EQ(load_images("fashion:" + folder_.path()).train.name, "fashion-mnist");
}

TEST_F(Idx, ReadsCompressedFilesAlike) {
  const ImageSplits plain = load();
  compress("train-images-idx3-ubyte");
  compress("t10k-labels-idx1-ubyte");
  const ImageSplits splits = load();
  EXPECT_EQ(splits.train.images, plain.train.images);
  EXPECT_EQ(splits.test.labels, plain.test.labels);
}

TEST_F(Idx, TakesTheFirstImages) {
  const ImageSplits splits = load(2, 1);
  EXPECT_EQ(splits.train.labels, (std::vector<int32_t>{7, 0}));
  EXPECT_EQ(splits.train.images.size(), 40u);
  EXPECT_EQ(splits.test.size(), 1u);
  EXPECT_EQ(load(100, 100).train.size(), 3u);
}

TEST_F(Idx, SaysWhatIsMissing) {
  expect_error([] { load_mnist("no/such/folder"); }, {"no/such/folder"});
  std::filesystem::remove(folder_.path("t10k-labels-idx1-ubyte"));
  expect_load_error({"t10k-labels-idx1-ubyte", ".gz", folder_.path()});
}

TEST_F(Idx, RefusesFilesThatAreCutOffOrTooLong) {
  const std::string name = "train-images-idx3-ubyte", whole = folder_.read(name);
  folder_.write(name, whole.substr(0, whole.size() - 1));
  expect_load_error({name, "cut off", "1 bytes of the 60"});
  folder_.write(name, whole.substr(0, 9));
  expect_load_error({name, "cut off"});
  folder_.write(name, "");
  expect_load_error({name, "cut off"});
  folder_.write(name, whole + "x");
  expect_load_error({name, "longer than its header says"});
  folder_.write(name, whole);
  compress(name);
  const std::string packed = folder_.read(name + ".gz");
  folder_.write(name + ".gz", packed.substr(0, packed.size() - 12));
  expect_load_error({name + ".gz"});
  std::string damaged = packed;
  damaged[packed.size() - 6] ^= 1;  // in the checksum
  folder_.write(name + ".gz", damaged);
  expect_load_error({name + ".gz", "incorrect data check"});
}

TEST_F(Idx, RefusesFilesOfAnotherKind) {
  const std::string name = "train-images-idx3-ubyte";
  folder_.write(name, "GIF89a, and so on and on");
  expect_load_error({name, "not an idx file"});
  folder_.write(name, folder_.read("train-labels-idx1-ubyte"));
  expect_load_error({name, "1 dimensions, not 3", "does not hold images"});
}

TEST_F(Idx, RefusesHeadersThatLie) {
  const std::string images = "train-images-idx3-ubyte", labels = "train-labels-idx1-ubyte";
  folder_.write(images, header({0xffffffff, 4, 5}) + values(60, 0));
  expect_load_error({"4294967295 images", "3 labels"});
  folder_.write(labels, header({0xffffffff}) + "\7"s);
  expect_load_error({images, "cut off"});  // and not out of memory
  folder_.write(images, header({3, 0, 5}));
  folder_.write(labels, header({3}) + "\1\1\1"s);
  expect_load_error({images, "0 x 5"});
  folder_.write(images, header({3, 4, 6}) + values(72, 0));
  expect_load_error({"4 x 6", "4 x 5"});
  folder_.write(images, header({0, 4, 5}));
  folder_.write(labels, header({0}));
  expect_load_error({images, "no images"});
}

TEST_F(Idx, RefusesALabelThatIsNoClass) {
  folder_.write("train-labels-idx1-ubyte", header({3}) + "\7\12\1"s);
  expect_load_error({"train-labels-idx1-ubyte", "label 10 for image 1"});
}

}  // namespace
}  // namespace dyt
