#include "datasets/cifar10.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/datasets/expect_error.h"

namespace dyt {
namespace {

namespace fs = std::filesystem;

// The byte at (c, y, x) of the image that a test calls `n`, different along every axis.
uint8_t pixel(int n, int c, int y, int x) { return uint8_t(7 * n + 60 * c + 3 * y + 5 * x); }

// One record as the format describes it: a label, then the three planes.
std::string record(int label, int n) {
  std::string bytes(1, char(label));
  for (int c = 0; c < 3; ++c) {
    for (int y = 0; y < 32; ++y) {
      for (int x = 0; x < 32; ++x) bytes += char(pixel(n, c, y, x));
    }
  }
  return bytes;
}

// A folder of its own for every test, with two train images and one test image in it.
class Cifar10Test : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("dyt_cifar10_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    write("data_batch_1.bin", record(3, 0) + record(9, 1));
    write("test_batch.bin", record(0, 2));
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }
  ImageSplits load(size_t train_limit = 0, size_t test_limit = 0) const {
    return load_cifar10(folder_.string(), train_limit, test_limit);
  }
  void expect_load_error(const std::vector<std::string>& parts) const {
    expect_error([&] { load(); }, parts);
  }

  fs::path folder_;
};

TEST_F(Cifar10Test, LooksIntoTheFolderThatTheArchiveUnpacksTo) {
  const fs::path inner = folder_ / "cifar-10-batches-bin";
  fs::create_directories(inner);
  for (const char* name : {"data_batch_1.bin", "test_batch.bin"}) {
    fs::rename(folder_ / name, inner / name);
  }
  EXPECT_EQ(load().train.labels, (std::vector<int32_t>{3, 9}));
}

TEST_F(Cifar10Test, TurnsPlanesIntoPixelsAndKeepsTheLabels) {
  const ImageSplits splits = load();
  EXPECT_EQ(splits.train.labels, (std::vector<int32_t>{3, 9}));
  EXPECT_EQ(splits.test.labels, (std::vector<int32_t>{0}));
  EXPECT_EQ(splits.train.height, 32);
  EXPECT_EQ(splits.train.width, 32);
  EXPECT_EQ(splits.train.channels, 3);
  ASSERT_EQ(splits.train.images.size(), 2u * 3072);
  ASSERT_EQ(splits.test.images.size(), 3072u);
  for (int n = 0; n < 3; ++n) {
    const uint8_t* image = n < 2 ? splits.train.image(n) : splits.test.image(0);
    for (int y = 0; y < 32; ++y) {
      for (int x = 0; x < 32; ++x) {
        for (int c = 0; c < 3; ++c) ASSERT_EQ(*image++, pixel(n, c, y, x));
      }
    }
  }
}

TEST_F(Cifar10Test, ReadsTheBatchesInOrderUpToTheLimits) {
  write("data_batch_2.bin", record(5, 3) + record(6, 4));
  write("test_batch.bin", record(0, 2) + record(1, 5));
  EXPECT_EQ(load().train.labels, (std::vector<int32_t>{3, 9, 5, 6}));
  EXPECT_EQ(load().test.labels, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(load(1, 1).train.labels, (std::vector<int32_t>{3}));
  EXPECT_EQ(load(1, 1).test.labels, (std::vector<int32_t>{0}));
  EXPECT_EQ(load(3, 9).train.labels, (std::vector<int32_t>{3, 9, 5}));
  EXPECT_EQ(load(99, 9).train.size(), 4u);
  EXPECT_EQ(load(3, 9).train.image(2)[0], pixel(3, 0, 0, 0));
}

TEST_F(Cifar10Test, SetsMeanAndStdFromTheTrainImagesTaken) {
  double sum = 0;
  for (int y = 0; y < 32; ++y) {
    for (int x = 0; x < 32; ++x) sum += pixel(0, 2, y, x) / 255.0;
  }
  const ImageSplits splits = load(1, 0);
  EXPECT_NEAR(splits.train.mean[2], sum / 1024, 1e-6);
  EXPECT_EQ(splits.test.mean, splits.train.mean);
  EXPECT_EQ(splits.test.std, splits.train.std);
}

TEST_F(Cifar10Test, TakesTheClassNamesFromTheMetaFileIfThereIsOne) {
  EXPECT_EQ(load().train.class_names[0], "airplane");
  EXPECT_EQ(load().test.class_names[9], "truck");
  write("batches.meta.txt", "a\r\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n");
  EXPECT_EQ(load().train.classes(), 10);
  EXPECT_EQ(load().train.class_names[0], "a");
  EXPECT_EQ(load().test.class_names[9], "j");
  write("batches.meta.txt", "cat\ndog\n");
  expect_load_error({"batches.meta.txt", "2 class names", "10"});
}

TEST_F(Cifar10Test, NamesAMissingFolder) {
  const std::string missing = (folder_ / "nowhere").string();
  expect_error([&] { load_cifar10(missing); }, {missing, "data_batch_1.bin"});
}

TEST_F(Cifar10Test, NamesAMissingFile) {
  fs::remove(folder_ / "test_batch.bin");
  expect_load_error({(folder_ / "test_batch.bin").string(), "No such file"});
  fs::remove(folder_ / "data_batch_1.bin");
  expect_load_error({(folder_ / "data_batch_1.bin").string(), "No such file"});
}

TEST_F(Cifar10Test, RejectsAGapInTheBatches) {
  write("data_batch_4.bin", record(1, 3));
  expect_load_error({"data_batch_3.bin is missing", "data_batch_4.bin"});
}

TEST_F(Cifar10Test, RejectsAFileThatIsNoWholeNumberOfRecords) {
  write("data_batch_1.bin", record(3, 0) + record(4, 1).substr(0, 3072));
  expect_load_error({"data_batch_1.bin", "6145 bytes", "3073"});
  write("data_batch_1.bin", record(3, 0));
  write("test_batch.bin", record(3, 0) + "x");
  expect_load_error({"test_batch.bin", "3074 bytes", "3073"});
}

TEST_F(Cifar10Test, RejectsAnEmptyFile) {
  write("test_batch.bin", "");
  expect_load_error({"test_batch.bin", "empty", "3073"});
}

TEST_F(Cifar10Test, NamesTheRecordOfALabelThatIsTooLarge) {
  write("test_batch.bin", record(9, 0) + record(0, 1) + record(10, 2));
  expect_load_error({"test_batch.bin", "label 10", "record 2", "0 to 9"});
  EXPECT_EQ(load(0, 2).test.size(), 2u);  // the bad record is beyond the limit
  write("test_batch.bin", record(255, 0));
  expect_load_error({"test_batch.bin", "label 255", "record 0"});
}

}  // namespace
}  // namespace dyt
