#include <gtest/gtest.h>

#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

OpCase dyt_case(const std::string& name, Squash squash, Shape shape, bool with_shift = false) {
  return {.name = name + " " + shape.text(),
          .inputs = {shape},
          .declare =
              [=](Parameters& p) {
                p.add("alpha", {1}, Init::fill(0.7));
                if (with_shift) p.add("shift", {1}, Init::fill(0.3));
                p.add("weight", {shape[-1]}, Init::gaussian(1.0));
                p.add("bias", {shape[-1]}, Init::gaussian(1.0));
              },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                return dyt(tape, x[0],
                           {.alpha = &p.find("alpha"),
                            .shift = with_shift ? &p.find("shift") : nullptr,
                            .gamma = &p.find("weight"),
                            .beta = &p.find("bias")},
                           squash);
              },
          .input_scale = 1.5};
}

const std::vector<std::pair<std::string, Squash>> family = {{"dyt", Squash::tanh},
                                                            {"derf", Squash::erf},
                                                            {"hardtanh", Squash::hardtanh},
                                                            {"sigmoid", Squash::sigmoid},
                                                            {"isru", Squash::isru},
                                                            {"identity", Squash::identity},
                                                            {"shifted_tanh", Squash::shifted_tanh},
                                                            {"arcsinh", Squash::arcsinh},
                                                            {"deadzone", Squash::deadzone},
                                                            {"bump", Squash::bump}};

TEST(Dyt, GradientsAgreeWithFiniteDifferences) {
  for (const auto& [name, squash] : family) {
    check_gradients(dyt_case(name, squash, {5, 7}, squash == Squash::erf));
  }
}

TEST(Dyt, AgreesWithPyTorch) {
  const std::string file = "layers.safetensors";
  for (const auto& [name, squash] : family) {
    // dalpha of these two is a sum of f32 numbers of both signs: the dead zone's is 1.19, and their
    // sizes add up to 151.
    const bool cancels = squash == Squash::shifted_tanh || squash == Squash::deadzone;
    check_reference(dyt_case(name, squash, {5, 33}, squash == Squash::erf), file, name, {"x"},
                    cancels ? 1e-5 : 2e-6);
  }
  check_reference(dyt_case("dyt", Squash::tanh, {3, 192}), file, "dyt_wide", {"x"}, 5e-6);
}

TEST(DytKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& shape : {Shape{1, 1, 8}, Shape{3, 7, 33}, Shape{2, 197, 40}, Shape{65, 520}}) {
    check_kernels(dyt_case("dyt", Squash::tanh, shape));
  }
  for (const auto& [name, squash] : family) {
    check_kernels(dyt_case(name, squash, {2, 33, 48}, true));
  }
  check_kernels(dyt_case("derf", Squash::erf, {3, 7, 33}, true));  // no full packs
  check_kernels(added_to_x(dyt_case("derf", Squash::erf, {3, 7, 33}, true)));
  check_kernels(added_to_x(dyt_case("derf", Squash::erf, {2, 33, 48}, true)));
}

TEST(Dyt, OfBf16OnTheCpuAgreesWithF32) {
  for (const auto& [name, squash] : family) {
    check_bf16_activations_on_the_cpu(dyt_case(name, squash, {7, 40}, squash == Squash::erf));
  }
  check_bf16_activations_on_the_cpu(dyt_case("dyt", Squash::tanh, {2, 65, 131}));
  check_bf16_activations_on_the_cpu(added_to_x(dyt_case("dyt", Squash::tanh, {9, 33})));
}

// Without parameters: plain tanh(x), and only x has a gradient.
TEST(Dyt, EveryParameterIsOptional) {
  const OpCase plain{.name = "tanh",
                     .inputs = {{3, 5}},
                     .run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
                       return dyt(tape, x[0], {});
                     }};
  Values values = draw_values(plain, 1);
  values.inputs[0][4] = 0.5;
  EXPECT_NEAR(run_op(plain, Device::cpu, DType::f64, values).y[4], 0.46211715726000975, 1e-15);
  check_gradients(plain);
}

TEST(Dyt, RefusesParametersOfAnotherWidth) {
  Parameters p;
  Parameter& weight = p.add("norm.weight", {6}, Init::ones());
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.empty({2, 5});
  try {
    dyt(tape, x, {.gamma = &weight});
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("norm.weight has 6 elements for 5 channels"),
              std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace dyt::test
