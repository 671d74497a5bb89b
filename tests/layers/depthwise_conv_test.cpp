#include <gtest/gtest.h>

#include "layers/convolutions.h"
#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

OpCase depthwise_case(Shape images, int64_t K, bool with_bias = true) {
  return {.name = "depthwise " + std::to_string(K) + " " + images.text(),
          .inputs = {images},
          .declare =
              [=](Parameters& p) {
                p.add("weight", {images[3], 1, K, K}, Init::gaussian(0.2));
                if (with_bias) p.add("bias", {images[3]}, Init::gaussian(1.0));
              },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                return depthwise_conv(tape, x[0], p.find("weight"),
                                      with_bias ? &p.find("bias") : nullptr);
              }};
}

TEST(DepthwiseConv, GradientsAgreeWithFiniteDifferences) {
  check_gradients(depthwise_case({2, 5, 9, 3}, 7));
  check_gradients(depthwise_case({3, 2, 1, 9}, 7, false));  // smaller than the filter
  check_gradients(depthwise_case({2, 6, 5, 8}, 3));
  for (int64_t W = 2; W <= 8; ++W) check_gradients(depthwise_case({1, 4, W, 2}, 7));
}

TEST(DepthwiseConv, AgreesWithPyTorch) {
  const std::string file = "layers2.safetensors";
  check_reference(depthwise_case({2, 9, 8, 5}, 7), file, "depthwise7");
  check_reference(depthwise_case({1, 3, 4, 6}, 7), file, "depthwise7_small");
}

TEST(DepthwiseConv, OfBf16OnTheCpuAgreesWithF32) {
  check_bf16_activations_on_the_cpu(depthwise_case({2, 5, 9, 3}, 7));
  for (int64_t W = 1; W <= 8; ++W) {
    check_bf16_activations_on_the_cpu(depthwise_case({3, W, W, 40}, 7));
  }
  check_bf16_activations_on_the_cpu(depthwise_case({2, 6, 5, 16}, 3, false));
  check_bf16_activations_on_the_cpu(added_to_x(depthwise_case({2, 5, 6, 21}, 7)));
}

// A filter that is 1 in one place and 0 elsewhere moves the image; 0 comes in at the border. Widths
// around a strip of the CPU's loops, of which each up to a strip has code of its own.
TEST(DepthwiseConv, OneTapMovesTheImage) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const int64_t K : {3, 7}) {
      for (int64_t W = 1; W <= 10; ++W) {
        const int64_t H = 4, R = K / 2;
        const OpCase op = depthwise_case({1, H, W, 1}, K, false);
        Values values = draw_values(op, 1);
        for (int64_t tap = 0; tap < K * K; ++tap) {
          SCOPED_TRACE(testing::Message() << name_of(dtype) << " width " << W << " tap " << tap);
          values.parameters["weight"].assign(size_t(K * K), 0.0);
          values.parameters["weight"][size_t(tap)] = 1;
          const Outcome outcome = run_op(op, Device::cpu, dtype, values);
          for (int64_t h = 0; h < H; ++h) {
            for (int64_t w = 0; w < W; ++w) {
              const int64_t from_h = h + tap / K - R, from_w = w + tap % K - R;
              const bool inside = from_h >= 0 && from_h < H && from_w >= 0 && from_w < W;
              const double x = inside ? values.inputs[0][size_t(from_h * W + from_w)] : 0;
              const double expected = dtype == DType::f32 ? double(float(x)) : x;
              ASSERT_EQ(outcome.y[size_t(h * W + w)], expected) << h << ", " << w;
            }
          }
        }
      }
    }
  }
}

TEST(DepthwiseConvKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& images : {Shape{2, 1, 1, 8}, Shape{3, 5, 7, 3}, Shape{2, 9, 9, 40},
                              Shape{1, 17, 19, 33}, Shape{2, 3, 18, 16}, Shape{5, 2, 2, 24},
                              Shape{1, 14, 14, 16}, Shape{1, 15, 33, 24}, Shape{1, 33, 40, 8}}) {
    check_kernels(depthwise_case(images, 7));
  }
  check_kernels(depthwise_case({2, 9, 7, 40}, 3, false));
  check_kernels(depthwise_case({1, 20, 5, 5}, 3));
  check_kernels(depthwise_case({9, 1, 2, 1024}, 3));  // several tiles to a block of dweight
}

TEST(DepthwiseConv, AddsToAGradientThatIsThere) {
  check_gradients(added_to_x(depthwise_case({2, 5, 6, 3}, 7)));
}

TEST(DepthwiseConvKernels, AddToAGradientThatIsThere) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(added_to_x(depthwise_case({2, 5, 6, 5}, 7)));
  check_kernels(added_to_x(depthwise_case({2, 5, 6, 16}, 7)));
}

void expect_refused(Shape weight, Shape bias, const std::string& why) {
  Parameters p;
  const Parameter& w = p.add("conv_dw.weight", weight, Init::ones());
  const Parameter& b = p.add("conv_dw.bias", bias, Init::ones());
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.empty({2, 4, 4, 5});
  try {
    depthwise_conv(tape, x, w, &b);
    FAIL() << "no error for " << weight.text();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(why), std::string::npos) << e.what();
  }
}

TEST(DepthwiseConv, RefusesWhatDoesNotFit) {
  expect_refused({6, 1, 7, 7}, {5}, "conv_dw.weight (6, 1, 7, 7) does not filter 5 channels");
  expect_refused({5, 1, 5, 5}, {5}, "filters are 3 x 3 or 7 x 7");
  expect_refused({5, 1, 7, 7}, {4}, "conv_dw.bias has 4 elements for 5 channels");
}

}  // namespace
}  // namespace dyt::test
