#include "core/parameters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

namespace dyt {
namespace {

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Parameters, MatricesDecayAndComeFirst) {
  Parameters p;
  p.add("bias", {5}, Init::zeros());
  p.add("weight", {4, 5}, Init::ones());
  p.add("alpha", {1}, Init::fill(0.5));
  p.add("kernel", {2, 3, 4, 4}, Init::ones());
  p.add("position", {1, 7, 5}, Init::ones(), false);
  p.add("special", {3}, Init::ones(), true);
  p.allocate(Device::cpu, DType::f32, 1);
  std::vector<const Parameter*> by_offset;
  for (const Parameter& q : p.all()) by_offset.push_back(&q);
  std::sort(by_offset.begin(), by_offset.end(),
            [](const Parameter* a, const Parameter* b) { return a->offset < b->offset; });
  std::vector<std::string> names;
  int64_t end = 0;
  for (const Parameter* q : by_offset) {
    names.push_back(q->name);
    EXPECT_GE(q->offset, end) << q->name;
    EXPECT_EQ(q->offset % 16, 0) << q->name << " starts a vector access";
    EXPECT_EQ(q->offset < p.decayed_size(), q->decay) << q->name;
    EXPECT_EQ(q->data, static_cast<float*>(p.masters()) + q->offset);
    EXPECT_EQ(q->grad->data, static_cast<float*>(p.gradients()) + q->offset);
    end = q->offset + q->size();
  }
  EXPECT_EQ(names,
            (std::vector<std::string>{"weight", "kernel", "special", "bias", "alpha", "position"}));
  EXPECT_LE(end, p.flat_size());
  EXPECT_EQ(p.count(), 5 + 20 + 1 + 96 + 35 + 3);
  EXPECT_EQ(p.copies(), nullptr);
}

// The optimizer runs over the padding, too: it must hold zeros.
TEST(Parameters, ThePaddingIsZero) {
  for (DType dtype : {DType::f32, DType::f64}) {
    Parameters p;
    p.add("bias", {5}, Init::ones());
    p.add("weight", {3, 11}, Init::ones());
    p.allocate(Device::cpu, dtype, 1);
    double sum = 0, gradients = 0;
    for (int64_t i = 0; i < p.flat_size(); ++i) {
      const bool wide = dtype == DType::f64;
      sum += wide ? static_cast<double*>(p.masters())[i] : static_cast<float*>(p.masters())[i];
      gradients += std::abs(wide ? static_cast<double*>(p.gradients())[i]
                                 : static_cast<float*>(p.gradients())[i]);
    }
    EXPECT_EQ(sum, 5 + 33);
    EXPECT_EQ(gradients, 0);
  }
}

TEST(Parameters, InitialValuesDependOnTheNameAndTheSeedOnly) {
  const auto values = [](const std::string& name, bool with_others, uint64_t seed, Device device,
                         DType dtype) {
    Parameters p;
    if (with_others) p.add("before", {64, 3}, Init::gaussian(1));
    p.add(name, {40, 3}, Init::truncated(0.02));
    if (with_others) p.add("after", {9}, Init::gaussian(1));
    p.allocate(device, dtype, seed);
    return p.values(p.find(name));
  };
  const auto alone = values("w", false, 3, Device::cpu, DType::f32);
  EXPECT_EQ(values("w", true, 3, Device::cpu, DType::f32), alone);
  EXPECT_NE(values("v", false, 3, Device::cpu, DType::f32), alone);
  EXPECT_NE(values("w", false, 4, Device::cpu, DType::f32), alone);
  const auto in_f64 = values("w", true, 3, Device::cpu, DType::f64);
  for (size_t i = 0; i < alone.size(); ++i) EXPECT_EQ(double(float(in_f64[i])), alone[i]);
  std::string why;
  if (!is_available(kernel_device, &why)) return;
  EXPECT_EQ(values("w", true, 3, kernel_device, DType::f32), alone);
  EXPECT_EQ(values("w", true, 3, kernel_device, DType::bf16), alone);  // the masters
}

struct Moments {
  double mean = 0, variance = 0, kurtosis = 0, largest = 0;
};
Moments moments_of(Init init, int64_t n) {
  Parameters p;
  p.add("w", {n}, init);
  p.allocate(Device::cpu, DType::f64, 5);
  const std::vector<double> v = p.values(p.find("w"));
  Moments m;
  for (double x : v) m.mean += x / double(n);
  for (double x : v) m.variance += (x - m.mean) * (x - m.mean) / double(n);
  for (double x : v) m.kurtosis += std::pow(x - m.mean, 4) / double(n);
  m.kurtosis /= m.variance * m.variance;
  for (double x : v) m.largest = std::max(m.largest, std::abs(x));
  return m;
}

// Moments of n = 200,000 numbers, within 5 standard errors.
TEST(Parameters, NormalValuesHaveTheirMoments) {
  const Moments m = moments_of(Init::gaussian(0.1), 200000);
  EXPECT_NEAR(m.mean, 0, 5 * 0.1 / std::sqrt(200000.0));
  EXPECT_NEAR(m.variance, 0.01, 5 * 0.01 * std::sqrt(2 / 200000.0));
  EXPECT_NEAR(m.kurtosis, 3, 5 * std::sqrt(24 / 200000.0));
  EXPECT_GT(m.largest, 0.4);  // 1 in 16,000 lies beyond four standard deviations
}

TEST(Parameters, UniformValuesHaveTheirMoments) {
  const Moments m = moments_of(Init::uniform(0.5), 200000);
  EXPECT_NEAR(m.mean, 0, 5 * 0.5 / std::sqrt(3 * 200000.0));
  EXPECT_NEAR(m.variance, 0.25 / 3, 0.001);
  EXPECT_NEAR(m.kurtosis, 1.8, 0.02);
  EXPECT_LE(m.largest, 0.5);
  EXPECT_GT(m.largest, 0.4999);
}

// A normal variable cut off at 2: with phi and Phi the density and distribution at 2, its variance
// is 1 - 4 phi / (2 Phi - 1) = 0.7737, and its fourth moment 3 - (8 + 3 * 2) 2 phi / (2 Phi - 1).
TEST(Parameters, TruncatedNormalValuesStayWithinTwoDeviationsAndHaveTheirMoments) {
  const double phi = std::exp(-2.0) / std::sqrt(2 * std::acos(-1.0)),
               inside = std::erf(std::sqrt(2));
  const double variance = 1 - 4 * phi / inside, fourth = 3 - 28 * phi / inside;
  EXPECT_NEAR(variance, 0.7737, 1e-4);
  const Moments m = moments_of(Init::truncated(0.5), 200000);
  EXPECT_NEAR(m.mean, 0, 5 * 0.5 * std::sqrt(variance / 200000.0));
  EXPECT_NEAR(m.variance, 0.25 * variance, 0.25 * 5 * std::sqrt(fourth / 200000.0));
  EXPECT_NEAR(m.kurtosis, fourth / (variance * variance), 0.03);
  EXPECT_LE(m.largest, 1.0);
  EXPECT_GT(m.largest, 0.999);
}

TEST(Parameters, ConstantsAreExact) {
  Parameters p;
  p.add("ones", {7}, Init::ones());
  p.add("alpha", {1}, Init::fill(0.7));
  p.add("zeros", {3}, Init::zeros());
  p.allocate(Device::cpu, DType::f32, 5);
  EXPECT_EQ(p.values(p.find("ones")), std::vector<double>(7, 1.0));
  EXPECT_EQ(p.values(p.find("alpha")), std::vector<double>(1, double(0.7f)));
  EXPECT_EQ(p.values(p.find("zeros")), std::vector<double>(3, 0.0));
}

TEST(Parameters, Bf16CopiesFollowTheMasters) {
  std::string why;
  if (!is_available(kernel_device, &why)) GTEST_SKIP() << why;
  Parameters p;
  p.add("bias", {5}, Init::gaussian(1));
  const Parameter& weight = p.add("weight", {9, 7}, Init::gaussian(1));
  p.allocate(kernel_device, DType::bf16, 5);
  const auto expect_rounded = [&] {
    for (const Parameter& q : p.all()) {
      const std::vector<double> masters = p.values(q);
      std::vector<bf16> copies(masters.size());
      copy_to_host(kernel_device, copies.data(), q.data, copies.size() * sizeof(bf16));
      for (size_t i = 0; i < copies.size(); ++i) {
        EXPECT_EQ(float(copies[i]), float(bf16(float(masters[i])))) << q.name << " " << i;
      }
      EXPECT_EQ(q.data, static_cast<bf16*>(p.copies()) + q.offset);
      EXPECT_EQ(q.dtype, DType::bf16);
    }
  };
  expect_rounded();
  std::vector<double> values(63);
  for (size_t i = 0; i < values.size(); ++i) values[i] = double(float(0.1) * float(i));
  p.set_values(weight, values);
  EXPECT_EQ(p.values(weight), values);  // the masters keep all bits
  expect_rounded();
}

TEST(Parameters, GradientsAccumulateUntilZeroed) {
  Parameters p;
  Parameter& w = p.add("w", {3}, Init::ones());
  p.allocate(Device::cpu, DType::f32, 5);
  EXPECT_TRUE(w.grad->filled);  // an op adds to it
  dyt::gradient_of<float>(&w)[1] += 2;
  dyt::gradient_of<float>(&w)[1] += 3;
  EXPECT_EQ(p.gradient(w), (std::vector<double>{0, 5, 0}));
  p.zero_gradients();
  EXPECT_EQ(p.gradient(w), (std::vector<double>{0, 0, 0}));
  EXPECT_EQ(dyt::gradient_of<float>(nullptr), nullptr);
  EXPECT_EQ(values_of<float>(nullptr), nullptr);
}

TEST(Parameters, RefusesWhatWouldGoWrongLater) {
  Parameters p;
  Parameter& w = p.add("w", {2, 3}, Init::ones());
  EXPECT_EQ(message_of([&] { p.add("w", {3}, Init::ones()); }), "two parameters named w");
  EXPECT_EQ(message_of([&] { p.add("empty", {0}, Init::ones()); }),
            "parameter empty of shape (0) has no elements");
  EXPECT_EQ(message_of([&] { p.find("v"); }), "no parameter named v");
  p.allocate(Device::cpu, DType::f32, 0);
  EXPECT_EQ(message_of([&] { p.add("late", {1}, Init::ones()); }),
            "parameter late added after the memory was allocated");
  EXPECT_EQ(message_of([&] { p.set_values(w, {1, 2}); }), "parameter w has 6 elements, not 2");
  EXPECT_EQ(message_of([&] { w.master_as<double>(); }), "parameter w has a f32 master, not f64");
}

// Buffers are a model's, but not the optimizer's.
TEST(Parameters, BuffersAreKeptApart) {
  for (DType dtype : {DType::f32, DType::f64}) {
    Parameters p;
    p.add("weight", {4, 5}, Init::ones());
    p.add_buffer("running_mean", {5}, 0);
    p.add_buffer("running_var", {5}, 1);
    p.add_buffer("batches", {1}, 0, true);
    p.allocate(Device::cpu, dtype, 1);
    EXPECT_EQ(p.count(), 20);
    EXPECT_EQ(p.all().size(), 1u);
    EXPECT_EQ(p.flat_size(), 32);
    EXPECT_EQ(p.buffers().size(), 3u);
    EXPECT_EQ(p.values(p.find_buffer("running_var")), std::vector<double>(5, 1.0));
    const ModelBuffer& mean = p.find_buffer("running_mean");
    EXPECT_EQ(mean.grad, nullptr);
    EXPECT_EQ(mean.dtype, dtype);
    EXPECT_EQ(static_cast<char*>(mean.data),
              static_cast<char*>(p.buffer_values()) + size_t(mean.offset) * size_of(dtype));
    p.set_values(mean, {1, 2, 3, 4, 5});
    EXPECT_EQ(p.values(mean), (std::vector<double>{1, 2, 3, 4, 5}));
    EXPECT_EQ(p.values(p.find_buffer("running_var")), std::vector<double>(5, 1.0));
    EXPECT_LE(p.find_buffer("batches").offset + 1, p.buffer_size());
  }
}

TEST(Parameters, RefusesWrongBuffers) {
  Parameters p;
  p.add("weight", {4}, Init::ones());
  ModelBuffer& mean = p.add_buffer("mean", {5}, 0);
  EXPECT_NE(message_of([&] { p.add_buffer("weight", {4}, 0); }).find("two parameters named weight"),
            std::string::npos);
  EXPECT_NE(message_of([&] { p.add("mean", {4}, Init::ones()); }).find("named mean"),
            std::string::npos);
  p.allocate(Device::cpu, DType::f32, 1);
  EXPECT_NE(message_of([&] {
              p.set_values(mean, {1, 2});
            }).find("mean has 5 elements, not 2"),
            std::string::npos);
  EXPECT_NE(message_of([&] { p.find_buffer("variance"); }).find("no buffer named variance"),
            std::string::npos);
  EXPECT_NE(message_of([&] { p.add_buffer("late", {1}, 0); }).find("late"), std::string::npos);
}

}  // namespace
}  // namespace dyt
