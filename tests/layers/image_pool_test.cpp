#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "layers/convolutions.h"
#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"

namespace dyt::test {
namespace {

std::string window_text(Shape images, int K, int stride) {
  return " " + std::to_string(K) + " of " + images.text() + ", stride " + std::to_string(stride);
}

OpCase max_case(Shape images, int K, int stride, int padding) {
  return {.name = "max_pool" + window_text(images, K, stride),
          .inputs = {images},
          .run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return max_pool(tape, x[0], K, stride, padding);
          }};
}

OpCase average_case(Shape images, int K, int stride) {
  return {.name = "average_pool" + window_text(images, K, stride),
          .inputs = {images},
          .run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return average_pool(tape, x[0], K, stride);
          }};
}

OpCase global_case(Shape images) {
  return {.name = "global_average_pool " + images.text(),
          .inputs = {images},
          .run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return global_average_pool(tape, x[0]);
          }};
}

TEST(ImagePool, GradientsAgreeWithFiniteDifferences) {
  check_gradients(max_case({2, 5, 7, 3}, 3, 2, 1));
  check_gradients(max_case({2, 4, 5, 3}, 2, 3, 0));  // pixels that no window holds
  check_gradients(average_case({2, 5, 7, 3}, 3, 2));
  check_gradients(global_case({2, 3, 5, 3}));
  check_gradients(added_to_x(max_case({2, 4, 5, 3}, 3, 1, 1)));
  check_gradients(added_to_x(average_case({2, 4, 5, 3}, 1, 1)));
}

TEST(ImagePool, OfBf16OnTheCpuAgreesWithF32) {
  check_bf16_activations_on_the_cpu(average_case({2, 6, 8, 3}, 2, 2));
  check_bf16_activations_on_the_cpu(max_case({2, 5, 7, 3}, 3, 2, 1));
  check_bf16_activations_on_the_cpu(added_to_x(max_case({2, 4, 5, 24}, 3, 1, 1)));
}

TEST(ImagePool, AgreesWithPyTorch) {
  const std::string file = "layers2.safetensors";
  check_reference(max_case({2, 7, 8, 3}, 3, 2, 1), file, "max_pool_3x3_s2_p1");
  check_reference(max_case({2, 6, 8, 3}, 2, 2, 0), file, "max_pool_2x2_s2");
  check_reference(average_case({2, 6, 8, 3}, 2, 2), file, "average_pool_2x2_s2");
  check_reference(global_case({3, 5, 3, 7}), file, "global_average_pool");
}

// What y and dx are for these pixels of one channel, with dy = 1, on a device.
struct Pooled {
  std::vector<double> y, dx;
};
Pooled pooled(Device device, const OpCase& op, const std::vector<double>& pixels) {
  Values values = draw_values(op, 1);
  values.inputs[0] = pixels;
  values.dy.assign(values.dy.size(), 1.0);
  const Outcome outcome = run_op(op, device, DType::f32, values);
  return {outcome.y, outcome.input_gradients[0]};
}

// Of equal pixels the first is taken, and negative ones are larger than the padding.
void check_ties(Device device) {
  const Pooled p = pooled(device, max_case({1, 2, 4, 1}, 2, 2, 0), {3, 3, -2, -1, 3, 1, -1, -5});
  EXPECT_EQ(p.y, (std::vector<double>{3, -1}));
  EXPECT_EQ(p.dx, (std::vector<double>{1, 0, 0, 1, 0, 0, 0, 0}));
  const Pooled q = pooled(device, max_case({1, 1, 2, 1}, 3, 2, 1), {-7, -8});
  EXPECT_EQ(q.y, (std::vector<double>{-7}));
  EXPECT_EQ(q.dx, (std::vector<double>{1, 0}));
  const double lowest = -std::numeric_limits<double>::infinity();
  const Pooled r = pooled(device, max_case({1, 1, 2, 1}, 3, 2, 1), {lowest, lowest});
  EXPECT_EQ(r.dx, (std::vector<double>{1, 0}));
}

// A maximum that ignored NaN would hide a run that has diverged.
void check_nan(Device device) {
  for (size_t place = 0; place < 4; ++place) {
    std::vector<double> pixels{1, 2, 3, 4};
    pixels[place] = std::nan("");
    const Pooled p = pooled(device, max_case({1, 2, 2, 1}, 2, 2, 0), pixels);
    EXPECT_TRUE(std::isnan(p.y[0])) << place;
    EXPECT_EQ(p.dx[place], 1) << place;
  }
}

TEST(ImagePool, TakesTheFirstOfEqualPixels) { check_ties(Device::cpu); }
TEST(ImagePool, PassesNanOn) { check_nan(Device::cpu); }

TEST(ImagePoolKernels, TakeTheFirstOfEqualPixelsAndPassNanOn) {
  SKIP_WITHOUT_KERNELS();
  check_ties(kernel_device);
  check_nan(kernel_device);
}

TEST(ImagePoolKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& images :
       {Shape{2, 1, 1, 8}, Shape{2, 5, 7, 3}, Shape{2, 9, 5, 40}, Shape{1, 7, 9, 33}}) {
    check_kernels(max_case(images, 3, 2, 1));
    check_kernels(added_to_x(max_case(images, 3, 1, 1)));
    check_kernels(global_case(images));
    if (images[1] < 3) continue;
    check_kernels(max_case(images, 2, 3, 0));
    check_kernels(average_case(images, 3, 2));
    check_kernels(added_to_x(average_case(images, 1, 1)));
  }
}

// Without training nothing is remembered, and the values are the same.
TEST(ImagePool, EvaluatesWithoutTraining) {
  Tape tape(Device::cpu, DType::f32);
  tape.training = false;
  const std::vector<float> pixels{1, 5, 2, 4};
  const Tensor x = tape.upload({1, 2, 2, 1}, DType::f32, pixels.data());
  EXPECT_EQ(to_host(tape, max_pool(tape, x, 2, 2)), std::vector<double>{5});
}

void expect_refused(const std::function<void(Tape&, const Tensor&)>& op, const std::string& why) {
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.empty({2, 4, 4, 3});
  try {
    op(tape, x);
    FAIL() << "no error: " << why;
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(why), std::string::npos) << e.what();
  }
}

TEST(ImagePool, RefusesWhatDoesNotFit) {
  expect_refused([](Tape& t, const Tensor& x) { max_pool(t, x, 3, 2, 2); },
                 "max_pool: padding 2 is not between 0 and half the window of 3");
  expect_refused([](Tape& t, const Tensor& x) { average_pool(t, x, 5, 1); },
                 "images of 4 x 4 with padding 0 are smaller than the window of 5");
  expect_refused([](Tape& t, const Tensor& x) { max_pool(t, x, 2, 0); }, "stride");
  expect_refused(
      [](Tape& t, const Tensor& x) {
        max_pool(t, x.reshaped({2, 16, 3}), 2, 2);
      },
      "max_pool takes images (B, H, W, C), not (2, 16, 3)");
  expect_refused(
      [](Tape& t, const Tensor& x) {
        global_average_pool(t, x.reshaped({32, 3}));
      },
      "(32, 3)");
}

}  // namespace
}  // namespace dyt::test
