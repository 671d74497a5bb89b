// A norm that adds a residual branch on its way: y = x + f and z = norm(y), both of which go on.
#include <gtest/gtest.h>

#include "layers/drop_path.h"
#include "layers/layers.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

enum class Kind { layernorm, rmsnorm, dyt, derf };
constexpr Kind kinds[] = {Kind::layernorm, Kind::rmsnorm, Kind::dyt, Kind::derf};

Tensor norm(Kind kind, Tape& tape, const Tensor& x, Parameters& p, ResidualBranch* branch) {
  const Parameter *gamma = &p.find("weight"), *beta = &p.find("bias"), *alpha = &p.find("alpha");
  if (kind == Kind::layernorm) return layernorm(tape, x, gamma, beta, 1e-6f, branch);
  if (kind == Kind::rmsnorm) return rmsnorm(tape, x, gamma, 1e-6f, branch);
  return dyt(tape, x, {.alpha = alpha, .gamma = gamma, .beta = beta},
             kind == Kind::dyt ? Squash::tanh : Squash::erf, branch);
}

// The sum of y and z, so that y's gradient comes from both. Fused: one op makes both of them.
OpCase sum_case(Kind kind, Shape shape, float drop, bool fused = true) {
  return {.name = "residual and norm " + std::to_string(int(kind)) + " " + shape.text() + " drop " +
                  std::to_string(drop),
          .inputs = {shape, shape},
          .declare =
              [=](Parameters& p) {
                p.add("weight", {shape[-1]}, Init::gaussian(1.0));
                p.add("bias", {shape[-1]}, Init::gaussian(1.0));
                p.add("alpha", {1}, Init::fill(0.7));
              },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                if (fused) {
                  ResidualBranch branch{x[1], drop};
                  const Tensor z = norm(kind, tape, x[0], p, &branch);
                  return residual_add(tape, branch.y, z);
                }
                const Tensor y = residual_add(tape, x[0], x[1], drop);
                return residual_add(tape, y, norm(kind, tape, y, p, nullptr));
              }};
}

TEST(ResidualNorm, GradientsAgreeWithFiniteDifferences) {
  for (Kind kind : kinds) {
    for (float drop : {0.0f, 0.4f}) check_gradients(sum_case(kind, {6, 2, 9}, drop));
  }
}

TEST(ResidualNorm, AgreesWithPyTorch) {
  const std::string file = "products.safetensors";
  check_reference(sum_case(Kind::layernorm, {5, 33}, 0), file, "residual_layernorm", {"x", "f"});
  check_reference(sum_case(Kind::rmsnorm, {5, 33}, 0), file, "residual_rmsnorm", {"x", "f"});
  check_reference(sum_case(Kind::dyt, {5, 33}, 0), file, "residual_dyt", {"x", "f"});
}

// In one op or in two, the numbers are the same.
TEST(ResidualNorm, IsAResidualAndANorm) {
  for (Kind kind : kinds) {
    const OpCase one = sum_case(kind, {7, 3, 24}, 0.4f),
                 two = sum_case(kind, {7, 3, 24}, 0.4f, false);
    const Values values = draw_values(one, 3);
    const Outcome fused = run_op(one, Device::cpu, DType::f64, values);
    const Outcome apart = run_op(two, Device::cpu, DType::f64, values);
    EXPECT_EQ(fused.y, apart.y);
    EXPECT_EQ(fused.input_gradients, apart.input_gradients);
    EXPECT_EQ(fused.parameter_gradients, apart.parameter_gradients);
  }
}

TEST(ResidualNormKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (Kind kind : kinds) {
    for (float drop : {0.0f, 0.4f}) {
      check_kernels(sum_case(kind, {1, 1, 8}, drop));
      check_kernels(sum_case(kind, {7, 3, 33}, drop));
      check_kernels(sum_case(kind, {3, 33, 256}, drop));
    }
  }
  // Several warps to a row.
  check_kernels(sum_case(Kind::layernorm, {2, 3, 1544}, 0.4f));
  check_kernels(sum_case(Kind::rmsnorm, {2, 3, 1544}, 0.4f));
}

TEST(ResidualNorm, RefusesAnImpossibleDrop) {
  Parameters p;
  const OpCase op = sum_case(Kind::layernorm, {2, 4}, 1);
  op.declare(p);
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  EXPECT_THROW(op.run(tape, {tape.empty({2, 4}), tape.empty({2, 4})}, p), Error);
}

}  // namespace
}  // namespace dyt::test
