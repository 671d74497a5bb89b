#include "datasets/images.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/philox.h"
#include "datasets/cifar10.h"
#include "datasets/folder.h"
#include "datasets/idx.h"
#include "datasets/synthetic.h"

namespace dyt {
namespace {

constexpr uint64_t order_stream = uint64_t('O') << 56;  // as the letters of augment.cpp

}  // namespace

ImageSplits load_images(const std::string& spec, size_t train_limit, size_t test_limit,
                        const FolderOptions& folder) {
  if (spec == "synthetic") return load_synthetic(train_limit, test_limit);
  const size_t colon = spec.find(':');
  const std::string kind = spec.substr(0, colon);
  const std::string dir = colon == std::string::npos ? "" : spec.substr(colon + 1);
  if (!dir.empty()) {
    if (kind == "cifar10") return load_cifar10(dir, train_limit, test_limit);
    if (kind == "mnist") return load_mnist(dir, train_limit, test_limit);
    if (kind == "fashion") return load_fashion_mnist(dir, train_limit, test_limit);
    if (kind == "folder") return load_folder(dir, folder, train_limit, test_limit);
  }
  fail("unknown image dataset \"", spec, "\": expected \"synthetic\", \"cifar10:DIR\" (with ",
       "data_batch_1.bin ... and test_batch.bin), \"mnist:DIR\" or \"fashion:DIR\" (with ",
       "train-images-idx3-ubyte ...), or \"folder:DIR\" (with train/CLASS/*.jpg, and val or test)");
}

void set_mean_and_std(ImageSplits& splits) {
  const ImageDataset& train = splits.train;
  std::array<uint64_t, 3> sum{}, squares{};  // of integers: exact in any order
  const size_t pixels = train.size() * train.height * train.width;
  for (size_t i = 0; i < pixels; ++i) {
    for (int c = 0; c < train.channels; ++c) {
      const uint64_t v = train.images[i * train.channels + c];
      sum[c] += v, squares[c] += v * v;
    }
  }
  for (int c = 0; c < train.channels && pixels > 0; ++c) {
    const double mean = double(sum[c]) / double(pixels);
    const double variance = double(squares[c]) / double(pixels) - mean * mean;
    const float deviation = float(std::sqrt(std::max(variance, 0.0)) / 255.0);
    splits.train.mean[c] = float(mean / 255.0);
    splits.train.std[c] = deviation > 0 ? deviation : 1.0f;
  }
  splits.test.mean = splits.train.mean;
  splits.test.std = splits.train.std;
}

std::vector<uint32_t> epoch_order(size_t n, uint64_t seed, uint64_t epoch) {
  require(n <= UINT32_MAX, "epoch_order counts in 32 bits: ", n, " images are too many");
  std::vector<uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  RandomSequence random(seed, order_stream | epoch);
  for (size_t i = n; i > 1; --i) std::swap(order[i - 1], order[random.below(uint32_t(i))]);
  return order;
}

Image take_image(const ImageDataset& dataset, const Augment* augment, uint64_t seed, uint64_t epoch,
                 uint32_t n) {
  Image image(dataset.height, dataset.width, dataset.channels);
  std::copy_n(dataset.image(n), dataset.image_size(), image.pixels.data());
  if (!augment || !augment->resized_crop) return image;
  const Box part = random_part(*augment, image.height, image.width, seed, epoch, n);
  return resize_bicubic(image, part, image.height, image.width);
}

void fill_batch(const ImageDataset& dataset, std::span<const uint32_t> indices,
                const Augment* augment, uint64_t seed, uint64_t epoch, float* images,
                int32_t* labels) {
  for (const uint32_t index : indices) {
    require(index < dataset.size(), "image ", index, " of dataset \"", dataset.name,
            "\" does not exist: it has ", dataset.size(), " images, numbered from 0");
  }
  if (augment) check(*augment);
  const Normalise normalise(dataset.channels, dataset.mean, dataset.std);
#pragma omp parallel for schedule(static)
  for (size_t b = 0; b < indices.size(); ++b) {
    Image image = take_image(dataset, augment, seed, epoch, indices[b]);
    finish_image(image, augment, normalise, seed, epoch, indices[b],
                 images + b * dataset.image_size());
    labels[b] = dataset.labels[indices[b]];
  }
}

}  // namespace dyt
