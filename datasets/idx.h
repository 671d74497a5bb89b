// The idx format, in which MNIST (LeCun, Cortes, Burges) and Fashion-MNIST (arXiv 1708.07747) are
// published: 60000 images to train on and 10000 to test on, of 28 x 28 grey pixels, ten classes.
//
// An idx file is: two zero bytes, 8 for "unsigned bytes", the number of dimensions; each dimension,
// 4 bytes big-endian; the values, the last dimension fastest.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "datasets/images.h"

namespace dyt {

// Reads train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
// t10k-labels-idx1-ubyte, each as it is or with .gz; one channel. Images may have any size and
// number. Takes the first `train_limit` and `test_limit` images, or all if 0. Throws Error, naming
// the file, if one is missing, cut off, too long, not in this format, or holds a label above 9; or
// if there are not as many labels as images.
ImageSplits load_mnist(const std::string& folder, size_t train_limit = 0, size_t test_limit = 0);
ImageSplits load_fashion_mnist(const std::string& folder, size_t train_limit = 0,
                               size_t test_limit = 0);

}  // namespace dyt
