#include "core/philox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace dyt {
namespace {

std::vector<uint32_t> words(const Random4& r) { return {r.x[0], r.x[1], r.x[2], r.x[3]}; }

// The known answers that Random123, the authors' own library, publishes for philox4x32-10.
TEST(Philox, MatchesThePublishedVectors) {
  EXPECT_EQ(words(philox(0, 0, 0)),
            (std::vector<uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(words(philox(~0ull, ~0ull, ~0ull)),
            (std::vector<uint32_t>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(words(philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e)),
            (std::vector<uint32_t>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, Uniform01UsesTheUpper24BitsAndStaysBelowOne) {
  EXPECT_EQ(uniform01(0), 0.0f);
  EXPECT_EQ(uniform01(0xff), 0.0f);
  EXPECT_EQ(uniform01(0x80000000), 0.5f);
  EXPECT_EQ(uniform01(0xffffffff), 1.0f - 0x1p-24f);
}

TEST(Philox, StreamIsIndexedBySeedIndexAndStream) {
  const RandomStream stream{.seed = 5, .stream = 9};
  EXPECT_EQ(words(stream.bits(3)), words(philox(5, 3, 9)));
  EXPECT_EQ(stream.uniform(3), uniform01(philox(5, 3, 9).x[0]));
}

TEST(RandomSequence, ReadsTheBlocksOfItsStreamInOrder) {
  RandomSequence random(11, 22);
  for (uint64_t block = 0; block < 3; ++block) {
    for (const uint32_t word : words(philox(11, block, 22))) EXPECT_EQ(random.next(), word);
  }
}

TEST(RandomSequence, BelowIsUniformOverItsRange) {
  RandomSequence random(1, 0);
  const int n = 7, draws = 70000;
  std::vector<int> count(n);
  for (int i = 0; i < draws; ++i) {
    const uint32_t v = random.below(n);
    ASSERT_LT(v, uint32_t(n));
    ++count[v];
  }
  double chi2 = 0;
  for (const int c : count) chi2 += (c - draws / n) * (c - draws / n) / (double(draws) / n);
  EXPECT_LT(chi2, 22.46);  // exceeded once in 1000 times with 6 degrees of freedom
}

TEST(RandomSequence, UniformCoversItsInterval) {
  RandomSequence random(2, 0);
  double low = 1e9, high = -1e9, sum = 0;
  for (int i = 0; i < 10000; ++i) {
    const float v = random.uniform(-3.0f, 5.0f);
    low = std::min<double>(low, v), high = std::max<double>(high, v), sum += v;
  }
  EXPECT_GE(low, -3.0);
  EXPECT_LT(low, -2.99);
  EXPECT_LT(high, 5.0);
  EXPECT_GT(high, 4.99);
  EXPECT_NEAR(sum / 10000, 1.0, 4 * (8 / std::sqrt(12.0)) / 100);  // four standard errors
}

TEST(RandomSequence, NormalHasTheMomentsAndTailsOfTheNormalDistribution) {
  RandomSequence random(3, 0);
  const int n = 200000;
  double sum = 0, squares = 0, cubes = 0, fourths = 0, product = 0, last = 0;
  int within1 = 0, within2 = 0, within3 = 0;
  for (int i = 0; i < n; ++i) {
    const double z = random.normal();
    ASSERT_TRUE(std::isfinite(z));
    sum += z, squares += z * z, cubes += z * z * z, fourths += z * z * z * z;
    within1 += std::abs(z) < 1, within2 += std::abs(z) < 2, within3 += std::abs(z) < 3;
    product += z * last, last = z;
  }
  // Each tolerance is about four standard errors of its estimate.
  const double error = 4 / std::sqrt(double(n));
  EXPECT_NEAR(sum / n, 0, error);
  EXPECT_NEAR(squares / n, 1, error * std::sqrt(2.0));
  EXPECT_NEAR(cubes / n, 0, error * std::sqrt(15.0));
  EXPECT_NEAR(fourths / n, 3, error * std::sqrt(96.0));
  EXPECT_NEAR(product / n, 0, error);  // successive numbers are uncorrelated
  EXPECT_NEAR(within1 / double(n), 0.682689, error * 0.47);
  EXPECT_NEAR(within2 / double(n), 0.954500, error * 0.21);
  EXPECT_NEAR(within3 / double(n), 0.997300, error * 0.06);
}

TEST(RandomSequence, SeedsAndStreamsGiveDifferentNumbers) {
  EXPECT_NE(RandomSequence(1, 0).next(), RandomSequence(2, 0).next());
  EXPECT_NE(RandomSequence(1, 0).next(), RandomSequence(1, 1).next());
  EXPECT_EQ(RandomSequence(1, 1).normal(), RandomSequence(1, 1).normal());
}

}  // namespace
}  // namespace dyt
