// Image folders, as ImageNet and most sets of one's own are laid out:
//
//   DIR/train/CLASS/*.jpg        DIR/val/CLASS/*.jpg  (or DIR/test/...)
//
// Files end in .jpg, .jpeg, .png or .bmp, in any case. Classes are numbered in the order of their
// names. Files come in turns: the first of every class, then the second of every class, each class
// sorted by name; so the first n are spread evenly over the classes.
#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "datasets/images.h"

namespace dyt {

// A split, not yet decoded.
struct ImageFiles {
  std::string folder;  // DIR/train
  std::vector<std::string> class_names;
  std::vector<std::string> files;  // paths
  std::vector<int32_t> labels;
};
struct FolderFiles {
  ImageFiles train, test;  // test: val, or test if there is no val
};

// The first `train_limit` and `test_limit` files of each split; 0: all. Throws Error if the folder,
// a split or the images of a class of the train split are missing, or if the test split has a class
// that the train split does not have.
FolderFiles list_folder(const std::string& folder, size_t train_limit = 0, size_t test_limit = 0);

// A file's image in RGB; or none, and why. A JPEG that is cut off counts as one that can't be
// decoded.
std::optional<Image> decode_image(const std::string& path, std::string& why);

// What evaluation sees of an image: scaled until its shorter side is size / 0.875, of that the
// middle. An image of size x size is left alone.
Image evaluation_view(const Image& image, int size);

// The side of all images, if the files looked at (up to 100, spread over the list) are square and
// of one size; else 0. Files that can't be read are passed over.
int common_size(const ImageFiles& files);
// Error, and what to do, if `size` is that 0.
void require_size(int size, const ImageFiles& files);

// Decodes a whole folder into memory, as evaluation_view shows the images. Throws Error if images
// differ in size and options.size does not say what to make of them, if they do not fit into
// options.memory, if a split has no image that can be decoded, and, if options.strict, on the first
// file that can't be decoded.
ImageSplits load_folder(const std::string& folder, const FolderOptions& options = {},
                        size_t train_limit = 0, size_t test_limit = 0);

// "2 files left out: a.jpg: cut off; b.jpg: not a JPEG": the first few, to be shown. "" if none.
std::string describe_skipped(const std::vector<std::string>& skipped);

}  // namespace dyt
