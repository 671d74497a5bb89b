#include "training/beam_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/philox.h"
#include "tests/datasets/expect_error.h"

namespace dyt::test {
namespace {

constexpr int V = 5;
constexpr int32_t begin = 0, end = 1;

// A model without learning: logits of text i after these tokens, random numbers of them.
std::vector<double> logits_after(size_t text, const std::vector<int32_t>& tokens) {
  uint64_t stream = text + 1;
  for (const int32_t t : tokens) stream = stream * 31 + uint64_t(t) + 7;
  RandomSequence random(5, stream);
  std::vector<double> logits;
  for (int v = 0; v < V; ++v) logits.push_back(double(float(2 * random.normal())));
  return logits;
}

double log_probability(const std::vector<double>& logits, int32_t token) {
  double sum = 0;
  for (const double l : logits) sum += std::exp(l);
  return logits[size_t(token)] - std::log(sum);
}

// What the rows have written so far is kept here, and follows the parents.
struct Rows {
  int64_t beams;
  std::vector<std::vector<int32_t>> written;
  std::vector<float> operator()(const std::vector<int32_t>& tokens,
                                const std::vector<int32_t>& parents) {
    if (written.empty()) written.resize(tokens.size());
    std::vector<std::vector<int32_t>> next;
    std::vector<float> all;
    for (size_t n = 0; n < tokens.size(); ++n) {
      EXPECT_EQ(parents[n] / beams, int64_t(n) / beams) << "a row may not leave its text";
      next.push_back(written[size_t(parents[n])]);
      next.back().push_back(tokens[n]);
      const std::vector<double> logits =
          logits_after(n / size_t(beams), {next.back().begin() + 1, next.back().end()});
      all.insert(all.end(), logits.begin(), logits.end());
    }
    written = next;
    return all;
  }
};

std::vector<std::vector<int32_t>> search(const std::vector<int64_t>& longest, int beams,
                                         double penalty) {
  Rows rows{beams, {}};
  return beam_search(longest, V, begin, end, {beams, penalty}, std::ref(rows));
}

// Every translation of at most `longest` tokens, by recursion.
void enumerate(size_t text, const std::vector<int32_t>& tokens, double log_p, size_t longest,
               double penalty, double& best, std::vector<int32_t>& result) {
  const std::vector<double> logits = logits_after(text, tokens);
  const double length = double(tokens.size() + 1);
  const double ended = (log_p + log_probability(logits, end)) / std::pow((5 + length) / 6, penalty);
  if (ended > best) best = ended, result = tokens;
  if (tokens.size() + 2 > longest) return;
  for (int32_t v = 0; v < V; ++v) {
    if (v == end) continue;
    std::vector<int32_t> longer = tokens;
    longer.push_back(v);
    enumerate(text, longer, log_p + log_probability(logits, v), longest, penalty, best, result);
  }
}

TEST(BeamSearch, WithAllBeamsItFindsTheBestOfAllTranslations) {
  for (const double penalty : {0.0, 0.6, 2.0}) {
    const std::vector<int64_t> longest = {4, 3, 4, 4};
    const auto found = search(longest, 400, penalty);
    for (size_t text = 0; text < longest.size(); ++text) {
      double best = -INFINITY;
      std::vector<int32_t> expected;
      enumerate(text, {}, 0, size_t(longest[text]), penalty, best, expected);
      EXPECT_EQ(found[text], expected) << "text " << text << ", penalty " << penalty;
    }
  }
}

// After the beginning comes the end with probability exp(-1), after the word 2 exp(-0.7), else 2.
std::vector<std::vector<int32_t>> end_or_two(const BeamOptions& options) {
  const NextLogits next = [](const std::vector<int32_t>& tokens, const std::vector<int32_t>&) {
    std::vector<float> logits;
    for (const int32_t token : tokens) {
      const double p = std::exp(token == begin ? -1.0 : -0.7);
      logits.insert(logits.end(), {-30.0f, float(std::log(p)), float(std::log(1 - p))});
    }
    return logits;
  };
  const std::vector<int64_t> longest = {9};
  return beam_search(longest, 3, begin, end, options, next);
}

// log P of the empty translation, one token long with its end, is -1, and that of "2" -1.159: it is
// worth more if it is divided by 7/6 (and would not be by 8/7).
TEST(BeamSearch, TheLengthPenaltyIsThatOfThePaper) {
  EXPECT_EQ(end_or_two({.beams = 2, .length_penalty = 1})[0], std::vector<int32_t>{2});
  EXPECT_EQ(end_or_two({.beams = 2, .length_penalty = 0})[0], std::vector<int32_t>{});
}

TEST(BeamSearch, OneBeamIsGreedy) {
  const std::vector<int64_t> longest = {12, 12, 12, 5};
  const auto found = search(longest, 1, 0.6);
  for (size_t text = 0; text < longest.size(); ++text) {
    std::vector<int32_t> expected;
    while (int64_t(expected.size()) < longest[text]) {
      const std::vector<double> logits = logits_after(text, expected);
      const auto top = std::max_element(logits.begin(), logits.end()) - logits.begin();
      if (top == end) break;
      expected.push_back(int32_t(top));
    }
    EXPECT_EQ(found[text], expected) << text;
  }
}

// What is searched together is found alone.
TEST(BeamSearch, TextsDoNotDisturbEachOther) {
  const auto together = search({9, 4, 9}, 3, 0.6);
  EXPECT_EQ(search({9}, 3, 0.6)[0], together[0]);
  EXPECT_EQ(search({9, 4}, 3, 0.6)[1], together[1]);
}

TEST(BeamSearch, RefusesWhatCannotBe) {
  expect_error([] { search({5}, 0, 0); }, {"at least one beam"});
  expect_error([] { search({1}, 1, 0); }, {"room for two tokens"});
  const NextLogits broken = [](const auto&, const auto&) { return std::vector<float>(V, NAN); };
  expect_error(
      [&] {
        beam_search(std::vector<int64_t>{5}, V, begin, end, {1, 0}, broken);
      },
      {"it has diverged"});
}

}  // namespace
}  // namespace dyt::test
