// The f32 functions of core/cpu_math.h against the standard library's f64 ones, in units in the
// last place (ulp) of the result. A result rounded as well as can be has an error of at most 0.5
// ulp.
#include "core/cpu_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace dyt {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float denormal = std::numeric_limits<float>::denorm_min();

struct Function {
  const char* name;
  void (*vector)(float* y, const float* x, int n);  // the loop that the layers have
  double (*exact)(double x);
};

template <float f(float)>
void loop(float* y, const float* x, int n) {
#pragma omp simd
  for (int i = 0; i < n; ++i) y[i] = f(x[i]);
}

const Function exp_function{"exp", loop<cpu::exp>, [](double x) { return std::exp(x); }};
const Function tanh_function{"tanh", loop<cpu::tanh>, [](double x) { return std::tanh(x); }};
const Function erf_function{"erf", loop<cpu::erf>, [](double x) { return std::erf(x); }};

float call(const Function& f, float x) {
  float y;
  f.vector(&y, &x, 1);
  return y;
}

double error_in_ulp(float y, double exact) {
  const float rounded = float(exact);
  if (!std::isfinite(rounded) || !std::isfinite(y)) return y == rounded ? 0 : infinity;
  int exponent;
  std::frexp(exact, &exponent);
  return std::abs(y - exact) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

// Every 2003rd f32 number with `low` <= |x| <= `high`, of both signs: at least 4000 between any two
// powers of two.
void expect_within(const Function& f, float low, float high, double bound) {
  const uint32_t begin = std::bit_cast<uint32_t>(low), end = std::bit_cast<uint32_t>(high);
  std::vector<float> x, y;
  for (uint64_t bits = begin; bits <= end; bits += 2003) {
    x.push_back(std::bit_cast<float>(uint32_t(bits)));
    x.push_back(-x.back());
  }
  x.push_back(high);
  x.push_back(-high);
  y.resize(x.size());
  f.vector(y.data(), x.data(), int(x.size()));
  double worst = 0;
  float at = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = error_in_ulp(y[i], f.exact(x[i]));
    if (error > worst) worst = error, at = x[i];
  }
  EXPECT_LE(worst, bound) << f.name << "(" << at << ") = " << call(f, at) << " instead of "
                          << f.exact(at);
}

// The bounds were found by trying every f32 number from 1e-4 up, where the results are not trivial:
// exp is within 0.95 ulp (without fused multiply-add, every 13th number: 1.22), tanh within 3.51
// (3.58), erf within 1.27 (1.36). A little room is left for another order of rounding.
TEST(CpuMath, ExpIsAccurateToAFewUnitsInTheLastPlace) {
  expect_within(exp_function, 0, 86.9f, 1.3);
  for (float x = 86.9f; x < 88.8f; x += 1e-4f) {  // up to the largest finite result and beyond
    EXPECT_LE(error_in_ulp(call(exp_function, x), std::exp(double(x))), 1.3) << x;
  }
}

TEST(CpuMath, TanhIsAccurateToAFewUnitsInTheLastPlace) {
  expect_within(tanh_function, 0, std::numeric_limits<float>::max(), 3.7);
}

TEST(CpuMath, ErfIsAccurateToAFewUnitsInTheLastPlace) {
  expect_within(erf_function, 0, std::numeric_limits<float>::max(), 1.5);
}

TEST(CpuMath, ExpAtTheEndsOfItsRange) {
  const auto exp = [](float x) { return call(exp_function, x); };
  EXPECT_EQ(exp(0.0f), 1.0f);
  EXPECT_EQ(exp(-0.0f), 1.0f);
  EXPECT_EQ(exp(denormal), 1.0f);
  EXPECT_EQ(exp(infinity), infinity);
  EXPECT_EQ(exp(-infinity), 0.0f);
  EXPECT_TRUE(std::isnan(exp(nan)));
  EXPECT_TRUE(std::isnan(exp(-nan)));
  const float largest = 88.7228317f;  // log of the largest f32 number, rounded down
  EXPECT_LT(exp(largest), infinity);
  EXPECT_EQ(exp(std::nextafter(largest, 89.0f)), infinity);
  EXPECT_EQ(exp(std::numeric_limits<float>::max()), infinity);
  EXPECT_GT(exp(-86.9f), std::numeric_limits<float>::min());  // still a normal number
  for (float x : {-86.91f, -87.4f, -100.0f, -104.0f, -1e30f}) EXPECT_EQ(exp(x), 0.0f) << x;
}

TEST(CpuMath, TanhAndErfAreOddAndReachOne) {
  for (const Function& f : {tanh_function, erf_function}) {
    EXPECT_EQ(call(f, infinity), 1.0f) << f.name;
    EXPECT_EQ(call(f, std::numeric_limits<float>::max()), 1.0f) << f.name;
    EXPECT_EQ(call(f, 30.0f), 1.0f) << f.name;
    EXPECT_TRUE(std::isnan(call(f, nan))) << f.name;
    EXPECT_EQ(call(f, 0.0f), 0.0f) << f.name;
    EXPECT_TRUE(std::signbit(call(f, -0.0f))) << f.name;
    EXPECT_FALSE(std::signbit(call(f, 0.0f))) << f.name;
    EXPECT_GT(call(f, 1000 * denormal), 0.0f) << f.name;
    for (float x : {denormal, 1e-20f, 0.3f, 0.64999f, 0.65f, 0.94999f, 0.95f, 3.95f, infinity}) {
      EXPECT_EQ(call(f, -x), -call(f, x)) << f.name << " at " << x;
      EXPECT_LE(call(f, x), 1.0f) << f.name << " at " << x;
    }
  }
}

// Both functions are put together from two pieces; the second must not start below the first.
TEST(CpuMath, PiecesMeet) {
  const auto expect_rising = [](const Function& f, float from, float to) {
    for (float x = from; x < to; x = std::nextafter(x, to)) {
      const float next = call(f, std::nextafter(x, to));
      EXPECT_GE(next, call(f, x) - 1.2e-7f) << f.name << " at " << x;  // 2 ulp
    }
  };
  expect_rising(erf_function, 0.9499f, 0.9501f);
  expect_rising(erf_function, 3.9499f, 3.9501f);
}

TEST(CpuMath, NormalDistributionIsAccurateToTheLastPlaceOfOne) {
  const auto exact = [](double x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); };
  for (float x = -20; x < 20; x += 1.7e-4f) {
    const float y = cpu::normal_cdf(x);
    ASSERT_NEAR(y, exact(x), 7.5e-8) << x;
    if (x >= -5.6f) {
      ASSERT_NEAR(y / exact(x), 1, 4e-6) << x;
    }
    ASSERT_GE(y, 0.0f) << x;
    ASSERT_LE(y, 1.0f) << x;
  }
  EXPECT_EQ(cpu::normal_cdf(0.0f), 0.5f);
  EXPECT_EQ(cpu::normal_cdf(-0.0f), 0.5f);
  EXPECT_EQ(cpu::normal_cdf(infinity), 1.0f);
  EXPECT_EQ(cpu::normal_cdf(-infinity), 0.0f);
  EXPECT_EQ(cpu::normal_cdf(std::numeric_limits<float>::max()), 1.0f);
  EXPECT_TRUE(std::isnan(cpu::normal_cdf(nan)));
  EXPECT_NEAR(cpu::normal_cdf(1.0), 0.84134474606854293, 1e-15);
}

TEST(CpuMath, NormalDensity) {
  EXPECT_NEAR(cpu::normal_pdf(0.0), 0.39894228040143268, 1e-16);
  EXPECT_NEAR(cpu::normal_pdf(-2.0), 0.053990966513188063, 1e-16);
  EXPECT_NEAR(cpu::normal_pdf(2.0f), 0.0539909665f, 1e-8f);
  EXPECT_EQ(cpu::normal_pdf(1e5f), 0.0f);
}

}  // namespace
}  // namespace dyt
