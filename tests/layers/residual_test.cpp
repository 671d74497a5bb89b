#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"

namespace dyt::test {
namespace {

OpCase residual_case(Shape shape, float drop) {
  return {.name = "residual_add " + shape.text() + " drop " + std::to_string(drop),
          .inputs = {shape, shape},
          .run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return residual_add(tape, x[0], x[1], drop);
          }};
}

// x and f are used again: the gradients of both add up, in x's case where dy can't be handed on.
OpCase used_twice(Shape shape, float drop) {
  OpCase op = residual_case(shape, drop);
  op.name += ", twice";
  op.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
    const Tensor y = residual_add(tape, x[0], x[1], drop);
    return residual_add(tape, residual_add(tape, y, x[1], drop), x[0], drop);
  };
  return op;
}

OpCase doubled(Shape shape, float drop) {
  return {.name = "residual_add of x to itself " + shape.text(),
          .inputs = {shape},
          .run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return residual_add(tape, x[0], x[0], drop);
          }};
}

// y of x = 0 and f = 1, one number per sample: 1 / (1 - drop) where a sample keeps f, else 0.
std::vector<double> mask(Device device, int64_t samples, float drop, uint64_t step, int calls = 1,
                         bool training = true) {
  Tape tape(device, DType::f32, 9);
  tape.training = training;
  tape.begin(step);
  const std::vector<float> zeros(size_t(samples), 0.0f), ones(size_t(samples), 1.0f);
  const Tensor x = tape.upload({samples, 1}, DType::f32, zeros.data());
  const Tensor f = tape.upload({samples, 1}, DType::f32, ones.data());
  Tensor y;
  for (int call = 0; call < calls; ++call) y = residual_add(tape, x, f, drop);
  return to_host(tape, y);
}

TEST(Residual, GradientsAgreeWithFiniteDifferences) {
  for (float drop : {0.0f, 0.4f}) {
    check_gradients(residual_case({6, 2, 3}, drop));
    check_gradients(used_twice({6, 4}, drop));
    check_gradients(doubled({6, 4}, drop));
  }
}

TEST(ResidualKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (float drop : {0.0f, 0.4f}) {
    for (const Shape& shape : {Shape{1, 1, 8}, Shape{7, 5}, Shape{33, 1, 3}, Shape{5, 197, 40},
                               Shape{3, 33, 11}, Shape{70, 8}}) {
      check_kernels(residual_case(shape, drop));
    }
    check_kernels(used_twice({7, 24}, drop));
    check_kernels(doubled({7, 24}, drop));
  }
}

TEST(Residual, OfBf16OnTheCpuAgreesWithF32) {
  for (float drop : {0.0f, 0.4f}) {
    check_bf16_activations_on_the_cpu(used_twice({7, 24}, drop));
    check_bf16_activations_on_the_cpu(doubled({7, 24}, drop));
  }
}

// The number of kept samples is binomial: within 5 standard deviations of its mean.
TEST(Residual, KeepsTheShareOfSamplesItShould) {
  const int64_t samples = 40000;
  for (float drop : {0.1f, 0.5f, 0.9f}) {
    double kept = 0, sum = 0;
    for (double v : mask(Device::cpu, samples, drop, 1)) {
      ASSERT_TRUE(v == 0 || std::abs(v - 1 / (1 - double(drop))) < 1e-5) << v;
      kept += v > 0;
      sum += v;
    }
    const double n = double(samples), keep = 1 - double(drop);
    EXPECT_NEAR(kept, n * keep, 5 * std::sqrt(n * keep * (1 - keep))) << "drop " << drop;
    EXPECT_NEAR(sum / n, 1, 5 * std::sqrt((1 - keep) / (keep * n))) << "drop " << drop;
  }
}

TEST(Residual, DropsOtherSamplesInEveryStepAndOp) {
  const std::vector<double> first = mask(Device::cpu, 200, 0.5f, 1);
  EXPECT_EQ(first, mask(Device::cpu, 200, 0.5f, 1));
  EXPECT_NE(first, mask(Device::cpu, 200, 0.5f, 2));
  EXPECT_NE(first, mask(Device::cpu, 200, 0.5f, 1, 2));
}

TEST(ResidualKernels, DropTheSamplesThatTheCpuDrops) {
  SKIP_WITHOUT_KERNELS();
  for (float drop : {0.1f, 0.3f, 0.9f}) {
    EXPECT_EQ(mask(Device::cpu, 3000, drop, 4), mask(kernel_device, 3000, drop, 4));
  }
}

TEST(Residual, IsPlainAdditionOutsideTraining) {
  const std::vector<double> ones(100, 1.0);
  EXPECT_EQ(mask(Device::cpu, 100, 0.5f, 1, 1, false), ones);
  EXPECT_EQ(mask(Device::cpu, 100, 0.0f, 1), ones);
  EXPECT_NE(mask(Device::cpu, 100, 0.5f, 1), ones);
}

// What a dropped sample's f was, even a NaN, leaves no trace: neither in y nor in the gradients.
TEST(Residual, ADroppedSampleLeavesNoTrace) {
  const OpCase op = residual_case({64, 4}, 0.5f);
  Values values = draw_values(op, 3);
  std::vector<Device> devices = {Device::cpu};
  if (is_available(kernel_device)) devices.push_back(kernel_device);
  for (Device device : devices) {
    const Outcome before = run_op(op, device, DType::f32, values);
    Values spoilt = values;
    int dropped = 0;
    for (size_t i = 0; i < before.y.size(); ++i) {
      if (before.y[i] != double(float(values.inputs[0][i]))) continue;
      ++dropped;
      spoilt.inputs[1][i] = std::numeric_limits<double>::quiet_NaN();
      EXPECT_EQ(before.input_gradients[1][i], 0);
    }
    ASSERT_GT(dropped, 64);
    ASSERT_LT(dropped, 192);
    EXPECT_EQ(run_op(op, device, DType::f32, spoilt).y, before.y);
  }
}

// dx = dy costs nothing where x has no gradient yet: the memory is handed on.
TEST(Residual, HandsTheMemoryOfTheGradientOn) {
  Tape tape(Device::cpu, DType::f32);
  const std::vector<float> numbers = {1, 2, 3, 4};
  const Tensor x = tape.upload({4, 1}, DType::f32, numbers.data(), true);
  const Tensor f = tape.upload({4, 1}, DType::f32, numbers.data(), true);
  const Tensor y = residual_add(tape, x, f, 0.25f);
  const Tensor z = tape.empty({4, 1});  // z = y, an op that tells us where the gradient of y is
  const void* place = nullptr;
  const void** seen = &place;
  tape.record(z, [=, &tape] {
    const auto dy = tape.gradient<float>(y);
    std::copy_n(tape.gradient_of_output<float>(z), 4, dy.data);
    *seen = dy.data;
  });
  tape.backward(z, numbers.data());
  ASSERT_NE(place, nullptr);
  EXPECT_EQ(x.grad->data, place);
  EXPECT_NE(f.grad->data, place);
  const float* dx = static_cast<const float*>(x.grad->data);
  EXPECT_EQ(std::vector<float>(dx, dx + 4), numbers);
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Residual, RefusesWhatDoesNotFit) {
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.empty({2, 3}), f = tape.empty({3, 2});
  EXPECT_EQ(error_of([&] { residual_add(tape, x, f); }),
            "residual_add: x (2, 3) and f (3, 2) differ in shape");
  EXPECT_EQ(error_of([&] { residual_add(tape, x, x, 1.0f); }),
            "residual_add: drop is a probability in [0, 1), not 1");
  EXPECT_EQ(error_of([&] { residual_add(tape, x, x, -0.5f); }),
            "residual_add: drop is a probability in [0, 1), not -0.5");
  EXPECT_EQ(error_of([&] { residual_add(tape, x, x, NAN); }),
            "residual_add: drop is a probability in [0, 1), not nan");
}

}  // namespace
}  // namespace dyt::test
