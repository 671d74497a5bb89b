#include <gtest/gtest.h>

#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

OpCase layer_scale_case(Shape shape, bool with_residual) {
  return {
      .name = std::string("layer scale ") + (with_residual ? "and residual " : "") + shape.text(),
      .inputs = with_residual ? std::vector<Shape>{shape, shape} : std::vector<Shape>{shape},
      .declare = [=](Parameters& p) { p.add("gamma", {shape[-1]}, Init::gaussian(1.0)); },
      .run =
          [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
            return layer_scale(tape, x[0], p.find("gamma"), with_residual ? &x[1] : nullptr);
          }};
}

// x is also the residual, and both get more gradient from elsewhere.
OpCase everything_twice(Shape shape) {
  return {.name = "layer scale, every input used twice " + shape.text(),
          .inputs = {shape, shape},
          .declare = [=](Parameters& p) { p.add("gamma", {shape[-1]}, Init::gaussian(1.0)); },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                const Tensor a = layer_scale(tape, x[0], p.find("gamma"), &x[1]);
                const Tensor b = layer_scale(tape, x[1], p.find("gamma"), &x[1]);
                return layer_scale(tape, a, p.find("gamma"), &b);
              }};
}

TEST(LayerScale, GradientsAgreeWithFiniteDifferences) {
  check_gradients(layer_scale_case({5, 7}, false));
  check_gradients(layer_scale_case({5, 7}, true));
  check_gradients(layer_scale_case({3, 130}, true));
  check_gradients(everything_twice({3, 5}));
}

TEST(LayerScale, AgreesWithPyTorch) {
  check_reference(layer_scale_case({5, 21}, false), "layers2.safetensors", "layer_scale");
}

TEST(LayerScale, OfBf16OnTheCpuAgreesWithF32) {
  for (const Shape& shape : {Shape{3, 7, 33}, Shape{65, 264}}) {
    check_bf16_activations_on_the_cpu(layer_scale_case(shape, false));
    check_bf16_activations_on_the_cpu(layer_scale_case(shape, true));
  }
  check_bf16_activations_on_the_cpu(everything_twice({9, 16}));
}

TEST(LayerScaleKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& shape : {Shape{1, 8}, Shape{3, 7, 33}, Shape{2, 197, 40}, Shape{65, 264}}) {
    check_kernels(layer_scale_case(shape, false));
    check_kernels(layer_scale_case(shape, true));
  }
  check_kernels(everything_twice({9, 16}));
}

TEST(LayerScale, RefusesOtherShapes) {
  Parameters p;
  const Parameter& gamma = p.add("gamma", {6}, Init::ones());
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  const auto message = [&](const Tensor& x, const Tensor& residual) -> std::string {
    try {
      layer_scale(tape, x, gamma, &residual);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  const Tensor narrow = tape.empty({2, 5}), wide = tape.empty({2, 6}),
               long_one = tape.empty({3, 6});
  EXPECT_NE(message(narrow, narrow).find("gamma has 6 elements for 5 channels"), std::string::npos);
  EXPECT_NE(message(wide, long_one).find("(2, 6) and residual (3, 6) differ"), std::string::npos);
}

}  // namespace
}  // namespace dyt::test
