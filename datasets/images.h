// Labelled images in memory, and how a training step gets its batch: order, augmentation,
// normalisation. Images are bytes (N, H, W, C) until a batch is filled with floats. Images that
// stay files until they are needed are in datasets/folder.h; batches made ahead by other threads in
// datasets/loader.h.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "datasets/augment.h"

namespace dyt {

struct ImageDataset {
  std::string name;
  int height = 0, width = 0, channels = 0;  // channels is at most 3
  std::vector<std::string> class_names;
  std::vector<uint8_t> images;                // (N, H, W, C)
  std::vector<int32_t> labels;                // (N), each in {0 .. classes() - 1}
  std::array<float, 3> mean{}, std{1, 1, 1};  // per channel, of v / 255, over the train split
  std::vector<std::string> skipped;           // "FILE: why" of those that could not be decoded

  size_t size() const { return labels.size(); }
  int classes() const { return int(class_names.size()); }
  size_t image_size() const { return size_t(height) * width * channels; }
  const uint8_t* image(size_t n) const { return images.data() + n * image_size(); }  // (H, W, C)
};

struct ImageSplits {
  ImageDataset train, test;
};

// How a folder of image files is read (datasets/folder.h). The other datasets ask nothing.
struct FolderOptions {
  int size = 0;         // images become size x size; 0: they are square and all of one size
  bool strict = false;  // a file that can't be decoded is an Error, rather than left out
  size_t memory = size_t(4) << 30;  // bytes of pixels that may be held at most
};

// Loads a dataset by name: "synthetic" (datasets/synthetic.h), "cifar10:DIR" (datasets/cifar10.h),
// "mnist:DIR", "fashion:DIR" (datasets/idx.h), "folder:DIR" (datasets/folder.h). At most
// `train_limit` and `test_limit` images, the first ones of each split; 0 takes all there are, and
// for "synthetic", which has no end, the default number.
// Throws Error on an unknown spec and on files that are missing or not what they should be.
ImageSplits load_images(const std::string& spec, size_t train_limit = 0, size_t test_limit = 0,
                        const FolderOptions& folder = {});

// Sets mean and std of both splits to those of the train split's pixels. A channel that never
// varies gets std 1, so that normalising it gives zeros.
void set_mean_and_std(ImageSplits& splits);

// The numbers 0 .. n-1 in a random order that depends only on (n, seed, epoch).
std::vector<uint32_t> epoch_order(size_t n, uint64_t seed, uint64_t epoch);

// Image n, augmented (null: as it is) but for what follows the resized crop (finish_image).
Image take_image(const ImageDataset& dataset, const Augment* augment, uint64_t seed, uint64_t epoch,
                 uint32_t n);

// Fills a batch with the images dataset[indices[b]], augmented and normalised. What happens to an
// image depends on (seed, epoch, its index in the dataset) and not on the batch it is in.
//   indices (B), each below dataset.size();  images (B, H, W, C) and labels (B) are written.
// Throws Error on an index out of range and on an augmentation that check() refuses.
void fill_batch(const ImageDataset& dataset, std::span<const uint32_t> indices,
                const Augment* augment, uint64_t seed, uint64_t epoch, float* images,
                int32_t* labels);

}  // namespace dyt
