#include "datasets/idx.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "core/error.h"

namespace dyt {
namespace {

namespace fs = std::filesystem;

constexpr int num_classes = 10;

// A file that may be compressed: zlib reads both, and tells them apart by the first bytes.
class IdxFile {
 public:
  explicit IdxFile(const fs::path& path)
      : name_(path.string()), file_(gzopen(name_.c_str(), "rb"), gzclose) {
    require(file_ != nullptr, "cannot read ", name_, ": ", std::strerror(errno));
    gzbuffer(file_.get(), 1 << 17);
  }

  // The dimensions, of which there should be `expected`.
  std::vector<size_t> read_header(int expected) {
    const std::vector<uint8_t> magic = read(4);
    require(magic[0] == 0 && magic[1] == 0 && magic[2] == 8, name_, " begins with ", int(magic[0]),
            " ", int(magic[1]), " ", int(magic[2]), ", not 0 0 8: it is not an idx file of bytes");
    require(magic[3] == expected, name_, " has ", int(magic[3]), " dimensions, not ", expected,
            expected == 3 ? ": it does not hold images" : ": it does not hold labels");
    std::vector<size_t> dims;
    for (int d = 0; d < expected; ++d) {
      const std::vector<uint8_t> b = read(4);
      dims.push_back(size_t(b[0]) << 24 | size_t(b[1]) << 16 | size_t(b[2]) << 8 | b[3]);
    }
    return dims;
  }

  // Memory grows with what is there, not with what the header promises.
  std::vector<uint8_t> read(size_t bytes) {
    std::vector<uint8_t> data;
    while (data.size() < bytes) {
      const size_t begin = data.size(), wanted = std::min(bytes - begin, size_t(1) << 24);
      data.resize(begin + wanted);
      const int got = gzread(file_.get(), data.data() + begin, unsigned(wanted));
      require(got >= 0, "cannot read ", name_, ": ", reason());
      if (size_t(got) < wanted) {
        fail(name_, " is cut off: ", wanted - size_t(got) + (bytes - begin - wanted),
             " bytes of the ", bytes, " that should come here are missing");
      }
    }
    return data;
  }

  void expect_end() {
    uint8_t byte;
    const int got = gzread(file_.get(), &byte, 1);
    require(got >= 0, "cannot read ", name_, ": ", reason());
    require(got == 0, name_, " is longer than its header says");
  }

 private:
  std::string reason() {
    int code = 0;
    return gzerror(file_.get(), &code);
  }
  std::string name_;
  std::unique_ptr<gzFile_s, int (*)(gzFile)> file_;
};

fs::path find_file(const fs::path& folder, const std::string& name) {
  for (const std::string ending : {"", ".gz"}) {
    if (fs::exists(folder / (name + ending))) return folder / (name + ending);
  }
  fail("there is no ", name, " in ", folder.string(), ", nor ", name, ".gz");
}

ImageDataset load_split(const fs::path& folder, const std::string& split, size_t limit) {
  const fs::path image_path = find_file(folder, split + "-images-idx3-ubyte");
  const fs::path label_path = find_file(folder, split + "-labels-idx1-ubyte");
  IdxFile images(image_path), labels(label_path);
  const std::vector<size_t> dims = images.read_header(3);
  const size_t stored = dims[0], labelled = labels.read_header(1)[0];
  require(stored == labelled, image_path.string(), " has ", stored, " images, but ",
          label_path.string(), " has ", labelled, " labels");
  require(stored > 0, image_path.string(), " has no images");
  require(dims[1] >= 1 && dims[1] <= 4096 && dims[2] >= 1 && dims[2] <= 4096, image_path.string(),
          " has images of ", dims[1], " x ", dims[2], " pixels: sides should be 1 to 4096");
  const size_t count = limit == 0 ? stored : std::min(limit, stored);
  ImageDataset set;
  set.height = int(dims[1]);
  set.width = int(dims[2]);
  set.channels = 1;
  set.images = images.read(count * set.image_size());
  const std::vector<uint8_t> values = labels.read(count);
  if (count == stored) {
    images.expect_end();
    labels.expect_end();
  }
  for (size_t n = 0; n < count; ++n) {
    require(values[n] < num_classes, label_path.string(), " has label ", int(values[n]),
            " for image ", n, " (counted from 0): labels are 0 to ", num_classes - 1);
    set.labels.push_back(values[n]);
  }
  return set;
}

ImageSplits load(const std::string& name, const std::string& folder, size_t train_limit,
                 size_t test_limit, const std::vector<std::string>& class_names) {
  require(fs::is_directory(folder), "there is no folder ", folder, ": expected ", name,
          " as published, with train-images-idx3-ubyte.gz and three more files");
  ImageSplits splits{load_split(folder, "train", train_limit),
                     load_split(folder, "t10k", test_limit)};
  require(splits.train.height == splits.test.height && splits.train.width == splits.test.width,
          "the train images in ", folder, " are ", splits.train.height, " x ", splits.train.width,
          " pixels, but the test images ", splits.test.height, " x ", splits.test.width);
  for (ImageDataset* set : {&splits.train, &splits.test}) {
    set->name = name;
    set->class_names = class_names;
  }
  set_mean_and_std(splits);
  return splits;
}

}  // namespace

ImageSplits load_mnist(const std::string& folder, size_t train_limit, size_t test_limit) {
  return load("mnist", folder, train_limit, test_limit,
              {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"});
}

ImageSplits load_fashion_mnist(const std::string& folder, size_t train_limit, size_t test_limit) {
  return load("fashion-mnist", folder, train_limit, test_limit,
              {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
               "Bag", "Ankle boot"});
}

}  // namespace dyt
