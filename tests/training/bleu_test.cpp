#include "training/bleu.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/datasets/expect_error.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

// make_bleu.py says what is in it.
nlohmann::json reference() {
  std::ifstream in(reference_folder() + "/bleu.json");
  return nlohmann::json::parse(in);
}

TEST(Bleu, CutsTextsAsSacrebleuDoes) {
  const nlohmann::json file = reference();
  for (const auto& entry : file["tokens"]) {
    EXPECT_EQ(bleu_tokens(entry[0]), entry[1].get<std::vector<std::string>>()) << entry[0];
  }
}

TEST(Bleu, ScoresAsSacrebleuDoes) {
  const nlohmann::json file = reference();
  for (const auto& corpus : file["corpora"]) {
    const std::vector<std::string> ours = corpus["translations"], theirs = corpus["references"];
    const Bleu result = bleu(ours, theirs);
    const std::string what = corpus["translations"].dump();
    EXPECT_NEAR(result.score, corpus["score"].get<double>(), 1e-9) << what;
    EXPECT_NEAR(result.brevity_penalty, corpus["brevity_penalty"].get<double>(), 1e-12) << what;
    EXPECT_EQ(result.length, corpus["length"].get<int64_t>()) << what;
    EXPECT_EQ(result.reference_length, corpus["reference_length"].get<int64_t>()) << what;
    for (size_t n = 0; n < 4; ++n) {
      EXPECT_NEAR(result.precisions[n], corpus["precisions"][n].get<double>(), 1e-9) << what << n;
    }
  }
}

TEST(Bleu, RefusesTextsWithoutReferences) {
  const std::vector<std::string> one = {"a"}, two = {"a", "b"}, none;
  expect_error([&] { bleu(one, two); }, {"1 translations and 2 references"});
  expect_error([&] { bleu(none, none); }, {"0 translations"});
}

}  // namespace
}  // namespace dyt::test
