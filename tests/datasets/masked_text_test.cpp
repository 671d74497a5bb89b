#include "datasets/masked_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"

namespace dyt {
namespace {

constexpr int vocabulary = 50;

struct Text {
  std::vector<int32_t> before, tokens, labels;
  int64_t chosen;
};

Text hide(size_t n, uint64_t seed, const Masking& masking = {}) {
  Text text;
  for (size_t i = 0; i < n; ++i) text.before.push_back(int32_t(i * i % vocabulary));
  text.tokens = text.before;
  text.labels.resize(n, 7);
  RandomSequence random(seed, 3);
  text.chosen = hide_tokens(text.tokens, text.labels, vocabulary, random, masking);
  return text;
}

// |count - n p| within 5 standard deviations of a binomial.
void expect_share(int64_t count, int64_t n, double p) {
  EXPECT_NEAR(double(count), double(n) * p, 5 * std::sqrt(double(n) * p * (1 - p)));
}

TEST(MaskedText, ChoosesReplacesAndKeepsTheSharesOfBert) {
  const Text text = hide(100000, 1);
  int64_t chosen = 0, masked = 0, same = 0;
  for (size_t i = 0; i < text.tokens.size(); ++i) {
    if (text.labels[i] == -1) {
      ASSERT_EQ(text.tokens[i], text.before[i]);
      continue;
    }
    ASSERT_EQ(text.labels[i], text.before[i]);
    ASSERT_GE(text.tokens[i], 0);
    ASSERT_LE(text.tokens[i], vocabulary);
    ++chosen;
    masked += text.tokens[i] == vocabulary;
    same += text.tokens[i] == text.before[i];
  }
  EXPECT_EQ(text.chosen, chosen);
  expect_share(chosen, 100000, 0.15);
  expect_share(masked, chosen, 0.8);
  expect_share(same, chosen, 0.1 + 0.1 / vocabulary);  // a random token may be the very one
}

// A random token is any word, and never the mask.
TEST(MaskedText, RandomTokensAreWords) {
  const Text text = hide(5000, 1, {.chosen = 1, .masked = 0, .random = 1});
  const auto [least, most] = std::minmax_element(text.tokens.begin(), text.tokens.end());
  EXPECT_EQ(*least, 0);
  EXPECT_EQ(*most, vocabulary - 1);
}

TEST(MaskedText, IsAFunctionOfItsSeed) {
  EXPECT_EQ(hide(1000, 4).tokens, hide(1000, 4).tokens);
  EXPECT_NE(hide(1000, 4).tokens, hide(1000, 5).tokens);
}

TEST(MaskedText, HidesAtLeastOneToken) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Text text = hide(3, seed, {.chosen = 1e-9});
    EXPECT_EQ(text.chosen, 1);
    EXPECT_EQ(std::count(text.labels.begin(), text.labels.end(), -1), 2);
  }
}

TEST(MaskedText, RefusesSharesThatAreNone) {
  EXPECT_THROW(hide(3, 1, {.chosen = 0}), Error);
  EXPECT_THROW(hide(3, 1, {.masked = 0.9, .random = 0.2}), Error);
}

}  // namespace
}  // namespace dyt
