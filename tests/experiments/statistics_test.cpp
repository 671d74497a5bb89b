#include "experiments/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"
#include "core/philox.h"

namespace dyt {
namespace {

using Values = std::vector<double>;

TEST(Statistics, MeanAndStandardDeviation) {
  const Values values = {2, 4, 4, 4, 5, 5, 7, 9};
  EXPECT_DOUBLE_EQ(mean(values), 5);
  EXPECT_DOUBLE_EQ(standard_deviation(values), std::sqrt(32.0 / 7));
}

TEST(Statistics, TheSettingOfTheLowestOrHighestMean) {
  const Values rates = {1, 2, 4};
  const auto values = [](double rate) { return Values{rate, rate == 2 ? -8 : 2 - rate}; };
  EXPECT_EQ(lowest_mean_at(rates, values), 2);
  EXPECT_EQ(highest_mean_at(rates, values), 1);  // as high as at 4, and first
  EXPECT_EQ(lowest_mean_at(Values{4}, values), 4);
  EXPECT_THROW(lowest_mean_at(Values{}, values), Error);
}

TEST(Statistics, GeometricMean) {
  EXPECT_DOUBLE_EQ(geometric_mean(std::vector<double>{2, 8}), 4);
  EXPECT_DOUBLE_EQ(geometric_mean(std::vector<double>{0.3}), 0.3);
  EXPECT_THROW(geometric_mean(std::vector<double>{}), Error);
  EXPECT_THROW(geometric_mean(std::vector<double>{1, 0}), Error);
}

// Two-sided 95 % and 99 % columns of the usual printed table (three decimals).
TEST(Statistics, StudentQuantilesMatchThePublishedTable) {
  struct Row {
    double degrees, t95, t99;
  };
  for (const Row row : {Row{1, 12.706, 63.657}, Row{2, 4.303, 9.925}, Row{3, 3.182, 5.841},
                        Row{4, 2.776, 4.604}, Row{5, 2.571, 4.032}, Row{9, 2.262, 3.250},
                        Row{10, 2.228, 3.169}, Row{20, 2.086, 2.845}, Row{30, 2.042, 2.750},
                        Row{60, 2.000, 2.660}, Row{120, 1.980, 2.617}, Row{1e7, 1.960, 2.576}}) {
    EXPECT_NEAR(t_quantile(0.975, row.degrees), row.t95, 6e-4) << row.degrees;
    EXPECT_NEAR(t_quantile(0.995, row.degrees), row.t99, 6e-4) << row.degrees;
    EXPECT_NEAR(t_quantile(0.025, row.degrees), -row.t95, 6e-4) << row.degrees;
  }
  EXPECT_DOUBLE_EQ(t_quantile(0.5, 7), 0);
}

TEST(Statistics, StudentQuantilesMatchClosedForms) {
  for (const double p : {0.51, 0.6, 0.9, 0.99, 0.9999}) {
    EXPECT_NEAR(t_quantile(p, 1) / std::tan(M_PI * (p - 0.5)), 1, 1e-10);
    EXPECT_NEAR(t_quantile(p, 2) / ((2 * p - 1) * std::sqrt(2 / (4 * p * (1 - p)))), 1, 1e-10);
    EXPECT_NEAR(t_cdf(t_quantile(p, 6.5), 6.5), p, 1e-12);
  }
}

TEST(Statistics, IntervalOfAMean) {
  const MeanInterval interval = mean_interval(Values{81, 82, 83});
  EXPECT_EQ(interval.n, 3u);
  EXPECT_DOUBLE_EQ(interval.mean, 82);
  EXPECT_DOUBLE_EQ(interval.sd, 1);
  EXPECT_NEAR(interval.high, 82 + 4.3027 / std::sqrt(3), 1e-4);
  EXPECT_NEAR(interval.half_width(), 2.4841, 1e-4);
  const MeanInterval same = mean_interval(Values{5, 5, 5});  // equal runs: an interval of no width
  EXPECT_EQ(same.low, 5);
  EXPECT_EQ(same.high, 5);
}

// Student's own sleep data (1908), as in many textbooks: mean difference 1.58, t = 4.0621, 9
// degrees of freedom, 95 % interval 0.7001 .. 2.4599.
TEST(Statistics, PairedDifferencesOfStudentsSleepData) {
  const Values drug1 = {0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0};
  const Values drug2 = {1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4};
  const MeanInterval difference = paired_difference_interval(drug2, drug1);
  EXPECT_NEAR(difference.mean, 1.58, 1e-12);
  EXPECT_NEAR(difference.low, 0.7001142, 1e-6);
  EXPECT_NEAR(difference.high, 2.4598858, 1e-6);
  EXPECT_NEAR(difference.mean / (difference.sd / std::sqrt(10)), 4.0621, 1e-4);
}

// Anscombe (1973): four data sets with r = 0.816, the line 3.00 + 0.500 x and R2 = 0.67.
TEST(Statistics, AnscombesQuartet) {
  const Values x123 = {10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5};
  const Values x4 = {8, 8, 8, 8, 8, 8, 8, 19, 8, 8, 8};
  const Values y[4] = {{8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68},
                       {9.14, 8.14, 8.74, 8.77, 9.26, 8.10, 6.13, 3.10, 9.13, 7.26, 4.74},
                       {7.46, 6.77, 12.74, 7.11, 7.81, 8.84, 6.08, 5.39, 8.15, 6.42, 5.73},
                       {6.58, 5.76, 7.71, 8.84, 8.47, 7.04, 5.25, 12.50, 5.56, 7.91, 6.89}};
  for (int set = 0; set < 4; ++set) {
    const Values& x = set < 3 ? x123 : x4;
    EXPECT_NEAR(pearson_correlation(x, y[set]), 0.816, 1e-3) << set;
    const LineFit line = fit_line(x, y[set]);
    EXPECT_NEAR(line.slope, 0.500, 1e-3) << set;
    EXPECT_NEAR(line.intercept, 3.00, 5e-3) << set;
    EXPECT_NEAR(line.r2, 0.67, 5e-3) << set;
  }
}

TEST(Statistics, RecoversAKnownTanh) {
  for (const TanhFit truth :
       {TanhFit{.a = 1, .b = 1, .c = 0, .d = 0}, TanhFit{2.5, 0.7, 0.3, -1},
        TanhFit{-4, 0.1, 0.5, 100}, TanhFit{0.01, 30, -12, 3}, TanhFit{6.9, 0.15, 0, 0}}) {
    Values x, y;
    for (int i = 0; i < 400; ++i) {
      x.push_back(-3.0 / truth.b + i * (6.0 / truth.b / 399) - truth.c / truth.b);
      y.push_back(truth(x.back()));
    }
    const TanhFit fit = fit_tanh(x, y);
    EXPECT_NEAR(fit.a / truth.a, 1, 1e-5);
    EXPECT_NEAR(fit.b / truth.b, 1, 1e-5);
    EXPECT_NEAR(fit.c, truth.c, 1e-4);
    EXPECT_NEAR(fit.d, truth.d, 1e-4 * std::abs(truth.a));
    EXPECT_GT(fit.r2, 0.999999);
  }
}

TEST(Statistics, RecoversATanhUnderNoise) {
  RandomSequence random(1, 2);
  Values x, y;
  for (int i = 0; i < 5000; ++i) {
    x.push_back(random.uniform(-10, 10));
    y.push_back(3 * std::tanh(0.4 * x.back() - 0.5) + 1 + random.uniform(-0.5f, 0.5f));
  }
  const TanhFit fit = fit_tanh(x, y);
  EXPECT_NEAR(fit.a, 3, 0.03);
  EXPECT_NEAR(fit.b, 0.4, 0.01);
  EXPECT_NEAR(fit.c, -0.5, 0.02);
  EXPECT_NEAR(fit.d, 1, 0.03);
  EXPECT_GT(fit.r2, fit_line(x, y).r2 + 0.05);
}

TEST(Statistics, ATanhFitsALineAsWellAsALineDoes) {
  RandomSequence random(3, 4);
  Values x, y;
  for (int i = 0; i < 300; ++i) {
    x.push_back(random.uniform(-1, 5));
    y.push_back(2 * x.back() - 7 + random.uniform(-1, 1));
  }
  EXPECT_GT(fit_tanh(x, y).r2, fit_line(x, y).r2 - 1e-4);
}

TEST(Statistics, SaysWhyThereIsNoAnswer) {
  const Values none, one = {1}, constant = {3, 3, 3, 3}, rising = {1, 2, 3, 4};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(mean(none), Error);
  EXPECT_THROW(standard_deviation(one), Error);
  EXPECT_THROW(mean_interval(one), Error);
  EXPECT_THROW(mean_interval(rising, 1.0), Error);
  EXPECT_THROW(mean_interval(Values{1, nan}), Error);
  EXPECT_THROW(paired_difference_interval(rising, one), Error);
  EXPECT_THROW(pearson_correlation(constant, rising), Error);
  EXPECT_THROW(fit_line(constant, rising), Error);
  EXPECT_THROW(fit_line(rising, constant), Error);
  EXPECT_THROW(fit_tanh(rising, constant), Error);
  EXPECT_THROW(fit_tanh(Values{1, 2, 3}, Values{1, 2, 3}), Error);
  EXPECT_THROW(t_quantile(1, 3), Error);
  EXPECT_THROW(t_quantile(0.9, 0), Error);
  try {
    mean_interval(one);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "an interval of a mean needs at least 2 values, but there is 1");
  }
}

}  // namespace
}  // namespace dyt
