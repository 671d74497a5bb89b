// Labelled images in memory, and how a training step gets its batch: order, augmentation,
// normalisation. Images are bytes (N, H, W, C) until a batch is filled with floats.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dyt {

struct ImageDataset {
  std::string name;
  int height = 0, width = 0, channels = 0;  // channels is at most 3
  std::vector<std::string> class_names;
  std::vector<uint8_t> images;                // (N, H, W, C)
  std::vector<int32_t> labels;                // (N), each in {0 .. classes() - 1}
  std::array<float, 3> mean{}, std{1, 1, 1};  // per channel, of v / 255, over the train split

  size_t size() const { return labels.size(); }
  int classes() const { return int(class_names.size()); }
  size_t image_size() const { return size_t(height) * width * channels; }
  const uint8_t* image(size_t n) const { return images.data() + n * image_size(); }  // (H, W, C)
};

struct ImageSplits {
  ImageDataset train, test;
};

// Loads a dataset by name: "synthetic" (datasets/synthetic.h) or "cifar10:DIR"
// (datasets/cifar10.h). At most `train_limit` and `test_limit` images, the first ones of each
// split; 0 takes all there are, and for "synthetic", which has no end, the default number.
// Throws Error on an unknown spec and on files that are missing or not what they should be.
ImageSplits load_images(const std::string& spec, size_t train_limit = 0, size_t test_limit = 0);

// Sets mean and std of both splits to those of the train split's pixels. A channel that never
// varies gets std 1, so that normalising it gives zeros.
void set_mean_and_std(ImageSplits& splits);

// The numbers 0 .. n-1 in a random order that depends only on (n, seed, epoch).
std::vector<uint32_t> epoch_order(size_t n, uint64_t seed, uint64_t epoch);

// What training does to an image; evaluation does nothing (nullptr).
struct Augment {
  bool flip = true;      // mirror left-right, with probability 1/2
  int crop_padding = 4;  // pad with this many black pixels on every side, then crop (H, W) anywhere
};

// Fills a batch with the images dataset[indices[b]]: first crop, then flip, then (v / 255 - mean) /
// std. The padding is black before normalisation. What happens to an image depends on (seed, epoch,
// its index in the dataset) and not on the batch it is in.
//   indices (B), each below dataset.size();  images (B, H, W, C) and labels (B) are written.
// Throws Error on an index out of range and on a negative padding.
void fill_batch(const ImageDataset& dataset, std::span<const uint32_t> indices,
                const Augment* augment, uint64_t seed, uint64_t epoch, float* images,
                int32_t* labels);

}  // namespace dyt
