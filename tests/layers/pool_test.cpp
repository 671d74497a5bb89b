#include <gtest/gtest.h>

#include "layers/layers.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

OpCase mean_case(Shape shape, int64_t skip) {
  return {.name = "mean_pool " + shape.text() + " from token " + std::to_string(skip),
          .inputs = {shape},
          .run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return mean_pool(tape, x[0], skip);
          }};
}

OpCase token_case(Shape shape, int64_t token) {
  return {.name = "take_token " + shape.text() + " token " + std::to_string(token),
          .inputs = {shape},
          .run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return take_token(tape, x[0], token);
          }};
}

TEST(Pool, GradientsAgreeWithFiniteDifferences) {
  check_gradients(mean_case({2, 4, 3}, 0));
  check_gradients(mean_case({2, 4, 3}, 1));
  check_gradients(token_case({2, 4, 3}, 0));
  check_gradients(token_case({2, 4, 3}, 3));
}

TEST(Pool, AgreesWithPyTorch) {
  check_reference(mean_case({3, 7, 11}, 0), "layers.safetensors", "mean_pool");
  check_reference(mean_case({3, 7, 11}, 1), "layers.safetensors", "mean_pool_skip1");
}

TEST(PoolKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(mean_case({1, 1, 8}, 0));
  check_kernels(mean_case({3, 7, 33}, 1));
  check_kernels(mean_case({2, 197, 40}, 0));
  check_kernels(mean_case({2, 9, 520}, 8));
  check_kernels(token_case({1, 1, 8}, 0));
  check_kernels(token_case({3, 7, 33}, 6));
  check_kernels(token_case({2, 197, 40}, 0));
}

// y = mean + token weight' (and the other way round): both write the gradient of x, and the second
// must add, without zeroing what lies outside its tokens.
TEST(Pool, AddsToAGradientThatIsThere) {
  for (bool swapped : {false, true}) {
    const OpCase both{.name = "mean_pool and take_token",
                      .inputs = {{2, 5, 8}},
                      .declare =
                          [](Parameters& p) {
                            p.add("weight", {8, 8}, Init::gaussian(1));
                          },
                      .run =
                          [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                            Tensor a = mean_pool(tape, x[0], 2), b = take_token(tape, x[0], 1);
                            if (swapped) {
                              b = take_token(tape, x[0], 3);
                              a = mean_pool(tape, x[0], 1);
                            }
                            return linear(tape, b, p.find("weight"), nullptr, &a);
                          }};
    check_gradients(both);
    std::string why;
    if (is_available(kernel_device, &why)) check_kernels(both);
  }
}

TEST(Pool, TakingATokenIsExactAndGivesTheOthersNoGradient) {
  const OpCase op = token_case({2, 3, 2}, 1);
  const Values values = draw_values(op, 4);
  const Outcome outcome = run_op(op, Device::cpu, DType::f64, values);
  const std::vector<double>& x = values.inputs[0];
  EXPECT_EQ(outcome.y, (std::vector<double>{x[2], x[3], x[8], x[9]}));
  const std::vector<double>& dy = values.dy;
  EXPECT_EQ(outcome.input_gradients[0],
            (std::vector<double>{0, 0, dy[0], dy[1], 0, 0, 0, 0, dy[2], dy[3], 0, 0}));
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Pool, RefusesTokensThatAreNotThere) {
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.empty({2, 5, 3}), matrix = tape.empty({2, 5});
  EXPECT_EQ(message_of([&] { mean_pool(tape, x, 5); }),
            "mean_pool: skipping 5 of 5 tokens leaves none; skip 0 to 4");
  EXPECT_NE(message_of([&] { mean_pool(tape, x, -1); }), "no error");
  EXPECT_EQ(message_of([&] { take_token(tape, x, 5); }),
            "take_token: there is no token 5 among 5; choose 0 to 4");
  EXPECT_NE(message_of([&] { take_token(tape, x, -1); }), "no error");
  EXPECT_EQ(message_of([&] { mean_pool(tape, matrix); }), "mean_pool: x is (B, T, C), not (2, 5)");
  EXPECT_EQ(message_of([&] { take_token(tape, matrix, 0); }),
            "take_token: x is (B, T, C), not (2, 5)");
}

}  // namespace
}  // namespace dyt::test
