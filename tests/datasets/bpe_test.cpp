#include "datasets/bpe.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/datasets/expect_error.h"
#include "tests/datasets/temporary_folder.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

// What make_bpe.py learned by counting everything anew after every merge.
nlohmann::json reference() {
  std::ifstream in(reference_folder() + "/bpe.json");
  return nlohmann::json::parse(in);
}

TEST(BytePairs, LearnsAndEncodesAsTheSlowWayDoes) {
  const nlohmann::json expected = reference();
  const std::vector<std::string> texts = expected["texts"];
  const BytePairs ours = BytePairs::learn(texts, expected["vocabulary"]);
  EXPECT_EQ(ours.pairs(), expected["pairs"].get<std::vector<BytePairs::Pair>>());
  for (const auto& sample : expected["samples"]) {
    const std::string text = sample[0];
    const std::vector<int32_t> tokens = ours.encode(text);
    EXPECT_EQ(tokens, sample[1].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(ours.decode(tokens), text);
  }
}

// The example of arXiv 1508.07909, section 3.2, without its end-of-word sign: among "low" 5 times,
// "lower" 2, "newest" 6 and "widest" 3, first "es" comes together, then "est", "lo", "low".
TEST(BytePairs, MergesThePublishedExample) {
  std::vector<std::string> texts;
  for (const auto& [word, count] :
       {std::pair{"low", 5}, {"lower", 2}, {"newest", 6}, {"widest", 3}}) {
    for (int i = 0; i < count; ++i) texts.push_back("-" + std::string(word));
  }
  const BytePairs pairs = BytePairs::learn(texts, BytePairs::first_pair + 6);
  std::vector<std::string> merged;
  for (int32_t token = BytePairs::first_pair; token < pairs.vocabulary(); ++token) {
    merged.push_back(pairs.decode(std::vector<int32_t>{token}));
  }
  // " -", which begins every text here, is the most frequent of all.
  EXPECT_EQ(merged, (std::vector<std::string>{"-", "es", "est", "lo", "low", "ew"}));
}

// Where two pairs overlap, the one that was learned first comes together.
TEST(BytePairs, AreMergedInTheOrderTheyWereLearned) {
  const TemporaryFolder folder;
  const int32_t a = BytePairs::first_byte + 'a', b = a + 1, c = a + 2, space = a + ' ' - 'a';
  const auto encoded = [&](BytePairs::Pair first, BytePairs::Pair second) {
    std::ofstream(folder.path("pairs.txt")) << "dyt byte pairs 1\n"
                                            << first.first << " " << first.second << "\n"
                                            << second.first << " " << second.second << "\n";
    return BytePairs::load(folder.path("pairs.txt")).encode("abc");
  };
  const int32_t joined = BytePairs::first_pair;
  EXPECT_EQ(encoded({a, b}, {b, c}), (std::vector<int32_t>{space, joined, c}));
  EXPECT_EQ(encoded({b, c}, {a, b}), (std::vector<int32_t>{space, a, joined}));
}

TEST(BytePairs, EveryTextComesBack) {
  const std::vector<std::string> texts = {"some text, some more text"};
  const BytePairs pairs = BytePairs::learn(texts, 270);
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += char(byte);
  for (const std::string& text :
       {all, std::string("  two  spaces "), std::string("äöü.,;"), all + all}) {
    EXPECT_EQ(pairs.decode(pairs.encode(text)), text);
  }
  std::vector<int32_t> framed = pairs.encode("some");
  framed.insert(framed.begin(), BytePairs::begin);
  framed.push_back(BytePairs::end);
  EXPECT_EQ(pairs.decode(framed), "some");
}

TEST(BytePairs, PiecesAreWordsWithTheirSpaceAndSinglePunctuation) {
  const std::string text = " a cat's  10 (äh)";
  EXPECT_EQ(pieces_of(text),
            (std::vector<std::string_view>{" a", " cat", "'", "s", " ", " 10", " (", "äh", ")"}));
}

TEST(BytePairs, AreSavedAndLoaded) {
  const TemporaryFolder folder;
  const std::vector<std::string> texts = {"banana bandana banana"};
  const BytePairs pairs = BytePairs::learn(texts, 264);
  pairs.save(folder.path("pairs.txt"));
  EXPECT_EQ(BytePairs::load(folder.path("pairs.txt")).pairs(), pairs.pairs());
  std::ofstream(folder.path("other.txt")) << "something else\n";
  expect_error([&] { BytePairs::load(folder.path("other.txt")); }, {"no vocabulary"});
  std::ofstream(folder.path("late.txt")) << "dyt byte pairs 1\n99 258\n";
  expect_error([&] { BytePairs::load(folder.path("late.txt")); },
               {"pair 0 joins tokens 99 and 258"});
  std::ofstream(folder.path("cut.txt")) << "dyt byte pairs 1\n99 100\n99 x\n";
  expect_error([&] { BytePairs::load(folder.path("cut.txt")); }, {"pair 1 is not two numbers"});
  expect_error([&] { BytePairs::load(folder.path("none.txt")); }, {"cannot read"});
}

TEST(BytePairs, RefuseWhatCannotBe) {
  const std::vector<std::string> texts = {"abab"};
  expect_error([&] { BytePairs::learn(texts, 100); }, {"258 to 65536 tokens, not 100"});
  const BytePairs pairs = BytePairs::learn(texts, 300);
  EXPECT_EQ(pairs.vocabulary(), 259);  // only "ab" occurs twice
  expect_error([&] { (void)pairs.decode(std::vector<int32_t>{259}); }, {"token 259"});
}

}  // namespace
}  // namespace dyt::test
