#include "core/safetensors.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/error.h"

namespace dyt {
namespace fs = std::filesystem;
using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors bytes are little-endian");

namespace {

constexpr uint64_t max_header_bytes = 100'000'000;  // the official reader's limit

struct TypeRow {
  StoredType type;
  const char* name;
  size_t bytes;
};
constexpr TypeRow type_table[] = {
    {StoredType::BOOL, "BOOL", 1}, {StoredType::U8, "U8", 1},     {StoredType::I8, "I8", 1},
    {StoredType::U16, "U16", 2},   {StoredType::I16, "I16", 2},   {StoredType::U32, "U32", 4},
    {StoredType::I32, "I32", 4},   {StoredType::U64, "U64", 8},   {StoredType::I64, "I64", 8},
    {StoredType::F16, "F16", 2},   {StoredType::BF16, "BF16", 2}, {StoredType::F32, "F32", 4},
    {StoredType::F64, "F64", 8},
};

const TypeRow& row_of(StoredType type) {
  for (const TypeRow& row : type_table) {
    if (row.type == type) return row;
  }
  fail("StoredType ", int(type), " is not one of the safetensors types");
}

// Any text as one printable, quoted, not too long word, whatever a broken file put into it.
std::string quoted(const std::string& text) {
  const std::string start = text.size() <= 120 ? text : text.substr(0, 117) + "...";
  return json(start).dump(-1, ' ', true, json::error_handler_t::replace);
}

std::string shown(const json& value) {
  return quoted(value.is_string() ? value.get<std::string>() : value.dump());
}

std::string system_reason() { return std::strerror(errno); }

// shape x size_of(type) in bytes, or false if a dimension is negative or the product exceeds int64.
bool byte_count(const std::vector<int64_t>& shape, StoredType type, uint64_t& bytes) {
  unsigned __int128 product = size_of(type);
  bool empty = false;
  for (const int64_t dimension : shape) {
    if (dimension < 0) return false;
    empty = empty || dimension == 0;
    product *= uint64_t(std::max<int64_t>(dimension, 1));
    if (product > uint64_t(std::numeric_limits<int64_t>::max())) return false;
  }
  bytes = empty ? 0 : uint64_t(product);
  return true;
}

// --- Reading -------------------------------------------------------------------------------------

// One tensor's line of the header.
struct Entry {
  std::string name;
  StoredTensor tensor;
  uint64_t begin, end;
};

// JSON keeps the last of two equal keys and says nothing, so keys are watched while they pass.
json parse_header(const std::string& text, const std::string& file) {
  require(text[0] == '{', file, ": the header must begin with '{': this is not a safetensors file");
  std::vector<std::set<std::string>> keys_at_depth;
  auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    require(depth <= 4, file, ": the header is nested deeper than the format allows");
    keys_at_depth.resize(size_t(depth) + 1);
    if (event == json::parse_event_t::object_start) keys_at_depth.emplace_back();
    if (event == json::parse_event_t::key) {
      const std::string key = parsed.get<std::string>();
      require(keys_at_depth[size_t(depth)].insert(key).second, file, ": the header names ",
              quoted(key), depth == 1 ? " twice" : " twice within one entry");
    }
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& error) {
    fail(file, ": the header is not valid JSON (near byte ",
         error.id == 101 ? static_cast<const json::parse_error&>(error).byte : 0, " of ",
         text.size(), ")");
  }
}

uint64_t unsigned_of(const json& value, const std::string& what) {
  require(value.is_number_unsigned(), what, " is ", shown(value),
          " where a whole number of 0 or more is needed");
  const uint64_t number = value.get<uint64_t>();
  require(number <= uint64_t(std::numeric_limits<int64_t>::max()), what, " is ", number,
          ", beyond 64-bit sizes");
  return number;
}

StoredType type_of(const json& value, const std::string& tensor) {
  std::string known;
  for (const TypeRow& row : type_table) {
    if (value == row.name) return row.type;
    known += std::string(known.empty() ? "" : " ") + row.name;
  }
  fail(tensor, " has the unknown dtype ", shown(value), " (known: ", known, ")");
}

Entry parse_entry(const std::string& name, const json& value, const std::string& file) {
  const std::string tensor = file + ": tensor " + quoted(name);
  require(value.is_object() && value.size() == 3 && value.contains("dtype") &&
              value.contains("shape") && value.contains("data_offsets"),
          tensor, " must have exactly dtype, shape and data_offsets");
  const json &shape = value["shape"], &offsets = value["data_offsets"];
  require(shape.is_array(), tensor, ": its shape must be a list of sizes");
  require(offsets.is_array() && offsets.size() == 2, tensor,
          ": its data_offsets must be [begin, end]");

  Entry entry{.name = name, .tensor = {}, .begin = 0, .end = 0};
  entry.tensor.type = type_of(value["dtype"], tensor);
  for (const json& dimension : shape) {
    entry.tensor.shape.push_back(int64_t(unsigned_of(dimension, tensor + ": a size of its shape")));
  }
  entry.begin = unsigned_of(offsets[0], tensor + ": the begin of its data_offsets");
  entry.end = unsigned_of(offsets[1], tensor + ": the end of its data_offsets");

  uint64_t bytes = 0;
  require(byte_count(entry.tensor.shape, entry.tensor.type, bytes), tensor, " has the shape ",
          shape_text(entry.tensor.shape), ": more bytes than 64 bits can count");
  require(entry.begin <= entry.end && entry.end - entry.begin == bytes, tensor, " of ",
          name_of(entry.tensor.type), " ", shape_text(entry.tensor.shape), " needs ", bytes,
          " bytes, but its data_offsets are [", entry.begin, ", ", entry.end, "]");
  return entry;
}

// Sorted by offset, the tensors must tile the data: each begins where the one before ends.
void check_tiling(std::vector<Entry>& entries, uint64_t data_bytes, const std::string& file) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t expected = 0;
  for (const Entry& entry : entries) {
    require(entry.end <= data_bytes, file, ": tensor ", quoted(entry.name), " ends at byte ",
            entry.end, " of the data, but the file has only ", data_bytes,
            " bytes of data: it is truncated or its header is wrong");
    require(entry.begin >= expected, file, ": tensor ", quoted(entry.name), " begins at byte ",
            entry.begin, " of the data and overlaps the one before it, which ends at ", expected);
    require(entry.begin == expected, file, ": tensor ", quoted(entry.name), " begins at byte ",
            entry.begin, " of the data and leaves a gap after byte ", expected);
    expected = entry.end;
  }
  require(expected == data_bytes, file, ": ", data_bytes - expected,
          " bytes follow the last tensor: the file is damaged or its header is wrong");
}

std::map<std::string, std::string> parse_metadata(const json& value, const std::string& file) {
  require(value.is_object(), file, ": __metadata__ must map text to text");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    require(text.is_string(), file, ": __metadata__ entry ", quoted(key), " must be text");
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

// --- Writing -------------------------------------------------------------------------------------

// A file being written: removed again unless `keep` is called.
class PartialFile {
 public:
  explicit PartialFile(fs::path target)
      : target_(std::move(target)),
        path_(target_.string() + "." + std::to_string(getpid()) + ".partial") {
    descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    require(descriptor_ >= 0, "cannot write ", target_.string(), ": ", system_reason());
  }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;
  ~PartialFile() {
    if (descriptor_ >= 0) close(descriptor_);
    if (!kept_) unlink(path_.c_str());
  }

  void write(const void* data, size_t bytes) {
    const char* next = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t written = ::write(descriptor_, next, std::min<size_t>(bytes, 1 << 30));
      if (written < 0 && errno == EINTR) continue;
      check(written > 0);
      next += written, bytes -= size_t(written);
    }
  }

  // Bytes first, then the name, then the directory that holds the name: in this order a power cut
  // finds the old file or the new one, never a mixture.
  void keep() {
    check(fsync(descriptor_) == 0);
    const int descriptor = std::exchange(descriptor_, -1);
    check(close(descriptor) == 0);
    check(rename(path_.c_str(), target_.c_str()) == 0);
    kept_ = true;
    const fs::path folder = target_.has_parent_path() ? target_.parent_path() : fs::path(".");
    const int directory = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return;  // a folder we may write but not read: the new file is in place
    fsync(directory);
    close(directory);
  }

 private:
  void check(bool done) const {
    require(done, "cannot write ", target_.string(), ": ", system_reason(),
            " (a file of that name, if there was one, is unchanged)");
  }
  fs::path target_, path_;
  int descriptor_ = -1;
  bool kept_ = false;
};

using NamedTensor = std::pair<const std::string, StoredTensor>;

// Wide types first, so that every tensor starts at a multiple of its number's size; then by name.
std::vector<const NamedTensor*> in_file_order(const TensorFile& file) {
  std::vector<const NamedTensor*> order;
  for (const NamedTensor& named : file.tensors) order.push_back(&named);
  std::stable_sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    return size_of(a->second.type) > size_of(b->second.type);
  });
  return order;
}

void check_consistent(const std::string& name, const StoredTensor& tensor) {
  uint64_t bytes = 0;
  require(name != "__metadata__", "no tensor can be named __metadata__: the format reserves it");
  require(byte_count(tensor.shape, tensor.type, bytes) && bytes == tensor.bytes.size(), "tensor ",
          quoted(name), " of ", name_of(tensor.type), " ", shape_text(tensor.shape), " has ",
          tensor.bytes.size(), " bytes, which do not fit its shape");
}

std::string header_text(const TensorFile& file, const std::vector<const NamedTensor*>& order) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!file.metadata.empty()) header["__metadata__"] = file.metadata;
  uint64_t begin = 0;
  for (const NamedTensor* named : order) {
    const auto& [name, tensor] = *named;
    check_consistent(name, tensor);
    const uint64_t end = begin + tensor.bytes.size();
    header[name] = {
        {"dtype", name_of(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  try {
    std::string text = header.dump();
    text.append((8 - text.size() % 8) % 8, ' ');
    return text;
  } catch (const json::exception&) {
    fail("a tensor name or a metadata text is not valid UTF-8");
  }
}

// --- Conversion ----------------------------------------------------------------------------------

template <class From, class To>
std::vector<To> converted(const StoredTensor& tensor) {
  std::vector<To> values(tensor.bytes.size() / sizeof(From));
  for (size_t i = 0; i < values.size(); ++i) {
    From value;
    std::memcpy(&value, tensor.bytes.data() + i * sizeof(From), sizeof(From));
    values[i] = To(value);
  }
  return values;
}

// IEEE half precision: a sign, 5 bits of exponent, 10 of fraction.
struct Half {
  uint16_t bits;
  operator float() const {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? std::ldexp(float(fraction), -24)
                                       : std::ldexp(float(1024 + fraction), exponent - 25);
    return bits >> 15 ? -size : size;
  }
};

template <class To>
std::vector<To> reals(const TensorFile& file, const std::string& name) {
  const StoredTensor& tensor = file.at(name);
  switch (tensor.type) {
    case StoredType::F32:
      return converted<float, To>(tensor);
    case StoredType::F64:
      return converted<double, To>(tensor);
    case StoredType::BF16:
      return converted<bf16, To>(tensor);
    case StoredType::F16:
      return converted<Half, To>(tensor);
    default:
      fail(file.source, ": tensor ", quoted(name), " is ", name_of(tensor.type),
           "; F64, F32, F16 or BF16 is needed here");
  }
}

}  // namespace

// --- Public --------------------------------------------------------------------------------------

size_t size_of(StoredType type) { return row_of(type).bytes; }
const char* name_of(StoredType type) { return row_of(type).name; }

std::vector<int64_t> shape_in_file(const Shape& shape) {
  std::vector<int64_t> list;
  for (int i = 0; i < shape.rank(); ++i) list.push_back(shape[i]);
  return list;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

const StoredTensor& TensorFile::at(const std::string& name) const {
  const auto found = tensors.find(name);
  if (found != tensors.end()) return found->second;
  // The names around where it would stand share its beginning, if any do.
  auto near = tensors.lower_bound(name);
  for (int step = 0; step < 2 && near != tensors.begin(); ++step) --near;
  std::string some;
  for (int shown = 0; shown < 4 && near != tensors.end(); ++shown, ++near) {
    some += (shown ? ", " : "") + quoted(near->first);
  }
  fail(source, ": no tensor ", quoted(name), " among ", tensors.size(),
       tensors.empty() ? "" : ", for example ", some);
}

std::vector<float> TensorFile::floats(const std::string& name) const {
  return reals<float>(*this, name);
}

std::vector<double> TensorFile::doubles(const std::string& name) const {
  return reals<double>(*this, name);
}

std::vector<int64_t> TensorFile::integers(const std::string& name) const {
  const StoredTensor& tensor = at(name);
  switch (tensor.type) {
    case StoredType::BOOL:
    case StoredType::U8:
      return converted<uint8_t, int64_t>(tensor);
    case StoredType::I8:
      return converted<int8_t, int64_t>(tensor);
    case StoredType::U16:
      return converted<uint16_t, int64_t>(tensor);
    case StoredType::I16:
      return converted<int16_t, int64_t>(tensor);
    case StoredType::U32:
      return converted<uint32_t, int64_t>(tensor);
    case StoredType::I32:
      return converted<int32_t, int64_t>(tensor);
    case StoredType::I64:
      return converted<int64_t, int64_t>(tensor);
    case StoredType::U64: {
      std::vector<int64_t> values = converted<uint64_t, int64_t>(tensor);
      require(std::all_of(values.begin(), values.end(), [](int64_t v) { return v >= 0; }), source,
              ": tensor ", quoted(name), " holds a U64 beyond the largest I64");
      return values;
    }
    default:
      fail(source, ": tensor ", quoted(name), " is ", name_of(tensor.type),
           "; an integer type is needed here");
  }
}

void TensorFile::add_bytes(const std::string& name, StoredType type,
                           const std::vector<int64_t>& shape, std::span<const std::byte> bytes) {
  StoredTensor tensor{.type = type, .shape = shape, .bytes = {bytes.begin(), bytes.end()}};
  check_consistent(name, tensor);
  require(tensors.emplace(name, std::move(tensor)).second, source, ": tensor ", quoted(name),
          " is there already");
}

TensorFile read_safetensors(const fs::path& path) {
  const std::string file = path.string();
  std::error_code problem;
  const fs::file_status status = fs::status(path, problem);
  require(fs::exists(status), "cannot read ", file, ": there is no such file");
  require(fs::is_regular_file(status), "cannot read ", file, ": it is not a regular file");
  const uint64_t file_bytes = fs::file_size(path, problem);
  std::ifstream stream(path, std::ios::binary);
  require(!problem && stream, "cannot read ", file, ": ", system_reason());

  uint64_t header_bytes = 0;
  require(file_bytes >= 8, file, " has ", file_bytes,
          " bytes: too short for a safetensors file, it is truncated");
  stream.read(reinterpret_cast<char*>(&header_bytes), 8);
  require(header_bytes <= max_header_bytes, file, ": the header claims ", header_bytes,
          " bytes, more than the 100 MB allowed: this is not a safetensors file");
  require(header_bytes <= file_bytes - 8, file, ": the header claims ", header_bytes,
          " bytes, but only ", file_bytes - 8, " follow: the file is truncated");
  require(header_bytes >= 2, file, ": the header is empty");
  std::string text(header_bytes, '\0');
  stream.read(text.data(), std::streamsize(header_bytes));
  require(bool(stream), "cannot read ", file, ": ", system_reason());

  const json header = parse_header(text, file);
  TensorFile result;
  result.source = file;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      result.metadata = parse_metadata(value, file);
    } else {
      entries.push_back(parse_entry(name, value, file));
    }
  }
  check_tiling(entries, file_bytes - 8 - header_bytes, file);
  for (Entry& entry : entries) {
    entry.tensor.bytes.resize(entry.end - entry.begin);
    stream.read(reinterpret_cast<char*>(entry.tensor.bytes.data()),
                std::streamsize(entry.tensor.bytes.size()));
    require(bool(stream), file, ": tensor ", quoted(entry.name),
            " could not be read: ", system_reason());
    result.tensors.emplace(std::move(entry.name), std::move(entry.tensor));
  }
  return result;
}

namespace {

void require_no_other_kind(const fs::path& path) {
  std::error_code problem;
  const fs::file_status status = fs::status(path, problem);
  require(!fs::exists(status) || fs::is_regular_file(status), "cannot write ", path.string(),
          ": something that is not a regular file has that name");
}

}  // namespace

void require_writable(const fs::path& path) {
  require(!path.empty(), "a file to write needs a name");
  const fs::path folder = fs::absolute(path).parent_path();
  std::error_code problem;
  require(fs::is_directory(folder, problem), "cannot write ", path.string(),
          ": there is no folder ", folder.string());
  require_no_other_kind(path);
  const PartialFile probe(path);
}

void write_safetensors(const fs::path& path, const TensorFile& file) {
  require_no_other_kind(path);
  const std::vector<const NamedTensor*> order = in_file_order(file);
  const std::string header = header_text(file, order);
  const uint64_t header_bytes = header.size();
  require(header_bytes <= max_header_bytes, "cannot write ", path.string(), ": its header of ",
          header_bytes, " bytes exceeds the format's 100 MB");

  PartialFile partial(path);
  partial.write(&header_bytes, 8);
  partial.write(header.data(), header.size());
  for (const NamedTensor* named : order) {
    partial.write(named->second.bytes.data(), named->second.bytes.size());
  }
  partial.keep();
}

}  // namespace dyt
