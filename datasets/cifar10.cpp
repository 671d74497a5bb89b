#include "datasets/cifar10.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

#include "core/error.h"

namespace dyt {
namespace {

namespace fs = std::filesystem;

constexpr int side = 32, channels = 3, num_classes = 10;
constexpr size_t plane = side * side, record_size = 1 + channels * plane;

// The number of records in a file, from its size.
size_t count_records(const fs::path& file) {
  std::error_code error;
  const uintmax_t bytes = fs::file_size(file, error);
  require(!error, "cannot read ", file.string(), ": ", error.message(),
          "; a CIFAR-10 folder (cifar-10-batches-bin of the binary version) has this file");
  require(bytes > 0, file.string(), " is empty: it should hold records of ", record_size, " bytes");
  require(bytes % record_size == 0, file.string(), " is ", bytes,
          " bytes long, which is not a whole ", "number of ", record_size,
          "-byte records: it is cut off or not the binary version");
  return bytes / record_size;
}

// Appends the file's first records to the set, until that holds `limit` images.
void append_batch(const fs::path& file, size_t limit, ImageDataset& set) {
  const size_t count = std::min(count_records(file), limit - set.size());
  std::vector<uint8_t> records(count * record_size);
  std::ifstream in(file, std::ios::binary);
  in.read(reinterpret_cast<char*>(records.data()), std::streamsize(records.size()));
  require(bool(in), "cannot read ", file.string(), ": got ", in.gcount(), " of ", records.size(),
          " bytes");

  uint8_t* const first = records.data();
  for (size_t n = 0; n < count; ++n) {
    const uint8_t* record = first + n * record_size;
    require(record[0] < num_classes, file.string(), " has label ", int(record[0]), " in record ", n,
            " (counted from 0): labels are 0 to ", num_classes - 1);
    set.labels.push_back(record[0]);
    for (size_t pixel = 0; pixel < plane; ++pixel) {
      for (int c = 0; c < channels; ++c) set.images.push_back(record[1 + c * plane + pixel]);
    }
  }
}

// One name a line; blank lines are skipped. Without the file, the published names.
std::vector<std::string> read_class_names(const fs::path& file) {
  if (!fs::exists(file)) {
    return {"airplane", "automobile", "bird",  "cat",  "deer",
            "dog",      "frog",       "horse", "ship", "truck"};
  }
  std::vector<std::string> names;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty()) names.push_back(line);
  }
  require(names.size() == num_classes, file.string(), " has ", names.size(),
          " class names: it should have ", num_classes, ", one a line");
  return names;
}

// data_batch_1.bin and those of the other four that are there, without a gap.
std::vector<fs::path> data_batches(const fs::path& folder) {
  const auto batch = [&](int n) { return folder / ("data_batch_" + std::to_string(n) + ".bin"); };
  std::vector<fs::path> files = {batch(1)};
  while (files.size() < 5 && fs::exists(batch(int(files.size()) + 1))) {
    files.push_back(batch(int(files.size()) + 1));
  }
  for (int n = int(files.size()) + 2; n <= 5; ++n) {
    require(!fs::exists(batch(n)), batch(n - 1).string(), " is missing although ",
            batch(n).filename().string(),
            " is there: the batches should be numbered without a gap");
  }
  return files;
}

ImageDataset empty_split(const fs::path& folder) {
  ImageDataset set;
  set.name = "cifar10";
  set.height = set.width = side;
  set.channels = channels;
  set.class_names = read_class_names(folder / "batches.meta.txt");
  return set;
}

}  // namespace

ImageSplits load_cifar10(const std::string& folder_name, size_t train_limit, size_t test_limit) {
  fs::path folder = folder_name;
  if (const fs::path inner = folder / "cifar-10-batches-bin";  // as the archive unpacks
      !fs::exists(folder / "data_batch_1.bin") && fs::is_directory(inner)) {
    folder = inner;
  }
  require(fs::is_directory(folder), "there is no folder ", folder_name,
          ": expected the CIFAR-10 binary version, with data_batch_1.bin ... and test_batch.bin");
  if (train_limit == 0) train_limit = SIZE_MAX;
  if (test_limit == 0) test_limit = SIZE_MAX;

  ImageSplits splits{empty_split(folder), empty_split(folder)};
  for (const fs::path& file : data_batches(folder)) {
    if (splits.train.size() < train_limit) append_batch(file, train_limit, splits.train);
  }
  append_batch(folder / "test_batch.bin", test_limit, splits.test);
  set_mean_and_std(splits);
  return splits;
}

}  // namespace dyt
