#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"

namespace dyt::test {
namespace {

OpCase relu_case(Shape shape) {
  return {.name = "relu " + shape.text(),
          .inputs = {shape},
          .run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return relu(tape, x[0]);
          }};
}

OpCase relu_of_sum_case(Shape shape) {
  return {.name = "relu of a sum " + shape.text(),
          .inputs = {shape, shape},
          .run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return relu(tape, x[0], &x[1]);
          }};
}

OpCase silu_case(Shape shape) {
  return {.name = "silu " + shape.text(),
          .inputs = {shape},
          .run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return silu(tape, x[0]);
          }};
}

// Both inputs of the sum get more gradient from elsewhere, and one tensor is both inputs of a sum.
OpCase everything_twice(Shape shape) {
  return {.name = "relu and silu, every input used twice " + shape.text(),
          .inputs = {shape, shape},
          .run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            const Tensor a = relu(tape, x[0], &x[1]);
            const Tensor b = relu(tape, silu(tape, x[0]), &x[1]);
            const Tensor c = relu(tape, x[0]);
            const Tensor d = relu(tape, x[1], &x[1]);
            return residual_add(tape, residual_add(tape, a, b),
                                residual_add(tape, residual_add(tape, c, silu(tape, x[0])), d));
          }};
}

TEST(Activation, GradientsAgreeWithFiniteDifferences) {
  check_gradients(relu_case({5, 7}));
  check_gradients(relu_of_sum_case({5, 7}));
  check_gradients(silu_case({5, 7}));
  check_gradients(everything_twice({3, 5}));
}

TEST(Activation, ReluOfBf16OnTheCpuAgreesWithF32) {
  check_bf16_activations_on_the_cpu(relu_case({5, 7}));
  check_bf16_activations_on_the_cpu(relu_case({3, 1000, 7}));
  check_bf16_activations_on_the_cpu(relu_of_sum_case({3, 1000, 7}));
  check_bf16_activations_on_the_cpu({.name = "relu of a sum of the same",
                                     .inputs = {{3, 1000, 7}},
                                     .run = [](Tape& tape, const std::vector<Tensor>& x,
                                               Parameters&) { return relu(tape, x[0], &x[0]); }});
}

TEST(Activation, AgreesWithPyTorch) {
  check_reference(relu_case({5, 21}), "layers2.safetensors", "relu");
  check_reference(silu_case({5, 21}), "layers2.safetensors", "silu");
}

TEST(ActivationKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& shape : {Shape{1}, Shape{3, 7}, Shape{2, 33, 40}}) {
    check_kernels(relu_case(shape));
    check_kernels(relu_of_sum_case(shape));
    check_kernels(silu_case(shape));
  }
  check_kernels(everything_twice({3, 5}));
  check_kernels(everything_twice({3, 16}));
}

// The gradient at and below 0 is 0, and what is not a number must not vanish.
void check_edges(Device device) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float x[] = {-1, -0.0f, 0, 2, nan}, dy[] = {1, 1, 1, 1, 1};
  Tape tape(device, DType::f32);
  tape.begin(0);
  const Tensor in = tape.upload({5}, DType::f32, x, true), y = relu(tape, in);
  tape.backward(y, dy);
  const std::vector<double> values = to_host(tape, y);
  EXPECT_EQ(std::vector<double>(values.begin(), values.begin() + 4),
            (std::vector<double>{0, 0, 0, 2}));
  EXPECT_TRUE(std::isnan(values[4]));
  const Tensor dx{in.shape, DType::f32, in.grad->data, nullptr};
  const std::vector<double> slopes = to_host(tape, dx);
  EXPECT_EQ(std::vector<double>(slopes.begin(), slopes.begin() + 4),
            (std::vector<double>{0, 0, 0, 1}));
}
TEST(Activation, ReluIsExactAtTheEdges) { check_edges(Device::cpu); }
TEST(ActivationKernels, ReluIsExactAtTheEdges) {
  SKIP_WITHOUT_KERNELS();
  check_edges(kernel_device);
}

TEST(Activation, RefusesAResidualOfAnotherShape) {
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.empty({2, 3}), r = tape.empty({3, 2});
  try {
    relu(tape, x, &r);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("x (2, 3) and residual (3, 2)"), std::string::npos);
  }
}

}  // namespace
}  // namespace dyt::test
