#include "datasets/folder.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

#include "core/error.h"

namespace dyt {
namespace {

namespace fs = std::filesystem;

constexpr double crop_ratio = 0.875;
constexpr int64_t most_pixels = 200'000'000;  // of one image: more is a mistake or an attack

bool is_image_name(const fs::path& path) {
  std::string ending = path.extension().string();
  for (char& c : ending) c = char(std::tolower(static_cast<unsigned char>(c)));
  return ending == ".jpg" || ending == ".jpeg" || ending == ".png" || ending == ".bmp";
}

// Names of what is in a folder and not hidden, sorted.
template <class Keep>
std::vector<std::string> sorted_names(const fs::path& folder, const Keep& keep) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name[0] != '.' && keep(entry)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}
std::vector<std::string> classes_in(const fs::path& split) {
  return sorted_names(split, [](const fs::directory_entry& e) { return e.is_directory(); });
}

// The files of a split, the classes taking turns.
ImageFiles list_split(const fs::path& split, const std::vector<std::string>& class_names,
                      size_t limit) {
  ImageFiles list{.folder = split.string(), .class_names = class_names, .files = {}, .labels = {}};
  std::vector<std::vector<std::string>> names(class_names.size());
  size_t total = 0, longest = 0;
  for (size_t c = 0; c < class_names.size(); ++c) {
    const fs::path folder = split / class_names[c];
    if (!fs::is_directory(folder)) continue;
    names[c] = sorted_names(folder, [](const fs::directory_entry& e) {
      return is_image_name(e.path()) && e.is_regular_file();
    });
    total += names[c].size();
    longest = std::max(longest, names[c].size());
  }
  const size_t count = limit == 0 ? total : std::min(limit, total);
  for (size_t turn = 0; turn < longest && list.files.size() < count; ++turn) {
    for (size_t c = 0; c < names.size() && list.files.size() < count; ++c) {
      if (turn >= names[c].size()) continue;
      list.files.push_back((split / class_names[c] / names[c][turn]).string());
      list.labels.push_back(int32_t(c));
    }
  }
  return list;
}

// Empty if it can't be read, or is no file.
std::vector<uint8_t> read_bytes(const std::string& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return {};
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = in.tellg();
  std::vector<uint8_t> bytes(size > 0 ? size_t(size) : 0);
  in.seekg(0);
  in.read(reinterpret_cast<char*>(bytes.data()), std::streamsize(bytes.size()));
  if (!in) bytes.clear();
  return bytes;
}

// stb_image makes up what a JPEG that is cut off lacks. So we look for the end ourselves: segments
// 0xff MARKER LENGTH from the start; after the one that begins a scan, compressed data up to the
// next marker that is neither a stuffed zero nor a restart.
bool jpeg_has_an_end(const std::vector<uint8_t>& file) {
  size_t at = 2;
  while (at + 2 <= file.size()) {
    if (file[at] != 0xff) return false;
    const uint8_t marker = file[at + 1];
    if (marker == 0xff) {  // padding
      ++at;
      continue;
    }
    if (marker == 0xd9) return true;
    if (at + 4 > file.size()) return false;
    at += 2 + (size_t(file[at + 2]) << 8 | file[at + 3]);
    if (marker != 0xda) continue;
    while (at + 1 < file.size() &&
           (file[at] != 0xff || file[at + 1] == 0 || (file[at + 1] & 0xf8) == 0xd0)) {
      ++at;
    }
  }
  return false;
}

// Nor does stb_image miss the pixels that a BMP lacks. (One that it reads has no compression.)
bool bmp_has_its_pixels(const std::vector<uint8_t>& file, int width, int height) {
  const auto number = [&](size_t at, size_t bytes) {
    int64_t value = 0;
    for (size_t i = 0; i < bytes && at + i < file.size(); ++i) {
      value |= int64_t(file[at + i]) << 8 * i;
    }
    return value;
  };
  const bool oldest = number(14, 4) == 12;  // its header is shorter
  const int64_t bits = number(oldest ? 24 : 28, 2), row = (width * bits + 31) / 32 * 4;
  return number(10, 4) + row * height <= int64_t(file.size());
}

// Width and height without decoding.
std::optional<std::pair<int, int>> size_of_file(const std::string& path) {
  const std::vector<uint8_t> bytes = read_bytes(path);
  int width = 0, height = 0, channels = 0;
  if (!stbi_info_from_memory(bytes.data(), int(bytes.size()), &width, &height, &channels))
    return {};
  return std::pair{width, height};
}

// A split into memory.
ImageDataset load_split(const ImageFiles& list, int size, bool strict, const std::string& name) {
  ImageDataset set;
  set.name = name;
  set.height = set.width = size;
  set.channels = 3;
  set.class_names = list.class_names;
  set.images.resize(list.files.size() * set.image_size());
  std::vector<std::string> problems(list.files.size());
  std::atomic<bool> stop = false;
#pragma omp parallel for schedule(dynamic, 16)
  for (size_t n = 0; n < list.files.size(); ++n) {
    if (stop) continue;
    const std::optional<Image> image = decode_image(list.files[n], problems[n]);
    if (!image) {
      if (strict) stop = true;
      continue;
    }
    const Image view = evaluation_view(*image, size);
    std::copy(view.pixels.begin(), view.pixels.end(), set.images.data() + n * set.image_size());
  }
  size_t kept = 0;
  for (size_t n = 0; n < list.files.size(); ++n) {
    if (!problems[n].empty()) {
      require(!strict, "cannot decode ", list.files[n], ": ", problems[n]);
      set.skipped.push_back(list.files[n] + ": " + problems[n]);
      continue;
    }
    if (kept != n) {
      std::copy_n(set.image(n), set.image_size(), set.images.data() + kept * set.image_size());
    }
    set.labels.push_back(list.labels[n]);
    ++kept;
  }
  set.images.resize(kept * set.image_size());
  require(kept > 0, "none of the ", list.files.size(), " images in ", list.folder,
          " can be decoded: ", describe_skipped(set.skipped));
  return set;
}

}  // namespace

FolderFiles list_folder(const std::string& folder, size_t train_limit, size_t test_limit) {
  const fs::path root = folder;
  require(fs::is_directory(root), "there is no folder ", folder,
          ": expected one with train/CLASS/*.jpg, and val or test");
  require(fs::is_directory(root / "train"), "there is no folder ", (root / "train").string(),
          ": an image folder has train/CLASS/*.jpg, and val or test");
  const fs::path test = fs::is_directory(root / "val") ? root / "val" : root / "test";
  require(fs::is_directory(test), "there is neither ", (root / "val").string(), " nor ",
          test.string(), ": an image folder has one of them, to evaluate on");
  const std::vector<std::string> classes = classes_in(root / "train");
  require(!classes.empty(), (root / "train").string(),
          " is empty: it should hold a folder of images for each class");
  for (const std::string& name : classes_in(test)) {
    require(std::binary_search(classes.begin(), classes.end(), name), (test / name).string(),
            " is a class of which there is no ", (root / "train" / name).string());
  }
  FolderFiles lists{list_split(root / "train", classes, 0), list_split(test, classes, test_limit)};
  std::vector<bool> seen(classes.size());
  for (const int32_t label : lists.train.labels) seen[size_t(label)] = true;
  for (size_t c = 0; c < classes.size(); ++c) {
    require(seen[c], (root / "train" / classes[c]).string(),
            " holds no image (.jpg, .jpeg, .png or .bmp)");
  }
  require(!lists.test.files.empty(), test.string(), " holds no image (CLASS/*.jpg ...)");
  if (train_limit > 0 && train_limit < lists.train.files.size()) {
    lists.train.files.resize(train_limit);
    lists.train.labels.resize(train_limit);
  }
  return lists;
}

std::optional<Image> decode_image(const std::string& path, std::string& why) {
  const std::vector<uint8_t> bytes = read_bytes(path);
  if (bytes.empty()) {
    why = "it is empty or cannot be read";
    return {};
  }
  int width = 0, height = 0, channels = 0;
  const auto* data = bytes.data();
  const int size = int(std::min(bytes.size(), size_t(INT32_MAX)));
  if (!stbi_info_from_memory(data, size, &width, &height, &channels)) {
    why = std::string("it is not a JPEG, PNG or BMP that can be read (") + stbi_failure_reason() +
          ")";
    return {};
  }
  if (int64_t(width) * height > most_pixels) {
    why = "it claims to have " + std::to_string(width) + " x " + std::to_string(height) + " pixels";
    return {};
  }
  const bool is_jpeg = bytes[0] == 0xff && bytes[1] == 0xd8;
  const bool is_bmp = bytes[0] == 'B' && bytes[1] == 'M';
  if ((is_jpeg && !jpeg_has_an_end(bytes)) ||
      (is_bmp && !bmp_has_its_pixels(bytes, width, height))) {
    why = "it is cut off";
    return {};
  }
  const std::unique_ptr<stbi_uc, void (*)(void*)> rgb(
      stbi_load_from_memory(data, size, &width, &height, &channels, 3), stbi_image_free);
  if (!rgb) {
    why = std::string("it is damaged (") + stbi_failure_reason() + ")";
    return {};
  }
  Image image(height, width, 3);
  std::memcpy(image.pixels.data(), rgb.get(), image.pixels.size());
  return image;
}

Image evaluation_view(const Image& image, int size) {
  const int H = image.height, W = image.width;
  if (H == size && W == size) return image;
  const int shorter = int(size / crop_ratio);
  const auto longer_side = [&](int longer, int other) {
    return int(std::min<int64_t>(int64_t(shorter) * longer / other, INT32_MAX));
  };
  const int height = H <= W ? shorter : longer_side(H, W);
  const int width = H <= W ? longer_side(W, H) : shorter;
  const Box middle{int(std::nearbyint((height - size) / 2.0)),
                   int(std::nearbyint((width - size) / 2.0)), size, size};
  return resize_bicubic(image, {0, 0, H, W}, height, width, middle);
}

int common_size(const ImageFiles& files) {
  const size_t step = std::max<size_t>(1, files.files.size() / 100);
  int common = 0;
  for (size_t n = 0; n < files.files.size(); n += step) {
    const auto size = size_of_file(files.files[n]);
    if (!size) continue;
    const auto [width, height] = *size;
    if (width != height || (common != 0 && width != common)) return 0;
    common = width;
  }
  return common;
}

void require_size(int size, const ImageFiles& files) {
  require(size > 0, "the images in ", files.folder,
          " are not all of one size, and square: dyt train makes them so with --image-size");
}

ImageSplits load_folder(const std::string& folder, const FolderOptions& options, size_t train_limit,
                        size_t test_limit) {
  require(options.size >= 0, "images can't be made ", options.size, " pixels wide");
  const FolderFiles lists = list_folder(folder, train_limit, test_limit);
  const int size = options.size > 0 ? options.size : common_size(lists.train);
  require_size(size, lists.train);
  const size_t bytes = (lists.train.files.size() + lists.test.files.size()) * size * size * 3;
  require(bytes <= options.memory, "the ", lists.train.files.size() + lists.test.files.size(),
          " images in ", folder, " take ", bytes >> 20, " MiB at ", size, " x ", size,
          " pixels, and only ", options.memory >> 20, " MiB may be used");
  const std::string name = fs::path(folder + "/.").parent_path().filename().string();
  ImageSplits splits{load_split(lists.train, size, options.strict, name),
                     load_split(lists.test, size, options.strict, name)};
  set_mean_and_std(splits);
  return splits;
}

std::string describe_skipped(const std::vector<std::string>& skipped) {
  if (skipped.empty()) return "";
  constexpr size_t shown = 3;
  std::string text = std::to_string(skipped.size());
  text += skipped.size() == 1 ? " file left out: " : " files left out: ";
  for (size_t i = 0; i < std::min(shown, skipped.size()); ++i) {
    text += (i ? "; " : "") + skipped[i];
  }
  return text + (skipped.size() > shown ? "; ..." : "");
}

}  // namespace dyt
