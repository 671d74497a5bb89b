#include <gtest/gtest.h>

#include <cmath>

#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"

namespace dyt::test {
namespace {

enum class Kind { plain, no_bias, residual, gelu_erf, gelu_tanh };

OpCase linear_case(Kind kind, Shape input, int64_t outputs) {
  Shape output = input;
  output[-1] = outputs;
  return {.name = "linear " + std::to_string(int(kind)) + " " + input.text() + " to " +
                  std::to_string(outputs),
          .inputs = kind == Kind::residual ? std::vector<Shape>{input, output}
                                           : std::vector<Shape>{input},
          .declare =
              [=](Parameters& p) {
                p.add("weight", {outputs, input[-1]}, Init::gaussian(0.3));
                if (kind != Kind::no_bias) p.add("bias", {outputs}, Init::gaussian(0.5));
              },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                const Parameter& weight = p.find("weight");
                if (kind == Kind::no_bias) return linear(tape, x[0], weight, nullptr);
                const Parameter& bias = p.find("bias");
                if (kind == Kind::plain) return linear(tape, x[0], weight, &bias);
                if (kind == Kind::residual) return linear(tape, x[0], weight, &bias, &x[1]);
                return linear_gelu(tape, x[0], weight, bias,
                                   kind == Kind::gelu_erf ? Gelu::erf : Gelu::tanh);
              }};
}

constexpr Kind kinds[] = {Kind::plain, Kind::no_bias, Kind::residual, Kind::gelu_erf,
                          Kind::gelu_tanh};

TEST(Linear, GradientsAgreeWithFiniteDifferences) {
  for (Kind kind : kinds) check_gradients(linear_case(kind, {2, 5, 7}, 9));
}

TEST(Linear, AgreesWithPyTorch) {
  const std::string file = "layers.safetensors";
  check_reference(linear_case(Kind::plain, {5, 7}, 9), file, "linear");
  check_reference(linear_case(Kind::plain, {33, 24}, 40), file, "linear_big");
  check_reference(linear_case(Kind::no_bias, {4, 16}, 6), file, "linear_no_bias");
  check_reference(linear_case(Kind::residual, {6, 10}, 13), file, "linear_residual",
                  {"x", "residual"});
  check_reference(linear_case(Kind::gelu_erf, {7, 12}, 17), file, "linear_gelu");
  check_reference(linear_case(Kind::gelu_tanh, {7, 12}, 17), file, "linear_gelu_tanh");
}

TEST(Linear, InBf16AgreesWithF32) {
  for (Kind kind : kinds) {
    check_bf16_on_the_cpu(linear_case(kind, {1, 1, 8}, 8));
    check_bf16_on_the_cpu(linear_case(kind, {3, 7, 33}, 17));
    check_bf16_on_the_cpu(linear_case(kind, {2, 197, 16}, 264));
  }
}

// What lies between two layers is in bf16; the gradient that two readers send back adds up.
TEST(Linear, InBf16AgreesWithF32AlsoBehindGelu) {
  check_bf16_on_the_cpu({.name = "two layers behind GELU",
                         .inputs = {{4, 9, 20}},
                         .declare =
                             [](Parameters& p) {
                               p.add("in", {31, 20}, Init::gaussian(0.3));
                               p.add("bias", {31}, Init::gaussian(0.5));
                               p.add("first", {6, 31}, Init::gaussian(0.3));
                               p.add("second", {6, 31}, Init::gaussian(0.3));
                             },
                         .run =
                             [](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                               const Tensor hidden =
                                   linear_gelu(tape, x[0], p.find("in"), p.find("bias"));
                               const Tensor y = linear(tape, hidden, p.find("first"), nullptr);
                               return linear(tape, hidden, p.find("second"), nullptr, &y);
                             }});
}

TEST(LinearKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (Kind kind : kinds) {
    check_kernels(linear_case(kind, {1, 1, 8}, 8));
    check_kernels(linear_case(kind, {3, 7, 33}, 17));
    check_kernels(linear_case(kind, {2, 197, 16}, 264));
  }
  // Enough work that on the CPU the library adds bias and residual.
  check_kernels(linear_case(Kind::residual, {4, 512, 64}, 64));
}

// x is used by two layers: its gradient is the sum. The residual is x itself.
TEST(Linear, GradientsOfASharedInputAddUp) {
  check_gradients({.name = "two layers on one input",
                   .inputs = {{3, 6}},
                   .declare =
                       [](Parameters& p) {
                         p.add("first", {6, 6}, Init::gaussian(0.5));
                         p.add("second", {6, 6}, Init::gaussian(0.5));
                       },
                   .run =
                       [](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                         const Tensor y = linear(tape, x[0], p.find("first"), nullptr, &x[0]);
                         return linear(tape, x[0], p.find("second"), nullptr, &y);
                       }});
}

// On the CPU linear_gelu works on some rows at a time, the wider the fewer: here on 64 of 131.
TEST(Linear, GeluReachesEveryRow) {
  constexpr int64_t rows = 131, outputs = 8192;
  Parameters p;
  const Parameter& weight = p.add("weight", {outputs, 3}, Init::gaussian(0.5));
  const Parameter& bias = p.add("bias", {outputs}, Init::gaussian(0.5));
  p.allocate(Device::cpu, DType::f64, 0);
  Tape tape(Device::cpu, DType::f64);
  std::vector<double> numbers(rows * 3);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = std::sin(double(i));
  const Tensor x = tape.upload({rows, 3}, DType::f64, numbers.data());
  const Tensor fused = linear_gelu(tape, x, weight, bias);
  const Tensor apart = gelu(tape, linear(tape, x, weight, &bias));
  for (int64_t i = 0; i < rows * outputs; ++i) {
    ASSERT_NEAR(fused.as<double>()[i], apart.as<double>()[i], 1e-14) << "row " << i / outputs;
  }
}

TEST(Linear, RefusesAWeightForAnotherWidth) {
  Parameters p;
  Parameter& weight = p.add("fc.weight", {4, 6}, Init::ones());
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  try {
    linear(tape, tape.empty({2, 5}), weight, nullptr);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("fc.weight (4, 6) does not take 5 channels"),
              std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace dyt::test
