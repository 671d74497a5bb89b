#include "datasets/text.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "tests/datasets/expect_error.h"

namespace dyt {
namespace {

namespace fs = std::filesystem;

// A folder of its own for every test.
class TextTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("dyt_text_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return (folder_ / name).string();
  }
  fs::path folder_;
};

std::string integer(uint32_t value, int bytes) {
  std::string s;
  for (int i = 0; i < bytes; ++i) s += char(value >> (8 * i));
  return s;
}

// A token shard as llm.c's dev/data/data_common.py writes it.
std::string shard(const std::vector<uint16_t>& tokens, uint32_t magic = 20240520,
                  uint32_t version = 1) {
  std::string s = integer(magic, 4) + integer(version, 4) + integer(uint32_t(tokens.size()), 4);
  s.resize(1024);
  for (uint16_t t : tokens) s += integer(t, 2);
  return s;
}

TEST_F(TextTest, ReadsBytesAndKeepsTheLastTenthForValidation) {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes += char(i);
  const TextDataset text = load_text("text:" + write("all.bin", bytes));
  EXPECT_EQ(text.vocabulary, 256);
  EXPECT_TRUE(text.bytes);
  ASSERT_EQ(text.train.size(), 231u);
  ASSERT_EQ(text.val.size(), 25u);
  for (size_t i = 0; i < 231; ++i) EXPECT_EQ(text.train[i], i);
  for (size_t i = 0; i < 25; ++i) EXPECT_EQ(text.val[i], 231 + i);
  EXPECT_TRUE(std::isnan(text.entropy_rate));
}

TEST_F(TextTest, ReadsAPipe) {
  const fs::path pipe = folder_ / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::thread writer([&] { std::ofstream(pipe) << std::string(3'000'000, 'x'); });
  EXPECT_EQ(load_text("text:" + pipe.string()).train.size(), 2'700'000u);
  writer.join();
}

TEST_F(TextTest, ReadsTokenShards) {
  std::vector<uint16_t> tokens;
  for (int i = 0; i < 30; ++i) tokens.push_back(uint16_t(50256 - i));
  const std::string one = write("train.bin", shard(tokens)),
                    two = write("val.bin", shard({7, 300}));
  const TextDataset text = load_text("tokens:" + one);
  EXPECT_EQ(text.vocabulary, 50257);
  EXPECT_FALSE(text.bytes);
  EXPECT_EQ(text.train, (std::vector<uint16_t>(tokens.begin(), tokens.begin() + 27)));
  EXPECT_EQ(text.val, (std::vector<uint16_t>(tokens.begin() + 27, tokens.end())));
  const TextDataset both = load_text("tokens:" + one + "," + two);
  EXPECT_EQ(both.train, tokens);
  EXPECT_EQ(both.val, (std::vector<uint16_t>{7, 300}));
}

TEST_F(TextTest, RejectsBadShards) {
  const auto expect = [&](const std::string& bytes, const std::vector<std::string>& parts,
                          int vocabulary = 0) {
    const std::string path = write("shard.bin", bytes);
    expect_error([&] { load_text("tokens:" + path, vocabulary); }, parts);
  };
  expect(shard({1, 2, 3}, 20240521), {"shard.bin", "no token shard", "20240521", "20240520"});
  expect(shard({1, 2, 3}, 20240801, 7), {"shard.bin", "LLaMA-3", "32 bits"});
  expect(shard({1, 2, 3}, 20240520, 2), {"version 2"});
  expect(shard({1, 2, 3}).substr(0, 1029), {"3 tokens in 1030 bytes", "is 1029"});
  expect(shard({1, 2, 3}) + "x", {"3 tokens in 1030 bytes", "is 1031"});
  expect(shard({1}).substr(0, 1000), {"1000 bytes", "header"});
  expect(shard({}), {"holds no tokens"});
  expect(shard({5, 50257}), {"token 1", "is 50257", "0 to 50256"});
  expect(shard({5, 99}, 20240520), {"token 1", "is 99", "0 to 98"}, 99);
  // A count that would overflow a careless product.
  std::string lying = shard({1, 2, 3});
  lying.replace(8, 4, integer(0xffffffffu, 4));
  expect(lying, {"4294967295 tokens", "is 1030 bytes"});
}

TEST_F(TextTest, NamesFilesThatAreNotThereOrEmpty) {
  const std::string missing = (folder_ / "nowhere.txt").string();
  expect_error([&] { load_text("text:" + missing); }, {missing, "No such file"});
  expect_error([&] { load_text("tokens:" + missing); }, {missing, "No such file"});
  expect_error([&] { load_text("text:" + folder_.string()); }, {folder_.string(), "folder"});
  expect_error([&] { load_text("text:" + write("empty.txt", "")); }, {"empty.txt is empty"});
}

TEST_F(TextTest, RejectsUnknownNames) {
  for (const char* spec : {"", "shakespeare", "text:", "text", "tokens:", "grammar:", "grammars"}) {
    expect_error([&] { load_text(spec); }, {std::string("unknown text \"") + spec, "text:FILE"});
  }
  for (const char* spec : {"grammar:x", "grammar:0", "grammar:10x", "grammar:-5"}) {
    expect_error([&] { load_text(spec); }, {"grammar:BYTES needs a number"});
  }
}

TEST_F(TextTest, SaysIfTheTextIsShorterThanTheContext) {
  const TextDataset text = load_text("text:" + write("short.txt", std::string(100, 'x')));
  require_context(text, 9);
  expect_error([&] { require_context(text, 10); },
               {"short.txt", "validation part has 10 bytes", "context of 10", "at least 11"});
  expect_error([&] { require_context(text, 90); }, {"training part has 90 bytes"});
}

TEST(Windows, LabelsAreTheTokensThatFollow) {
  const std::vector<uint16_t> text = {10, 11, 12, 13, 14, 15};
  std::vector<int32_t> tokens(6), labels(6);
  fill_windows(text, std::vector<int64_t>{0, 2}, 3, tokens.data(), labels.data());
  EXPECT_EQ(tokens, (std::vector<int32_t>{10, 11, 12, 12, 13, 14}));
  EXPECT_EQ(labels, (std::vector<int32_t>{11, 12, 13, 13, 14, 15}));
  for (int64_t bad : {-1, 3}) {
    expect_error(
        [&] { fill_windows(text, std::vector<int64_t>{bad}, 3, tokens.data(), labels.data()); },
        {"not in a text of 6"});
  }
}

TEST(Windows, AreDrawnFromTheWholeText) {
  std::set<int64_t> seen;
  for (uint64_t step = 0; step < 50; ++step) {
    for (int64_t begin : random_windows(10, 4, 8, 1, step)) {
      EXPECT_GE(begin, 0);
      EXPECT_LT(begin, 6);
      seen.insert(begin);
    }
  }
  EXPECT_EQ(seen.size(), 6u);
  EXPECT_EQ(random_windows(1000, 4, 8, 1, 7), random_windows(1000, 4, 8, 1, 7));
  EXPECT_NE(random_windows(1000, 4, 8, 1, 7), random_windows(1000, 4, 8, 1, 8));
  EXPECT_NE(random_windows(1000, 4, 8, 1, 7), random_windows(1000, 4, 8, 2, 7));
  EXPECT_EQ(random_windows(5, 4, 3, 1, 7), std::vector<int64_t>(3, 0));  // there is only one
  expect_error([] { random_windows(4, 4, 8, 1, 7); }, {"no windows of 5"});
}

TEST(Windows, OfValidationDoNotOverlap) {
  EXPECT_EQ(even_windows(13, 3, 0), (std::vector<int64_t>{0, 3, 6, 9}));
  EXPECT_EQ(even_windows(12, 3, 0), (std::vector<int64_t>{0, 3, 6}));  // the last label is missing
  EXPECT_EQ(even_windows(13, 3, 2), (std::vector<int64_t>{0, 6}));
  EXPECT_EQ(even_windows(13, 3, 9), (std::vector<int64_t>{0, 3, 6, 9}));
  EXPECT_EQ(even_windows(4, 3, 1), (std::vector<int64_t>{0}));
  expect_error([] { even_windows(3, 3, 1); }, {"no windows of 4"});
}

// --- The grammar ---------------------------------------------------------------------------------

// Reads a saga back, as the grammar says it was written: fails on any byte that breaks a rule.
class SagaReader {
 public:
  explicit SagaReader(const std::string& text) : text_(text) {}

  void read() {
    expect("saga of ");
    for (heroes_.push_back(name()); !take("."); heroes_.push_back(name())) {
      if (!take(", ")) expect(" and ");
    }
    for (size_t i = 0; i < heroes_.size(); ++i) {
      expect(" " + heroes_[i] + " is of ");
      home_[heroes_[i]] = word();
      expect(i + 1 < heroes_.size() ? "," : ".");
    }
    expect("\n");
    sentence();
    while (!take(".\n")) {
      expect(". ");
      sentence();
    }
    expect("end of " + heroes_[0] + ".\n\n");
    EXPECT_EQ(at_, text_.size());
    EXPECT_EQ(std::set<std::string>(heroes_.begin(), heroes_.end()).size(), heroes_.size());
  }
  size_t heroes() const { return heroes_.size(); }
  int quotations() const { return quotations_; }

 private:
  bool take(const std::string& s) {
    if (text_.compare(at_, s.size(), s) != 0) return false;
    at_ += s.size();
    return true;
  }
  void expect(const std::string& s) {
    if (!take(s)) throw Error("expected \"" + s + "\" at: " + text_.substr(at_, 30));
  }
  std::string word() {
    std::string w;
    while (at_ < text_.size() && text_[at_] >= 'a' && text_[at_] <= 'z') w += text_[at_++];
    return w;
  }
  std::string name() {
    const std::string w = word();
    EXPECT_EQ(w.size(), 4u) << w;
    return w;
  }
  std::string hero() {
    const std::string w = name();
    EXPECT_EQ(home_.count(w), 1u) << w << " is no hero";
    if (take(" of ")) {
      EXPECT_EQ(word(), home_[w]);
    }
    return w;
  }
  void sentence() {
    const std::string subject = hero();
    if (take(" says ")) {
      const char open = text_[at_++];
      sentence();
      expect(std::string(".") + (open == '(' ? ')' : open == '[' ? ']' : '}'));
      ++quotations_;
    } else if (take(" has ")) {
      EXPECT_TRUE(text_[at_] >= '2' && text_[at_] <= '9');
      ++at_;
      expect(" ");
      word();
    } else {
      expect(" ");
      word();
      expect(" ");
      EXPECT_NE(hero(), subject);
    }
  }

  const std::string& text_;
  size_t at_ = 0;
  int quotations_ = 0;
  std::vector<std::string> heroes_;
  std::map<std::string, std::string> home_;
};

TEST(Grammar, SagasKeepItsRules) {
  Grammar grammar(3);
  std::set<size_t> heroes;
  int quotations = 0;
  for (int i = 0; i < 300; ++i) {
    const std::string saga = grammar.saga();
    SagaReader reader(saga);
    reader.read();
    heroes.insert(reader.heroes());
    quotations += reader.quotations();
  }
  EXPECT_EQ(heroes, (std::set<size_t>{2, 3, 4}));
  EXPECT_GT(quotations, 100);
}

// The entropy rate, by formula, is what the sagas' improbability per byte tends to. With 20,000
// sagas of about 200 bytes the standard error is about 0.1 %.
TEST(Grammar, EntropyRateIsTheMeanSurprisePerByte) {
  Grammar grammar(4);
  double surprise = 0;
  size_t bytes = 0;
  for (int i = 0; i < 20000; ++i) bytes += grammar.saga(&surprise).size();
  EXPECT_NEAR(surprise / double(bytes), Grammar::entropy_rate(), 0.004 * Grammar::entropy_rate());
}

TEST(Grammar, IsADataset) {
  const TextDataset text = load_text("grammar:5000"), longer = load_text("grammar:6000");
  EXPECT_EQ(text.train.size(), 5000u);
  EXPECT_EQ(text.val.size(), 500u);
  EXPECT_TRUE(std::equal(text.train.begin(), text.train.end(), longer.train.begin()));
  EXPECT_FALSE(std::equal(text.val.begin(), text.val.end(), text.train.begin()));
  EXPECT_EQ(text.entropy_rate, Grammar::entropy_rate());
  EXPECT_EQ(std::string(text.train.begin(), text.train.begin() + 8), "saga of ");
}

}  // namespace
}  // namespace dyt
