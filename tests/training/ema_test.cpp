#include "training/ema.h"

#include <gtest/gtest.h>

#include "tests/op_check.h"

namespace dyt::test {
namespace {

// Two parameters and a buffer, of sizes that are no multiple of anything.
void declare(Parameters& p) {
  p.add("weight", {5, 7}, Init::gaussian(1));
  p.add("bias", {3}, Init::gaussian(1));
  p.add_buffer("running_mean", {3}, 0.5);
}

std::vector<double> everything(const Parameters& p) {
  std::vector<double> all = p.values(p.all()[0]);
  for (const double v : p.values(p.all()[1])) all.push_back(v);
  for (const double v : p.values(p.buffers()[0])) all.push_back(v);
  return all;
}

// The optimizer's part: weights and buffers become what they were times `factor`.
void scale(Parameters& p, double factor) {
  const auto scaled = [&](std::vector<double> values) {
    for (double& v : values) v *= factor;
    return values;
  };
  for (Parameter& w : p.all()) p.set_values(w, scaled(p.values(w)));
  for (ModelBuffer& b : p.buffers()) p.set_values(b, scaled(p.values(b)));
}

std::vector<double> times(std::vector<double> values, double factor) {
  for (double& v : values) v *= factor;
  return values;
}

// What the model computes with, in the number type it does.
std::vector<double> as_computed(const Parameters& p) {
  const Tape tape(p.device(), p.dtype());
  return to_host(tape, p.all()[0]);
}

void check(Device device, DType dtype) {
  const double tolerance = dtype == DType::f64 ? 1e-14 : 1e-6;
  Parameters p;
  declare(p);
  p.allocate(device, dtype, 3);
  const std::vector<double> start = everything(p);
  WeightAverage average(p, 0.9);
  double expected = 1, weight = 1;  // in units of the start
  for (int step = 0; step < 5; ++step) {
    scale(p, 2);
    weight *= 2;
    average.step();
    expected = 0.9 * expected + 0.1 * weight;
  }
  const std::vector<double> weights = everything(p), computed = as_computed(p);
  expect_close(weights, times(start, weight), tolerance, "weights");
  {
    const WithAverage evaluation(&average);
    EXPECT_TRUE(average.swapped());
    expect_close(everything(p), times(start, expected), tolerance, "average");
    expect_close(as_computed(p), p.values(p.all()[0]), dtype == DType::bf16 ? 4e-3 : 1e-12,
                 "what is computed with");
    EXPECT_THROW(average.step(), Error);
  }
  EXPECT_FALSE(average.swapped());
  EXPECT_EQ(everything(p), weights);
  EXPECT_EQ(as_computed(p), computed);
  EXPECT_EQ(average.updates(), 5);
  EXPECT_EQ(average.bytes(),
            size_t(p.flat_size() + p.buffer_size()) * (dtype == DType::f64 ? 8 : 4));
}

TEST(WeightAverage, FollowsTheWeightsAndChangesPlacesWithThem) {
  check(Device::cpu, DType::f32);
  check(Device::cpu, DType::f64);
}

TEST(WeightAverageKernels, FollowTheWeightsAndChangePlacesWithThem) {
  SKIP_WITHOUT_KERNELS();
  check(kernel_device, DType::f32);
  check(kernel_device, DType::bf16);
}

void check_counts(Device device) {
  Parameters p;
  p.add("weight", {5, 7}, Init::gaussian(1));
  const ModelBuffer& count = p.add_buffer("batches", {1}, 0, true);
  const ModelBuffer& mean = p.add_buffer("running_mean", {3}, 0);
  p.allocate(device, DType::f32, 3);
  WeightAverage average(p, 0.9);
  for (int step = 1; step <= 3; ++step) {
    p.set_values(count, {double(step)});
    p.set_values(mean, {1, 1, 1});
    average.step();
  }
  const WithAverage evaluation(&average);
  EXPECT_EQ(p.values(count)[0], 3);
  EXPECT_NEAR(p.values(mean)[1], 1 - 0.9 * 0.9 * 0.9, 1e-6);
}

TEST(WeightAverage, CopiesWhatCounts) { check_counts(Device::cpu); }

TEST(WeightAverageKernels, CopyWhatCounts) {
  SKIP_WITHOUT_KERNELS();
  check_counts(kernel_device);
}

TEST(WeightAverage, WarmsUpIfAsked) {
  Parameters p;
  declare(p);
  p.allocate(Device::cpu, DType::f64, 3);
  const std::vector<double> start = everything(p);
  WeightAverage average(p, 0.15, true);
  scale(p, 3);
  average.step();  // decay 1 / 10
  scale(p, 2);
  average.step();  // 0.15, as 2 / 11 is more
  const WithAverage evaluation(&average);
  const double first = 0.1 + 0.9 * 3, second = 0.15 * first + 0.85 * 6;
  expect_close(everything(p), times(start, second), 1e-14, "average");
}

TEST(WeightAverage, CanBeAbsent) { const WithAverage evaluation(nullptr); }

TEST(WeightAverage, RefusesADecayThatIsNone) {
  Parameters p;
  declare(p);
  p.allocate(Device::cpu, DType::f32, 0);
  for (const double decay : {1.0, -0.1, 2.0}) EXPECT_THROW(WeightAverage(p, decay), Error);
  WeightAverage(p, 0);
}

}  // namespace
}  // namespace dyt::test
