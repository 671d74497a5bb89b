// The safetensors format, read and written strictly: the files PyTorch, timm and Hugging Face
// exchange weights in, and therefore our checkpoints, fixtures and `dyt forward` tensors.
//
// A file is: 8 bytes, the header's length N (little-endian); N bytes of JSON,
//   {"__metadata__": {"key": "text"},
//    "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
// and the tensors' bytes, row-major and little-endian, one after the other without gaps; offsets
// count from the end of the header. There is nothing in it to execute, and everything can be
// checked before a single number is believed.
// Format: https://github.com/huggingface/safetensors
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/tensor.h"

namespace dyt {

// The format's number types, named as in the file (the 8-bit and 4-bit floats are not supported).
enum class StoredType { BOOL, U8, I8, U16, I16, U32, I32, U64, I64, F16, BF16, F32, F64 };
size_t size_of(StoredType type);       // bytes of one number
const char* name_of(StoredType type);  // "F32"

template <class T>
struct stored_type_of;
template <>
struct stored_type_of<uint8_t> {
  static constexpr auto value = StoredType::U8;
};
template <>
struct stored_type_of<int32_t> {
  static constexpr auto value = StoredType::I32;
};
template <>
struct stored_type_of<int64_t> {
  static constexpr auto value = StoredType::I64;
};
template <>
struct stored_type_of<bf16> {
  static constexpr auto value = StoredType::BF16;
};
template <>
struct stored_type_of<float> {
  static constexpr auto value = StoredType::F32;
};
template <>
struct stored_type_of<double> {
  static constexpr auto value = StoredType::F64;
};

struct StoredTensor {
  StoredType type = StoredType::F32;
  std::vector<int64_t> shape;    // {} is a scalar: one number
  std::vector<std::byte> bytes;  // product of shape x size_of(type)

  int64_t size() const { return int64_t(bytes.size() / size_of(type)); }  // how many numbers
};

std::vector<int64_t> shape_in_file(const Shape& shape);
std::string shape_text(const std::vector<int64_t>& shape);  // "[64, 3, 4, 4]"

// A file's content: tensors by name and free text by key. `source` is the path it was read from
// and only serves error messages.
struct TensorFile {
  std::map<std::string, StoredTensor> tensors;
  std::map<std::string, std::string> metadata;
  std::string source = "(in memory)";

  bool contains(const std::string& name) const { return tensors.count(name) != 0; }
  // Throws Error naming a few tensors that are there if this one is not.
  const StoredTensor& at(const std::string& name) const;

  // The tensor's numbers, converted. floats and doubles take F64, F32, F16 and BF16; integers takes
  // BOOL and every integer type. Any other type throws Error.
  std::vector<float> floats(const std::string& name) const;
  std::vector<double> doubles(const std::string& name) const;
  std::vector<int64_t> integers(const std::string& name) const;

  // Copies values in under a new name. Throws Error if the name is taken or shape disagrees.
  template <class T>
  void add(const std::string& name, const std::vector<int64_t>& shape, std::span<const T> values) {
    add_bytes(name, stored_type_of<T>::value, shape, std::as_bytes(values));
  }
  template <class T>
  void add(const std::string& name, const std::vector<int64_t>& shape,
           const std::vector<T>& values) {
    add(name, shape, std::span<const T>(values));
  }
  void add_bytes(const std::string& name, StoredType type, const std::vector<int64_t>& shape,
                 std::span<const std::byte> bytes);
};

// Throws Error, naming the file and the tensor, for anything but a whole and consistent file.
TensorFile read_safetensors(const std::filesystem::path& path);

// Writes beside `path`, flushes to the disk and renames: whoever looks at `path`, even after a
// power cut, sees the old file or the whole new one. On Error (full disk, no permission) the old
// file is as it was and nothing new lies beside it.
void write_safetensors(const std::filesystem::path& path, const TensorFile& file);

// For before any work: throws Error if no file of this name could be written now (no such folder,
// no permission). Nothing is left behind, and a file that is there stays as it is.
void require_writable(const std::filesystem::path& path);

}  // namespace dyt
