#include <gtest/gtest.h>

#include <cmath>

#include "core/philox.h"
#include "core/safetensors.h"
#include "layers/layers.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

OpCase rope_case(int64_t B, int64_t T, const AttentionOptions& heads, int64_t width,
                 int64_t first = 0) {
  const int64_t all = heads.heads + 2 * (heads.kv_heads ? heads.kv_heads : heads.heads);
  return {.name = "rope of heads of " + std::to_string(width),
          .inputs = {{B, T, all * width}},
          .run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return rope(tape, x[0], heads, 10000, first);
          }};
}

TEST(Rope, GradientsAgreeWithFiniteDifferences) {
  check_gradients(rope_case(2, 5, {2, 1}, 6));
  check_gradients(rope_case(1, 3, {1, 0}, 2, 100));
}

// The fixture turns three heads: here two of queries and one of keys, and one of values that stays.
TEST(Rope, AgreesWithPyTorchAndLeavesValuesAlone) {
  const TensorFile file = read_safetensors(reference_folder() + "/layers2.safetensors");
  const int64_t rows = 2 * 9, turned = 3 * 16, all = 4 * 16;
  const auto widen = [&](const std::string& name) {  // the values: rising numbers
    const std::vector<double> x = file.doubles("rope/" + name);
    std::vector<double> y(size_t(rows * all));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < all; ++c) {
        y[size_t(r * all + c)] = c < turned ? x[size_t(r * turned + c)] : double(r + c);
      }
    }
    return y;
  };
  const OpCase op = rope_case(2, 9, {2, 1}, 16);
  const Outcome outcome = run_op(op, Device::cpu, DType::f32, {{widen("x")}, {}, widen("dy")});
  expect_close(outcome.y, widen("y"), 2e-6, "y");
  expect_close(outcome.input_gradients[0], widen("dx"), 2e-6, "dx");
}

TEST(RopeKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(rope_case(1, 1, {1, 0}, 16));
  check_kernels(rope_case(2, 33, {4, 2}, 32, 7));
  check_kernels(rope_case(1, 197, {2, 1}, 24));  // 12 pairs: no full vector of bf16
  check_kernels(rope_case(3, 7, {1, 0}, 6));
}

// What it is for: q . k depends on how far apart two tokens are, not on where they are.
TEST(Rope, ProductsDependOnDistanceOnly) {
  RandomSequence random(1, 1);
  std::vector<double> q_k_v(3 * 16);
  for (double& v : q_k_v) v = random.normal();
  const auto product = [&](int64_t first, int64_t distance) {
    std::vector<double> x;  // the same token twelve times
    for (int t = 0; t < 12; ++t) x.insert(x.end(), q_k_v.begin(), q_k_v.end());
    const Outcome o = run_op(rope_case(1, 12, {1, 0}, 16, first), Device::cpu, DType::f64,
                             {{x}, {}, std::vector<double>(x.size(), 1.0)});
    double sum = 0;
    for (size_t i = 0; i < 16; ++i) sum += o.y[size_t(distance) * 48 + i] * o.y[16 + i];
    return sum;
  };
  for (int64_t distance : {0, 5, 11}) {
    EXPECT_NEAR(product(0, distance), product(5000, distance), 1e-9) << distance;
  }
  EXPECT_GT(std::abs(product(0, 5) - product(0, 11)), 1e-3);
}

TEST(Rope, GradientIsAddedToWhatIsThere) {
  OpCase op = rope_case(2, 3, {1, 0}, 4);
  op.run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
    return residual_add(tape, rope(tape, x[0], {.heads = 1}), x[0]);
  };
  check_gradients(op);
  SKIP_WITHOUT_KERNELS();
  check_kernels(op);
}

TEST(Rope, RefusesHeadsThatDoNotFit) {
  Tape tape(Device::cpu, DType::f32);
  EXPECT_THROW(rope(tape, tape.empty({1, 2, 25}), {.heads = 1}), Error);
  EXPECT_THROW(rope(tape, tape.empty({1, 2, 9}), {.heads = 1}), Error);  // heads of width 3
  EXPECT_THROW(rope(tape, tape.empty({2, 24}), {.heads = 1}), Error);
  EXPECT_THROW(rope(tape, tape.empty({1, 2, 24}), {.heads = 1}, -1), Error);
}

}  // namespace
}  // namespace dyt::test
