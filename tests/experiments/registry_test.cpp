#include "experiments/registry.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace dyt {
namespace {

std::vector<int> numbers(const std::vector<std::string>& words) {
  std::vector<int> found;
  for (const Experiment* e : select_experiments(words)) found.push_back(e->number);
  return found;
}

TEST(Registry, NumbersRiseAndEveryEntryIsFilledIn) {
  int last = 0;
  for (const Experiment& e : experiments()) {
    EXPECT_GT(e.number, last);
    last = e.number;
    for (const char* text : {e.title, e.source, e.claim}) EXPECT_STRNE(text, "");
    EXPECT_GT(e.cost, 0);
  }
  EXPECT_NE(find_experiment(1).run, nullptr);
  EXPECT_NE(find_experiment(3).run, nullptr);
}

TEST(Registry, Selections) {
  EXPECT_EQ(numbers({"3"}), (std::vector<int>{3}));
  EXPECT_EQ(numbers({"03", "01", "3"}), (std::vector<int>{1, 3}));
  EXPECT_EQ(numbers({"1,3"}), (std::vector<int>{1, 3}));
  EXPECT_EQ(numbers({"01-03"}).front(), 1);
  EXPECT_EQ(numbers({"01-03"}).back(), 3);
  std::vector<int> implemented;
  for (const Experiment& e : experiments()) {
    if (e.run) implemented.push_back(e.number);
  }
  EXPECT_EQ(numbers({"all"}), implemented);
}

TEST(Registry, SaysWhatIsWrongWithASelection) {
  for (const char* bad : {"x", "", "3x", "-3", "3-", "05-03", "99", "19-23", "0", "1,,3",
                          "99999999999", "1.5", "ALL", "3 4"}) {
    try {
      select_experiments({bad});
      FAIL() << bad;
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_EQ(text.find('\n'), text.npos);
      EXPECT_TRUE(text.find("01, ") != text.npos || text.find("03-05") != text.npos) << text;
    }
  }
  EXPECT_THROW(select_experiments({}), Error);
  EXPECT_THROW(find_experiment(19), Error);
}

TEST(Registry, Sizes) {
  for (const Size size : {Size::smoke, Size::small, Size::full}) {
    EXPECT_EQ(size_named(name_of(size)), size);
  }
  EXPECT_THROW(size_named("huge"), Error);
}

TEST(Registry, SaysWhatIsLeftOfASuite) {
  const auto costs = [](int number, int cost) {
    return Experiment{number, "title", "source", "claim", cost, nullptr};
  };
  const Experiment a = costs(1, 10), b = costs(2, 200), c = costs(3, 210);
  const std::vector<const Experiment*> suite = {&a, &b, &c};
  EXPECT_EQ(suite_progress(suite, 0, 0), "0 of 3 experiments done");
  EXPECT_EQ(suite_progress(suite, 1, 10), "1 of 3 experiments done");
  EXPECT_EQ(suite_progress(suite, 2, 60), "2 of 3 experiments done, about 60 s left");
  EXPECT_EQ(suite_progress(suite, 2, 120), "2 of 3 experiments done, about 2 min left");
  EXPECT_EQ(suite_progress(suite, 3, 90), "3 of 3 experiments done");
}

// Experiment 01 at its smallest: all is there, and it is the same every time.
TEST(Experiment01, RunsAndRepeats) {
  const Options options{.size = Size::smoke};
  const Report report = run_experiment(find_experiment(1), options, "cpu");
  EXPECT_EQ(report.number, 1);
  EXPECT_EQ(report.plots.size(), 4u);
  ASSERT_EQ(report.tables.size(), 1u);
  EXPECT_EQ(report.tables[0].rows.size(), 6u);
  EXPECT_FALSE(report.verdict.rule.empty());
  EXPECT_FALSE(report.verdict.because.empty());
  EXPECT_EQ(report.curves.size(), 6u * 3u * 2u);
  EXPECT_NO_THROW(to_json(report));
  EXPECT_EQ(to_csv(run_01_layernorm_is_tanh_like(options).curves), to_csv(report.curves));
}

// Theory: without extremes a line explains 1 - 1.5 / channels of the variance.
TEST(Experiment01, ControlIsTheLineThatTheoryGives) {
  const Report report = run_01_layernorm_is_tanh_like({.size = Size::small});
  for (const CurvePoint& p : report.curves) {
    if (p.step == 0 && p.arm == "line") {
      EXPECT_NEAR(p.value, 1 - 1.5 / 192, 1e-3);
    }
  }
}

TEST(Experiment01, OneSeedGivesNoVerdict) {
  const Report report = run_01_layernorm_is_tanh_like({.size = Size::smoke, .seeds = 1});
  EXPECT_EQ(report.verdict.outcome, Outcome::inconclusive);
}

}  // namespace
}  // namespace dyt
