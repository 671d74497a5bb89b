#include "layers/mlp.h"

#include <gtest/gtest.h>

#include "tests/bf16_cpu_check.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

struct Sizes {
  Shape input;
  int64_t hidden, outputs;
};

OpCase mlp_case(Gelu kind, bool with_residual, Sizes sizes) {
  Shape output = sizes.input;
  output[-1] = sizes.outputs;
  return {.name = std::string("mlp ") + (kind == Gelu::erf ? "erf " : "tanh ") +
                  sizes.input.text() + " by " + std::to_string(sizes.hidden) + " to " +
                  std::to_string(sizes.outputs),
          .inputs = with_residual ? std::vector<Shape>{sizes.input, output}
                                  : std::vector<Shape>{sizes.input},
          .declare =
              [=](Parameters& p) {
                p.add("w1", {sizes.hidden, sizes.input[-1]}, Init::gaussian(0.3));
                p.add("b1", {sizes.hidden}, Init::gaussian(0.5));
                p.add("w2", {sizes.outputs, sizes.hidden}, Init::gaussian(0.3));
                p.add("b2", {sizes.outputs}, Init::gaussian(0.5));
              },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                return mlp(tape, x[0], {&p.find("w1"), &p.find("b1"), &p.find("w2"), &p.find("b2")},
                           kind, with_residual ? &x[1] : nullptr);
              }};
}

TEST(Mlp, GradientsAgreeWithFiniteDifferences) {
  for (Gelu kind : {Gelu::erf, Gelu::tanh}) {
    for (bool residual : {false, true})
      check_gradients(mlp_case(kind, residual, {{2, 5, 7}, 9, 6}));
  }
}

TEST(Mlp, AgreesWithPyTorch) {
  const std::string file = "products.safetensors";
  check_reference(mlp_case(Gelu::erf, false, {{5, 7}, 11, 6}), file, "mlp");
  check_reference(mlp_case(Gelu::tanh, false, {{5, 7}, 11, 6}), file, "mlp_tanh");
  check_reference(mlp_case(Gelu::erf, true, {{6, 9}, 24, 9}), file, "mlp_residual",
                  {"x", "residual"});
  check_reference(mlp_case(Gelu::tanh, true, {{6, 9}, 24, 9}), file, "mlp_tanh_residual",
                  {"x", "residual"});
}

TEST(Mlp, OfBf16OnTheCpuAgreesWithF32) {
  for (Gelu kind : {Gelu::erf, Gelu::tanh}) {
    for (bool residual : {false, true}) {
      check_bf16_activations_on_the_cpu(mlp_case(kind, residual, {{3, 7, 33}, 17, 33}));
      check_bf16_activations_on_the_cpu(mlp_case(kind, residual, {{2, 64, 40}, 160, 40}));
    }
  }
}

// A hidden width that is a multiple of 8 goes through the products' epilogues, the others don't.
TEST(MlpKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (Gelu kind : {Gelu::erf, Gelu::tanh}) {
    for (bool residual : {false, true}) {
      check_kernels(mlp_case(kind, residual, {{1, 1, 8}, 16, 8}));
      check_kernels(mlp_case(kind, residual, {{3, 7, 33}, 17, 33}));
      check_kernels(mlp_case(kind, residual, {{2, 197, 16}, 64, 16}));
    }
  }
}

// The residual is x itself, as where a block has no norm: its gradient is a sum.
TEST(Mlp, GradientsOfASharedInputAddUp) {
  OpCase op = mlp_case(Gelu::tanh, false, {{3, 6}, 8, 6});
  op.run = [](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    return mlp(tape, x[0], {&p.find("w1"), &p.find("b1"), &p.find("w2"), &p.find("b2")}, Gelu::tanh,
               &x[0]);
  };
  check_gradients(op);
}

TEST(Mlp, RefusesAResidualOfAnotherShape) {
  Parameters p;
  const OpCase op = mlp_case(Gelu::erf, false, {{2, 6}, 8, 6});
  op.declare(p);
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.empty({2, 6}), other = tape.empty({2, 5});
  EXPECT_THROW(
      mlp(tape, x, {&p.find("w1"), &p.find("b1"), &p.find("w2"), &p.find("b2")}, Gelu::erf, &other),
      Error);
}

}  // namespace
}  // namespace dyt::test
