#include "core/safetensors.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "core/error.h"

namespace dyt {
namespace {

namespace fs = std::filesystem;

// Every test works in a folder of its own, which is gone afterwards.
class SafetensorsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("dyt_safetensors_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path path(const std::string& name = "file.safetensors") const { return folder_ / name; }

  std::vector<std::string> names_in_folder() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

  void write_raw(const std::string& bytes) const {
    std::ofstream(path(), std::ios::binary) << bytes;
  }

  // A file of the given header text and so many zero bytes of data.
  void write_file(const std::string& header, size_t data_bytes) const {
    const uint64_t length = header.size();
    write_raw(std::string(reinterpret_cast<const char*>(&length), 8) + header +
              std::string(data_bytes, '\0'));
  }

  std::string read_raw() const {
    std::ifstream stream(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  // The sentence with which reading fails; it must name the file and stay on one line.
  std::string complaint() const {
    try {
      read_safetensors(path());
    } catch (const Error& error) {
      const std::string sentence = error.what();
      EXPECT_NE(sentence.find(path().string()), std::string::npos) << sentence;
      EXPECT_EQ(sentence.find('\n'), std::string::npos) << sentence;
      return sentence;
    }
    ADD_FAILURE() << "was read without complaint";
    return "";
  }

  fs::path folder_;
};

#define EXPECT_SAYS(sentence, part) \
  EXPECT_NE((sentence).find(part), std::string::npos) << "said: " << (sentence)

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

// --- Round trip ----------------------------------------------------------------------------------

TEST_F(SafetensorsTest, RoundTripKeepsEveryBit) {
  TensorFile file;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  file.add<float>("blocks.0.norm1.weight", {2, 3}, {1.5f, -2, 0.1f, -0.0f, INFINITY, nan});
  file.add<double>("precise", {2}, {0.1, 1e300});
  file.add<bf16>("half", {3}, {bf16(1.0f), bf16(0.1f), bf16(-3.0f)});
  file.add<int64_t>("labels", {2}, {-5, int64_t(1) << 60});
  file.add<int32_t>("counts", {1, 1}, {-7});
  file.add<uint8_t>("pixels", {3}, {0, 128, 255});
  file.add<float>("scalar", {}, {4.0f});
  file.add("nothing", {0, 4}, std::vector<float>());
  file.metadata = {{"step", "12"}, {"umlaut", "\xc3\xa4 \"quoted\"\n"}};
  write_safetensors(path(), file);

  const TensorFile back = read_safetensors(path());
  EXPECT_EQ(back.metadata, file.metadata);
  ASSERT_EQ(back.tensors.size(), file.tensors.size());
  for (const auto& [name, tensor] : file.tensors) {
    EXPECT_EQ(back.at(name).type, tensor.type) << name;
    EXPECT_EQ(back.at(name).shape, tensor.shape) << name;
    EXPECT_EQ(back.at(name).bytes, tensor.bytes) << name;
  }
  EXPECT_EQ(back.at("scalar").size(), 1);
  EXPECT_EQ(back.at("nothing").size(), 0);
  EXPECT_EQ(names_in_folder().size(), 1u);
}

TEST_F(SafetensorsTest, HeaderIsPaddedSoThatDataStartsAligned) {
  for (int extra = 0; extra < 9; ++extra) {
    TensorFile file;
    file.add<uint8_t>("a" + std::string(size_t(extra), 'x'), {1}, {7});
    file.add<double>("b", {1}, {1.0});
    write_safetensors(path(), file);
    const std::string raw = read_raw();
    uint64_t length = 0;
    memcpy(&length, raw.data(), 8);
    EXPECT_EQ(length % 8, 0u);
    EXPECT_EQ(raw.size(), 8 + length + 9);
    EXPECT_EQ(raw[8], '{');
    double first = 0;  // wide numbers come first, so that all of them are aligned
    memcpy(&first, raw.data() + 8 + length, 8);
    EXPECT_EQ(first, 1.0);
  }
}

TEST_F(SafetensorsTest, AnEmptyFileOfTensorsIsAFile) {
  write_safetensors(path(), TensorFile{});
  EXPECT_TRUE(read_safetensors(path()).tensors.empty());
}

TEST_F(SafetensorsTest, ReadsWhatOthersWrite) {  // other key order, spaces, unpadded header
  write_file(
      "{ \"__metadata__\" : {\"format\":\"pt\"}, \"x\" : {\"data_offsets\":[0,8], "
      "\"shape\":[2], \"dtype\":\"F32\"} }   ",
      8);
  const TensorFile file = read_safetensors(path());
  EXPECT_EQ(file.floats("x"), (std::vector<float>{0, 0}));
  EXPECT_EQ(file.metadata.at("format"), "pt");
}

TEST_F(SafetensorsTest, EmptyTensorsMayLieAnywhereInTheData) {
  write_file("{" + entry("a", "F32", "[0]", "[0,0]") + "," + entry("b", "F32", "[1]", "[0,4]") +
                 "," + entry("c", "F32", "[2,0]", "[4,4]") + "}",
             4);
  EXPECT_EQ(read_safetensors(path()).tensors.size(), 3u);
}

// --- Accessors -----------------------------------------------------------------------------------

TEST_F(SafetensorsTest, NumbersAreConverted) {
  TensorFile file;
  file.add<double>("f64", {2}, {0.5, -2.0});
  file.add<bf16>("bf16", {1}, {bf16(1.5f)});
  file.add<float>("f32", {1}, {0.25f});
  file.add<int32_t>("i32", {2}, {-1, 7});
  file.add<uint8_t>("u8", {1}, {200});
  const int16_t i16 = -3;
  file.add_bytes("i16", StoredType::I16, {1}, std::as_bytes(std::span(&i16, 1)));
  const uint64_t u64 = ~uint64_t(0);
  file.add_bytes("u64", StoredType::U64, {1}, std::as_bytes(std::span(&u64, 1)));

  EXPECT_EQ(file.floats("f64"), (std::vector<float>{0.5f, -2.0f}));
  EXPECT_EQ(file.floats("bf16"), (std::vector<float>{1.5f}));
  EXPECT_EQ(file.doubles("f32"), (std::vector<double>{0.25}));
  EXPECT_EQ(file.integers("i32"), (std::vector<int64_t>{-1, 7}));
  EXPECT_EQ(file.integers("u8"), (std::vector<int64_t>{200}));
  EXPECT_EQ(file.integers("i16"), (std::vector<int64_t>{-3}));
  EXPECT_THROW(file.integers("u64"), Error);  // beyond int64
  EXPECT_THROW(file.integers("f32"), Error);
  EXPECT_THROW(file.floats("i32"), Error);
}

TEST_F(SafetensorsTest, AMissingNameIsAnsweredWithNamesThatAreThere) {
  TensorFile file;
  for (const char* name : {"alpha", "blocks.0.attn.qkv.bias", "blocks.0.attn.qkv.weight",
                           "blocks.1.attn.qkv.weight", "head.weight", "patch_embed.proj.bias"}) {
    file.add<float>(name, {1}, {0});
  }
  try {
    file.at("blocks.0.attn.qkv.wieght");
    FAIL();
  } catch (const Error& error) {
    const std::string sentence = error.what();
    EXPECT_SAYS(sentence, "blocks.0.attn.qkv.wieght");
    EXPECT_SAYS(sentence, "among 6");
    EXPECT_SAYS(sentence, "\"blocks.0.attn.qkv.weight\"");
    EXPECT_EQ(sentence.find("alpha"), std::string::npos) << "only neighbours are listed";
  }
  EXPECT_THROW(TensorFile{}.at("x"), Error);
}

TEST_F(SafetensorsTest, AddRefusesWhatCannotBeStored) {
  TensorFile file;
  file.add<float>("x", {2}, {1, 2});
  EXPECT_THROW(file.add<float>("x", {2}, {1, 2}), Error);
  EXPECT_THROW(file.add<float>("y", {3}, {1, 2}), Error);
  EXPECT_THROW(file.add<float>("y", {-1, -2}, {1, 2}), Error);
  EXPECT_THROW(file.add<float>("__metadata__", {1}, {1}), Error);
}

// --- Bad files -----------------------------------------------------------------------------------

TEST_F(SafetensorsTest, NoFile) {
  EXPECT_SAYS(complaint(), "no such file");
  fs::create_directory(path());
  EXPECT_SAYS(complaint(), "not a regular file");
}

TEST_F(SafetensorsTest, TruncatedAnywhere) {
  TensorFile file;
  file.add<float>("x", {2, 2}, {1, 2, 3, 4});
  file.add<int64_t>("label", {1}, {3});
  write_safetensors(path(), file);
  const std::string whole = read_raw();
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
    write_raw(whole.substr(0, bytes));
    EXPECT_SAYS(complaint(), "truncated");
  }
}

TEST_F(SafetensorsTest, HeaderLengthLies) {
  write_raw(std::string(8, '\0') + "{}");
  EXPECT_SAYS(complaint(), "header is empty");
  write_raw(std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8) + "{}");
  EXPECT_SAYS(complaint(), "100 MB");
  write_raw(std::string("\x01\xe1\xf5\x05\0\0\0\0", 8) + "{}");  // 100,000,001
  EXPECT_SAYS(complaint(), "100 MB");
  write_raw(std::string("\x03\0\0\0\0\0\0\0", 8) + "{}");
  EXPECT_SAYS(complaint(), "truncated");
}

TEST_F(SafetensorsTest, HeaderIsNotJson) {
  for (const char* header : {"{\"x\":", "{]", "{\"x\" 1}", "{}{}", "{'x':1}", "{\"\xff\":1}",
                             "{\"x\":1e999}", "{\"x\":nan}", "{} x"}) {
    write_file(header, 0);
    EXPECT_SAYS(complaint(), "not valid JSON") << header;
  }
  for (const char* header : {"[]", "  {}", "PK\3\4"}) {
    write_file(header, 0);
    EXPECT_SAYS(complaint(), "must begin with '{'") << header;
  }
  write_file("{\"x\":" + std::string(100000, '['), 0);
  EXPECT_SAYS(complaint(), "nested deeper");
}

TEST_F(SafetensorsTest, NamesTwice) {
  write_file(
      "{" + entry("x", "F32", "[1]", "[0,4]") + "," + entry("x", "F32", "[1]", "[4,8]") + "}", 8);
  EXPECT_SAYS(complaint(), "names \"x\" twice");
  write_file("{\"x\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}",
             4);
  EXPECT_SAYS(complaint(), "\"dtype\" twice");
}

TEST_F(SafetensorsTest, EntriesThatAreNotTensors) {
  for (const char* header :
       {"{\"x\":1}", "{\"x\":{}}", "{\"x\":{\"dtype\":\"F32\",\"shape\":[1]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1}}"}) {
    write_file(header, 4);
    const std::string sentence = complaint();
    EXPECT_SAYS(sentence, "tensor \"x\"");
    EXPECT_SAYS(sentence, "exactly dtype, shape and data_offsets");
  }
  write_file("{\"__metadata__\":{\"a\":1}}", 0);
  EXPECT_SAYS(complaint(), "must be text");
  write_file("{\"__metadata__\":[]}", 0);
  EXPECT_SAYS(complaint(), "__metadata__");
}

TEST_F(SafetensorsTest, UnknownTypes) {
  write_file("{" + entry("x", "F8_E4M3", "[4]", "[0,4]") + "}", 4);
  EXPECT_SAYS(complaint(), "tensor \"x\" has the unknown dtype \"F8_E4M3\"");
  write_file("{\"x\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
  EXPECT_SAYS(complaint(), "unknown dtype");
}

TEST_F(SafetensorsTest, ImpossibleShapes) {
  for (const char* shape : {"[-1]", "[1.0]", "[\"1\"]", "[null]", "[[1]]", "[18446744073709551615]",
                            "[9223372036854775808]"}) {
    write_file("{" + entry("x", "F32", shape, "[0,4]") + "}", 4);
    EXPECT_SAYS(complaint(), "tensor \"x\": a size of its shape is") << shape;
  }
  for (const char* shape : {"[4294967296,4294967296]", "[9223372036854775807]",
                            "[9223372036854775807,9223372036854775807,2,0]"}) {
    write_file("{" + entry("x", "F32", shape, "[0,0]") + "}", 0);
    EXPECT_SAYS(complaint(), "more bytes than 64 bits") << shape;
  }
  write_file("{" + entry("x", "F32", "4", "[0,16]") + "}", 16);
  EXPECT_SAYS(complaint(), "list of sizes");
}

TEST_F(SafetensorsTest, OffsetsThatDisagreeWithShapeAndType) {
  for (const char* offsets : {"[0,12]", "[0,4]", "[8,0]", "[4,4]"}) {
    write_file("{" + entry("x", "F32", "[2]", offsets) + "}", 8);
    EXPECT_SAYS(complaint(), "tensor \"x\" of F32 [2] needs 8 bytes") << offsets;
  }
  for (const char* offsets : {"[0]", "[0,4,8]", "8", "{}"}) {
    write_file("{" + entry("x", "F32", "[2]", offsets) + "}", 8);
    EXPECT_SAYS(complaint(), "must be [begin, end]") << offsets;
  }
  for (const char* offsets : {"[-8,0]", "[0,8.0]", "[0,18446744073709551615]"}) {
    write_file("{" + entry("x", "F32", "[2]", offsets) + "}", 8);
    EXPECT_SAYS(complaint(), "of its data_offsets is") << offsets;
  }
}

TEST_F(SafetensorsTest, OffsetsThatDoNotTileTheData) {
  const std::string first = entry("first", "F32", "[2]", "[0,8]");
  write_file("{" + first + "," + entry("x", "F32", "[2]", "[4,12]") + "}", 12);
  EXPECT_SAYS(complaint(), "tensor \"x\" begins at byte 4 of the data and overlaps");
  write_file("{" + first + "," + entry("x", "F32", "[2]", "[0,8]") + "}", 8);
  EXPECT_SAYS(complaint(), "overlaps");
  write_file("{" + first + "," + entry("x", "F32", "[2]", "[12,20]") + "}", 20);
  EXPECT_SAYS(complaint(), "tensor \"x\" begins at byte 12 of the data and leaves a gap");
  write_file("{" + entry("x", "F32", "[1]", "[4,8]") + "}", 8);
  EXPECT_SAYS(complaint(), "leaves a gap after byte 0");
  write_file("{" + first + "," + entry("x", "F32", "[2]", "[8,16]") + "}", 12);
  EXPECT_SAYS(complaint(), "tensor \"x\" ends at byte 16 of the data, but the file has only 12");
  write_file("{" + first + "}", 9);
  EXPECT_SAYS(complaint(), "1 bytes follow the last tensor");
}

// Whatever single byte of a good file is damaged: an Error or a file, never anything else.
TEST_F(SafetensorsTest, AnyDamagedByteIsSurvived) {
  TensorFile file;
  file.add<float>("x", {2, 2}, {1, 2, 3, 4});
  file.add<bf16>("y", {1}, {bf16(1.0f)});
  file.metadata["step"] = "1";
  write_safetensors(path(), file);
  const std::string whole = read_raw();
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const char byte : {'\0', '\xff', '"', '{', '9', '-'}) {
      std::string damaged = whole;
      damaged[i] = byte;
      write_raw(damaged);
      try {
        read_safetensors(path());
      } catch (const Error&) {
      }
    }
  }
}

// --- Writing that fails --------------------------------------------------------------------------

TEST_F(SafetensorsTest, AFullDiskLeavesTheOldFile) {
  TensorFile old_file, new_file;
  old_file.add<float>("x", {1}, {1});
  write_safetensors(path(), old_file);
  new_file.add<float>("x", {100000}, std::vector<float>(100000, 2.0f));

  rlimit before{};  // a limit on file sizes stands in for the full disk
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{.rlim_cur = 4096, .rlim_max = before.rlim_max};
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_THROW(write_safetensors(path(), new_file), Error);
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);

  EXPECT_EQ(read_safetensors(path()).floats("x"), std::vector<float>{1});
  EXPECT_EQ(names_in_folder().size(), 1u) << "a temporary file was left behind";
  write_safetensors(path(), new_file);
  EXPECT_EQ(read_safetensors(path()).at("x").size(), 100000);
}

TEST_F(SafetensorsTest, PlacesThatCannotBeWritten) {
  EXPECT_THROW(write_safetensors(path("missing/file"), TensorFile{}), Error);
  write_safetensors(path(), TensorFile{});
  EXPECT_THROW(write_safetensors(path() / "below_a_file", TensorFile{}), Error);
  EXPECT_THROW(write_safetensors(folder_, TensorFile{}), Error);
  EXPECT_THROW(write_safetensors("/dev/null", TensorFile{}), Error);
  for (const fs::path& place : {path("missing/file"), path() / "below_a_file", folder_,
                                fs::path("/dev/null"), fs::path()}) {
    EXPECT_THROW(require_writable(place), Error) << place;
  }
  EXPECT_EQ(names_in_folder().size(), 1u);
}

TEST_F(SafetensorsTest, ToAskWhetherAFileCanBeWrittenWritesNothing) {
  require_writable(path());
  EXPECT_TRUE(names_in_folder().empty());
  TensorFile file;
  file.add<float>("x", {1}, {1});
  write_safetensors(path(), file);
  require_writable(path());
  EXPECT_EQ(read_safetensors(path()).floats("x"), std::vector<float>{1});
  EXPECT_EQ(names_in_folder().size(), 1u);
}

TEST_F(SafetensorsTest, NoPermission) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_THROW(write_safetensors(path(), TensorFile{}), Error);
  EXPECT_THROW(require_writable(path()), Error);
  fs::permissions(folder_, fs::perms::owner_all);
}

TEST_F(SafetensorsTest, InconsistentContentIsNotWritten) {
  TensorFile file;
  file.tensors["x"] = {.type = StoredType::F32, .shape = {3}, .bytes = {}};
  EXPECT_THROW(write_safetensors(path(), file), Error);
  file.tensors.clear();
  file.add<float>("\xff", {1}, {1});
  EXPECT_THROW(write_safetensors(path(), file), Error);
  EXPECT_TRUE(names_in_folder().empty());
}

}  // namespace
}  // namespace dyt
