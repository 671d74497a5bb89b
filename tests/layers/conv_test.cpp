#include <gtest/gtest.h>

#include "core/convolution.h"
#include "layers/convolutions.h"
#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"

namespace dyt::test {
namespace {

struct Conv {
  Shape images;
  int64_t Cout, K;
  int stride, padding;
  bool with_bias = false;
};

OpCase conv_case(const Conv& c) {
  return {.name = "conv " + c.images.text() + " to " + std::to_string(c.Cout) + ", K " +
                  std::to_string(c.K) + ", stride " + std::to_string(c.stride) + ", padding " +
                  std::to_string(c.padding),
          .inputs = {c.images},
          .declare =
              [=](Parameters& p) {
                p.add("weight", {c.Cout, c.images[3], c.K, c.K}, Init::gaussian(0.3));
                if (c.with_bias) p.add("bias", {c.Cout}, Init::gaussian(1.0));
              },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                return conv(tape, x[0], p.find("weight"), c.with_bias ? &p.find("bias") : nullptr,
                            c.stride, c.padding);
              }};
}

// y = conv(x) + conv(x): the second gradients of x and of the weight are added to the first.
OpCase twice_case(const Conv& c) {
  OpCase op = conv_case(c);
  op.name += ", twice";
  op.run = [run = op.run](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    return residual_add(tape, run(tape, x, p), run(tape, x, p));
  };
  return op;
}

// In f64 on the CPU: by columns.
TEST(Conv, GradientsAgreeWithFiniteDifferences) {
  check_gradients(conv_case({{2, 3, 4, 3}, 5, 1, 1, 0}));
  check_gradients(conv_case({{2, 4, 5, 3}, 2, 3, 1, 1, true}));
  check_gradients(conv_case({{3, 5, 4, 2}, 3, 3, 2, 1}));
  check_gradients(conv_case({{1, 7, 6, 3}, 2, 7, 2, 3, true}));
  check_gradients(twice_case({{2, 3, 4, 3}, 5, 1, 1, 0}));
  check_gradients(twice_case({{2, 3, 4, 3}, 2, 3, 2, 1}));
}

// In f32 on the CPU: oneDNN where it is built in.
TEST(Conv, AgreesWithPyTorch) {
  const std::vector<Conv> cases = {{{2, 3, 4, 6}, 5, 1, 1, 0},        {{2, 5, 6, 4}, 3, 1, 2, 0},
                                   {{2, 6, 4, 3}, 5, 2, 2, 0, true},  {{2, 5, 6, 4}, 7, 3, 1, 1},
                                   {{2, 4, 5, 3}, 2, 3, 1, 1, true},  {{2, 7, 8, 5}, 6, 3, 2, 1},
                                   {{2, 8, 12, 3}, 4, 4, 4, 0, true}, {{2, 11, 10, 3}, 4, 7, 2, 3}};
  for (const Conv& c : cases) {
    const std::string K = std::to_string(c.K);
    check_reference(conv_case(c), "layers2.safetensors",
                    "conv" + K + "x" + K + "_s" + std::to_string(c.stride) + "_p" +
                        std::to_string(c.padding) + (c.with_bias ? "_bias" : ""));
  }
}

// f32 (oneDNN; with BLAS=none, columns) against columns in f64, where a batch is done in several
// chunks, or adds its gradient in several, or would if more than 1 divided it.
TEST(Conv, F32AgreesWithF64) {
  for (const OpCase& op :
       {conv_case({{3, 9, 7, 16}, 32, 3, 1, 1, true}), conv_case({{8, 16, 16, 16}, 8, 3, 1, 1}),
        twice_case({{4, 8, 8, 16}, 16, 3, 1, 1}), twice_case({{128, 8, 8, 48}, 16, 1, 2, 0}),
        twice_case({{7, 32, 32, 48}, 16, 1, 2, 0}), conv_case({{2, 5, 5, 4}, 4, 2, 1, 2, true}),
        conv_case({{5, 16, 15, 8}, 16, 1, 2, 0, true}),
        conv_case({{3, 9, 7, 32}, 48, 3, 1, 1, true}), twice_case({{4, 8, 11, 64}, 64, 3, 1, 1}),
        conv_case({{2, 4, 4, 128}, 64, 3, 1, 1})}) {
    SCOPED_TRACE(op.name);
    Values values = draw_values(op, 5);
    values.dy.resize(1 << 18, 0.25);
    const Outcome expected = run_op(op, Device::cpu, DType::f64, values);
    const Outcome actual = run_op(op, Device::cpu, DType::f32, values);
    expect_close(actual.y, expected.y, 2e-6, "y");
    expect_close(actual.input_gradients[0], expected.input_gradients[0], 2e-6, "dx");
    for (const auto& [name, gradient] : expected.parameter_gradients) {
      expect_close(actual.parameter_gradients.at(name), gradient, 1e-5, "d" + name);
    }
  }
}

const Conv awkward[] = {
    Conv{{2, 1, 1, 3}, 8, 3, 1, 1, true},  Conv{{2, 5, 7, 8}, 33, 3, 1, 1, true},
    Conv{{1, 9, 7, 40}, 8, 3, 2, 1},       Conv{{2, 9, 5, 33}, 3, 2, 2, 0, true},
    Conv{{2, 8, 8, 3}, 40, 4, 4, 0, true}, Conv{{1, 9, 9, 3}, 8, 7, 2, 3},
    Conv{{2, 5, 7, 40}, 8, 1, 1, 0},       Conv{{2, 5, 7, 8}, 3, 1, 1, 0, true},
    Conv{{2, 7, 5, 33}, 8, 1, 2, 0},       Conv{{3, 7, 4, 12}, 16, 1, 2, 0, true}};

TEST(ConvKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Conv& c : awkward) {
    check_kernels(conv_case(c));
  }
}

TEST(Conv, WithProductsInBf16AgreesWithF32) {
  for (const Conv& c : awkward) check_bf16_on_the_cpu(conv_case(c));
  check_bf16_on_the_cpu(conv_case({{3, 8, 8, 64}, 64, 3, 1, 1}));
  check_bf16_on_the_cpu(conv_case({{3, 8, 8, 32}, 32, 3, 1, 1, true}));
  check_bf16_on_the_cpu(conv_case({{3, 8, 8, 32}, 64, 3, 2, 1}));
  check_bf16_on_the_cpu(twice_case({{2, 5, 4, 8}, 3, 3, 2, 1}));
  check_bf16_on_the_cpu(twice_case({{2, 5, 4, 8}, 5, 1, 1, 0}));
}

TEST(Conv, WithActivationsInBf16AgreesWithF32) {
  if (!has_convolution_library() || !has_bf16_instructions()) {
    GTEST_SKIP() << "no oneDNN in this build, or no bf16 instructions in this processor";
  }
  for (const Conv& c : awkward) check_bf16_activations_on_the_cpu(conv_case(c));
  check_bf16_activations_on_the_cpu(conv_case({{3, 8, 8, 64}, 64, 3, 1, 1, true}));
  check_bf16_activations_on_the_cpu(conv_case({{3, 9, 7, 32}, 32, 3, 1, 1, true}));
  check_bf16_activations_on_the_cpu(twice_case({{4, 8, 11, 64}, 64, 3, 1, 1}));
  check_bf16_activations_on_the_cpu(twice_case({{4, 8, 8, 16}, 16, 3, 1, 1}));
  check_bf16_activations_on_the_cpu(twice_case({{2, 5, 4, 8}, 3, 3, 2, 1}));
  check_bf16_activations_on_the_cpu(twice_case({{7, 32, 32, 48}, 16, 1, 2, 0}));
  // By columns, where products round their factors: strided filters' gradients; patches that don't
  // overlap.
  check_bf16_activations_on_the_cpu(conv_case({{3, 9, 8, 32}, 64, 3, 2, 1, true}));
  check_bf16_activations_on_the_cpu(twice_case({{2, 16, 16, 16}, 32, 3, 2, 1}));
  check_bf16_activations_on_the_cpu(conv_case({{3, 8, 6, 3}, 40, 2, 2, 0, true}));
  check_bf16_activations_on_the_cpu(twice_case({{2, 8, 9, 40}, 24, 2, 2, 0}));
}

TEST(ConvKernels, AddToAGradientThatIsThere) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(twice_case({{2, 5, 4, 3}, 8, 3, 1, 1}));
  check_kernels(twice_case({{2, 5, 4, 8}, 3, 3, 2, 1}));
  check_kernels(twice_case({{2, 5, 4, 8}, 5, 1, 1, 0}));
}

// Images come in f32 also where activations are bf16.
TEST(ConvKernels, TakesImagesInF32) {
  SKIP_WITHOUT_KERNELS();
  const Conv c{{2, 6, 6, 8}, 4, 3, 1, 1};
  OpCase op = conv_case(c);
  const Values values = draw_values(op, 3, true);
  const Outcome expected = run_op(op, kernel_device, DType::bf16, values);
  const std::vector<float> pixels(values.inputs[0].begin(), values.inputs[0].end());
  op.inputs.clear();
  op.run = [&](Tape& tape, const std::vector<Tensor>&, Parameters& p) {
    return conv(tape, tape.upload(c.images, DType::f32, pixels.data()), p.find("weight"), nullptr,
                1, 1);
  };
  const Outcome actual = run_op(op, kernel_device, DType::bf16, values);
  EXPECT_EQ(actual.y, expected.y);
  EXPECT_EQ(actual.parameter_gradients.at("weight"), expected.parameter_gradients.at("weight"));
}

void expect_refused(Shape weight, Shape bias, int stride, int padding, const std::string& why) {
  Parameters p;
  const Parameter& w = p.add("conv1.weight", weight, Init::ones());
  const Parameter& b = p.add("conv1.bias", bias, Init::ones());
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.empty({2, 4, 4, 3});
  try {
    conv(tape, x, w, &b, stride, padding);
    FAIL() << "no error for " << weight.text();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(why), std::string::npos) << e.what();
  }
}

TEST(Conv, RefusesWhatDoesNotFit) {
  expect_refused({8, 4, 3, 3}, {8}, 1, 1, "conv1.weight (8, 4, 3, 3) does not take 3 channels");
  expect_refused({8, 3, 3, 1}, {8}, 1, 1, "(8, 3, 3, 1) does not take");
  expect_refused({8, 3, 3, 3}, {7}, 1, 1, "conv1.bias has 7 elements for 8 channels");
  expect_refused({8, 3, 3, 3}, {8}, 0, 1, "stride 0");
  expect_refused({8, 3, 7, 7}, {8}, 1, 1, "images of 4 x 4 with padding 1 are smaller");
}

}  // namespace
}  // namespace dyt::test
