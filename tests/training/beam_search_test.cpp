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

// What the search should find, the long way round: every beginning goes on with every token; of all
// these the best `beams` are looked at, and those of them that end are translations; the best
// `beams` that don't end are the next beginnings. Nothing stops early.
std::vector<int32_t> by_definition(size_t text, int64_t longest, size_t beams, double penalty) {
  struct Text {
    std::vector<int32_t> tokens;
    double log_p;
  };
  std::vector<Text> beginnings = {{{}, 0}};
  double best = -INFINITY;
  std::vector<int32_t> result;
  for (int64_t length = 1; length <= longest; ++length) {
    std::vector<Text> all;
    for (const Text& b : beginnings) {
      const std::vector<double> logits = logits_after(text, b.tokens);
      for (int32_t v = 0; v < V; ++v) {
        all.push_back({b.tokens, b.log_p + log_probability(logits, v)});
        all.back().tokens.push_back(v);
      }
    }
    std::sort(all.begin(), all.end(),
              [](const Text& a, const Text& b) { return a.log_p > b.log_p; });
    beginnings.clear();
    for (size_t i = 0; i < all.size(); ++i) {
      const bool ended = all[i].tokens.back() == end;
      const double worth = all[i].log_p / std::pow((5 + double(length)) / 6, penalty);
      if (ended && i < beams && worth > best) {
        best = worth;
        result.assign(all[i].tokens.begin(), all[i].tokens.end() - 1);
      }
      if (!ended && beginnings.size() < beams) beginnings.push_back(all[i]);
    }
  }
  return best > -INFINITY ? result : beginnings[0].tokens;
}

TEST(BeamSearch, WithFewBeamsItFindsWhatTheDefinitionSays) {
  for (const int beams : {1, 2, 3, 5}) {
    for (const double penalty : {0.0, 0.6, 2.0}) {
      std::vector<int64_t> longest;
      for (int text = 0; text < 60; ++text) longest.push_back(2 + text % 7);
      const auto found = search(longest, beams, penalty);
      for (size_t text = 0; text < longest.size(); ++text) {
        EXPECT_EQ(found[text], by_definition(text, longest[text], size_t(beams), penalty))
            << "text " << text << ", " << beams << " beams, penalty " << penalty;
      }
    }
  }
}

// The empty translation is the third of the first tokens' and so not among two beams. With its
// probability of 0.05 it would be the best of all that end, as what goes on ends with 0.02.
TEST(BeamSearch, WhatEndsOutsideTheBeamsIsNoTranslation) {
  const NextLogits next = [](const std::vector<int32_t>& tokens, const std::vector<int32_t>&) {
    std::vector<float> logits;
    for (const int32_t token : tokens) {
      const std::vector<double> p = token == begin ? std::vector<double>{1e-9, 0.05, 0.5, 0.45}
                                                   : std::vector<double>{1e-9, 0.02, 0.38, 0.6};
      for (const double share : p) logits.push_back(float(std::log(share)));
    }
    return logits;
  };
  const std::vector<int64_t> longest = {3};
  EXPECT_EQ(beam_search(longest, 4, begin, end, {.beams = 2, .length_penalty = 0}, next)[0],
            (std::vector<int32_t>{2, 3, 3}));
  EXPECT_EQ(beam_search(longest, 4, begin, end, {.beams = 3, .length_penalty = 0}, next)[0],
            std::vector<int32_t>{});
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
