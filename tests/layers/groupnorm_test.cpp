#include <gtest/gtest.h>
#include <omp.h>

#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"

namespace dyt::test {
namespace {

OpCase groupnorm_case(Shape shape, int groups) {
  return {.name = "groupnorm " + shape.text() + " in " + std::to_string(groups),
          .inputs = {shape},
          .declare =
              [=](Parameters& p) {
                p.add("weight", {shape[-1]}, Init::gaussian(1.0));
                p.add("bias", {shape[-1]}, Init::gaussian(1.0));
              },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                return groupnorm(tape, x[0], groups, &p.find("weight"), &p.find("bias"), 1e-5f);
              },
          .input_scale = 1.5};
}

TEST(Groupnorm, GradientsAgreeWithFiniteDifferences) {
  check_gradients(groupnorm_case({2, 2, 3, 12}, 3));
  check_gradients(groupnorm_case({3, 5, 6}, 1));
  check_gradients(groupnorm_case({2, 5, 3}, 3));
}

TEST(Groupnorm, AgreesWithPyTorch) {
  check_reference(groupnorm_case({2, 3, 5, 12}, 3), "layers2.safetensors", "groupnorm");
  check_reference(groupnorm_case({2, 3, 5, 12}, 1), "layers2.safetensors", "groupnorm_one_group");
}

TEST(GroupnormKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(groupnorm_case({3, 7, 5, 24}, 3));
  check_kernels(groupnorm_case({2, 197, 33}, 11));
  check_kernels(groupnorm_case({2, 1, 1, 64}, 4));
  check_kernels(groupnorm_case({1, 3, 3, 264}, 1));
  check_kernels(groupnorm_case({1, 20, 30, 72}, 8));  // rows in several parts
}

TEST(Groupnorm, WithActivationsInBf16AgreesWithF32) {
  check_bf16_activations_on_the_cpu(groupnorm_case({3, 7, 5, 24}, 3));
  check_bf16_activations_on_the_cpu(groupnorm_case({2, 197, 33}, 11));
}

TEST(Groupnorm, HasTheSameBitsForAnyNumberOfThreads) {
  const OpCase op = groupnorm_case({3, 33, 17, 6}, 2);
  const Values values = draw_values(op, 6);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const Outcome one = run_op(op, Device::cpu, DType::f32, values);
  omp_set_num_threads(3);
  const Outcome three = run_op(op, Device::cpu, DType::f32, values);
  omp_set_num_threads(threads);
  EXPECT_EQ(one.y, three.y);
  EXPECT_EQ(one.input_gradients, three.input_gradients);
  EXPECT_EQ(one.parameter_gradients, three.parameter_gradients);
}

TEST(Groupnorm, RefusesGroupsThatDontDivide) {
  const OpCase op = groupnorm_case({2, 3, 10}, 4);
  try {
    run_op(op, Device::cpu, DType::f32, draw_values(op, 1));
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("10 channels can't be cut into 4"), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace dyt::test
