// CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009): 32 x 32 RGB
// photographs of ten kinds of things, 50000 to train on and 10000 to test on.
#pragma once
#include <cstddef>
#include <string>

#include "datasets/images.h"

namespace dyt {

// Reads the published binary version: data_batch_1.bin ... data_batch_5.bin, test_batch.bin and, if
// present, the class names in batches.meta.txt. A record is 3073 bytes: the label, then 1024 red,
// 1024 green and 1024 blue values, each row by row; here the pixels become (H, W, C).
// Subsets are welcome: a file may hold fewer records, and the last data batches may be absent.
// Takes the first `train_limit` and `test_limit` images, or all if 0. Throws Error, naming the
// file, if one is missing, empty, cut off within a record, or holds a label above 9 among those
// taken.
ImageSplits load_cifar10(const std::string& folder, size_t train_limit = 0, size_t test_limit = 0);

}  // namespace dyt
