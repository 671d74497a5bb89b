#include "datasets/images.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/philox.h"
#include "datasets/cifar10.h"
#include "datasets/synthetic.h"

namespace dyt {
namespace {

// The streams of a seed that datasets draw from: a letter in the top byte, the epoch below, so that
// they meet none of a training step's.
constexpr uint64_t order_stream = uint64_t('O') << 56, augment_stream = uint64_t('A') << 56;

// Where the pixels of one augmented image come from: (y, x) of the result is (y + dy, x + dx) of
// the original, counted from the right edge if flipped.
struct Placement {
  int dy = 0, dx = 0;
  bool flip = false;
};

Placement random_placement(const Augment& augment, uint64_t seed, uint64_t epoch, uint32_t index) {
  const Random4 bits = philox(seed, index, augment_stream | epoch);
  const uint64_t offsets = 2 * uint64_t(augment.crop_padding) + 1;
  return {.dy = int(bits.x[0] * offsets >> 32) - augment.crop_padding,
          .dx = int(bits.x[1] * offsets >> 32) - augment.crop_padding,
          .flip = augment.flip && (bits.x[2] >> 31)};
}

// normalised[c][v] = (v / 255 - mean[c]) / std[c], for every byte v.
using NormalisedBytes = std::array<std::array<float, 256>, 3>;
NormalisedBytes normalised_bytes(const ImageDataset& set) {
  NormalisedBytes table{};
  for (int c = 0; c < set.channels; ++c) {
    for (int v = 0; v < 256; ++v) {
      table[c][v] = float((v / 255.0 - double(set.mean[c])) / double(set.std[c]));
    }
  }
  return table;
}

void copy_image(const ImageDataset& set, uint32_t index, const Placement& place,
                const NormalisedBytes& table, float* out) {
  const int H = set.height, W = set.width, C = set.channels;
  const uint8_t* image = set.image(index);
  for (int y = 0; y < H; ++y) {
    for (int x = 0; x < W; ++x) {
      const int from_y = y + place.dy, from_x = (place.flip ? W - 1 - x : x) + place.dx;
      const bool inside = from_y >= 0 && from_y < H && from_x >= 0 && from_x < W;
      const uint8_t* pixel = image + (size_t(from_y) * W + from_x) * C;
      for (int c = 0; c < C; ++c) *out++ = table[c][inside ? pixel[c] : 0];
    }
  }
}

}  // namespace

ImageSplits load_images(const std::string& spec, size_t train_limit, size_t test_limit) {
  const std::string cifar10 = "cifar10:";
  if (spec == "synthetic") return load_synthetic(train_limit, test_limit);
  if (spec.starts_with(cifar10) && spec.size() > cifar10.size()) {
    return load_cifar10(spec.substr(cifar10.size()), train_limit, test_limit);
  }
  fail("unknown image dataset \"", spec,
       "\": expected \"synthetic\", or \"cifar10:DIR\" where DIR ",
       "holds data_batch_1.bin ... and test_batch.bin");
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

void fill_batch(const ImageDataset& dataset, std::span<const uint32_t> indices,
                const Augment* augment, uint64_t seed, uint64_t epoch, float* images,
                int32_t* labels) {
  for (const uint32_t index : indices) {
    require(index < dataset.size(), "image ", index, " of dataset \"", dataset.name,
            "\" does not exist: it has ", dataset.size(), " images, numbered from 0");
  }
  require(!augment || augment->crop_padding >= 0, "crop padding is ",
          augment ? augment->crop_padding : 0, " pixels: it must be 0 or more");
  const NormalisedBytes table = normalised_bytes(dataset);
#pragma omp parallel for schedule(static)
  for (size_t b = 0; b < indices.size(); ++b) {
    const Placement place =
        augment ? random_placement(*augment, seed, epoch, indices[b]) : Placement{};
    copy_image(dataset, indices[b], place, table, images + b * dataset.image_size());
    labels[b] = dataset.labels[indices[b]];
  }
}

}  // namespace dyt
