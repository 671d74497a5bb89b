#include <gtest/gtest.h>

#include <cmath>

#include "layers/layers.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

OpCase dropout_case(Shape shape, float drop) {
  return {.name = "dropout " + shape.text(),
          .inputs = {shape},
          .run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return dropout(tape, x[0], drop);
          }};
}

TEST(Dropout, GradientsAgreeWithFiniteDifferences) { check_gradients(dropout_case({5, 7}, 0.3f)); }

TEST(DropoutKernels, DropTheSameAsTheCpu) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& shape : {Shape{1}, Shape{3, 5}, Shape{3, 7}, Shape{2, 197, 8}}) {
    check_kernels(dropout_case(shape, 0.4f));
  }
}

TEST(Dropout, GradientIsAddedToWhatIsThere) {
  OpCase op = dropout_case({4, 6}, 0.5f);
  op.run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
    return residual_add(tape, dropout(tape, x[0], 0.5f), x[0]);
  };
  check_gradients(op);
  SKIP_WITHOUT_KERNELS();
  check_kernels(op);
}

// Ones through dropout in one step of a run.
std::vector<double> masked(uint64_t seed, uint64_t step, int64_t n, float drop, bool training) {
  Tape tape(Device::cpu, DType::f32, seed);
  tape.training = training;
  tape.begin(step);
  const std::vector<float> ones(size_t(n), 1.0f);
  return to_host(tape, dropout(tape, tape.upload({n}, DType::f32, ones.data()), drop));
}

TEST(Dropout, KeepsTheRightShareAndTheMean) {
  const std::vector<double> y = masked(1, 2, 100001, 0.2f, true);
  double sum = 0, kept = 0;
  for (double v : y) {
    EXPECT_TRUE(v == 0 || std::abs(v - 1.25) < 1e-6) << v;
    sum += v;
    kept += v > 0;
  }
  EXPECT_NEAR(kept / 100001, 0.8, 0.006);  // 5 standard deviations
  EXPECT_NEAR(sum / 100001, 1.0, 0.008);
}

TEST(Dropout, DependsOnSeedAndStepAndOp) {
  const std::vector<double> y = masked(1, 2, 64, 0.5f, true);
  EXPECT_EQ(y, masked(1, 2, 64, 0.5f, true));
  EXPECT_NE(y, masked(1, 3, 64, 0.5f, true));
  EXPECT_NE(y, masked(2, 2, 64, 0.5f, true));
  // Not on how many there are: also of those that fill no draw of four.
  EXPECT_EQ(masked(1, 2, 63, 0.5f, true), std::vector<double>(y.begin(), y.end() - 1));
  Tape tape(Device::cpu, DType::f32, 1);
  tape.begin(2);
  const Tensor x = tape.upload({64}, DType::f32, std::vector<float>(64, 1.0f).data());
  const std::vector<double> first = to_host(tape, dropout(tape, x, 0.5f));
  EXPECT_EQ(first, y);
  EXPECT_NE(to_host(tape, dropout(tape, x, 0.5f)), y);
}

TEST(Dropout, DoesNothingOutsideTraining) {
  EXPECT_EQ(masked(1, 2, 9, 0.5f, false), std::vector<double>(9, 1.0));
  EXPECT_EQ(masked(1, 2, 9, 0, true), std::vector<double>(9, 1.0));
}

TEST(Dropout, RefusesWhatIsNoProbability) {
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.empty({2, 5});
  for (float drop : {-0.1f, 1.0f, 2.0f, std::nanf("")}) {
    EXPECT_THROW(dropout(tape, x, drop), Error) << drop;
  }
}

}  // namespace
}  // namespace dyt::test
