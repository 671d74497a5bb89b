#include <gtest/gtest.h>

#include <cmath>

#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

OpCase rmsnorm_case(Shape shape, float epsilon = 1e-6f) {
  return {.name = "rmsnorm " + shape.text(),
          .inputs = {shape},
          .declare = [=](Parameters& p) { p.add("weight", {shape[-1]}, Init::gaussian(1.0)); },
          .run = [=](Tape& tape, const std::vector<Tensor>& x,
                     Parameters& p) { return rmsnorm(tape, x[0], &p.find("weight"), epsilon); },
          .input_scale = 1.5};
}

// Two uses of x and of the parameter: every gradient must be added to what is there.
OpCase used_twice(Shape shape) {
  OpCase op = rmsnorm_case(shape);
  op.name += ", twice";
  op.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    return residual_add(tape, rmsnorm(tape, x[0], &p.find("weight"), 1e-6f),
                        rmsnorm(tape, x[0], &p.find("weight"), 1e-2f));
  };
  return op;
}

OpCase without_gamma(Shape shape) {
  return {.name = "rmsnorm without gamma " + shape.text(),
          .inputs = {shape},
          .run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return rmsnorm(tape, x[0], nullptr, 1e-5f);
          }};
}

TEST(RmsNorm, GradientsAgreeWithFiniteDifferences) {
  check_gradients(rmsnorm_case({5, 7}));
  check_gradients(rmsnorm_case({2, 3, 16}, 0.5f));  // an epsilon that is felt
  check_gradients(used_twice({4, 9}));
  check_gradients(without_gamma({3, 5}));
}

TEST(RmsNorm, AgreesWithPyTorch) {
  check_reference(rmsnorm_case({5, 33}), "layers2.safetensors", "rmsnorm");
  check_reference(rmsnorm_case({4, 24}, 1e-5f), "layers2.safetensors", "rmsnorm_eps1e-5");
}

TEST(RmsNorm, OfBf16OnTheCpuAgreesWithF32) {
  check_bf16_activations_on_the_cpu(rmsnorm_case({35, 40}));
  check_bf16_activations_on_the_cpu(used_twice({5, 33}));
  check_bf16_activations_on_the_cpu(without_gamma({9, 72}));
}

TEST(RmsNormKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& shape : {Shape{1, 7}, Shape{3, 7, 33}, Shape{2, 197, 40}, Shape{37, 1040},
                             Shape{15, 4104}, Shape{7, 8200}}) {
    check_kernels(rmsnorm_case(shape));
  }
  check_kernels(used_twice({35, 48}));
  check_kernels(without_gamma({35, 33}));
}

// A row scaled by a positive number has the same y; a row moved by a number has not.
TEST(RmsNorm, SeesTheDirectionOfARowOnly) {
  const OpCase op = without_gamma({4, 6});
  Values values = draw_values(op, 3);
  const std::vector<double> y = run_op(op, Device::cpu, DType::f64, values).y;
  Values scaled = values, moved = values;
  for (double& v : scaled.inputs[0]) v *= 1000;
  for (double& v : moved.inputs[0]) v += 1;
  expect_close(run_op(op, Device::cpu, DType::f64, scaled).y, y, 1e-3, "scaled");
  const std::vector<double> other = run_op(op, Device::cpu, DType::f64, moved).y;
  EXPECT_GT(std::abs(other[0] - y[0]), 0.01);
}

TEST(RmsNorm, RefusesWhatDoesNotFit) {
  Parameters p;
  const Parameter& weight = p.add("norm.weight", {6}, Init::ones());
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  try {
    rmsnorm(tape, tape.empty({2, 5}), &weight, 1e-6f);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "rmsnorm: parameter norm.weight has 6 elements for 5 channels");
  }
}

}  // namespace
}  // namespace dyt::test
