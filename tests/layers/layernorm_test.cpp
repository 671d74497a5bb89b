#include <gtest/gtest.h>
#include <omp.h>

#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"
#include "tests/op_check.h"
#if defined(DYT_EMULATED)
#include "core/emulator.h"
#endif

namespace dyt::test {
namespace {

OpCase layernorm_case(Shape shape, float epsilon = 1e-6f) {
  return {.name = "layernorm " + shape.text(),
          .inputs = {shape},
          .declare =
              [=](Parameters& p) {
                p.add("weight", {shape[-1]}, Init::gaussian(1.0));
                p.add("bias", {shape[-1]}, Init::gaussian(1.0));
              },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                return layernorm(tape, x[0], &p.find("weight"), &p.find("bias"), epsilon);
              },
          .input_scale = 1.5};
}

// Two uses of x and of the parameters: every gradient must be added to what is there.
OpCase used_twice(Shape shape) {
  OpCase op = layernorm_case(shape);
  op.name += ", twice";
  const auto once = op.run;
  op.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    const Tensor first = once(tape, x, p);
    return residual_add(tape, first, layernorm(tape, x[0], &p.find("weight"), nullptr, 1e-2f));
  };
  return op;
}

OpCase without_parameters(Shape shape) {
  return {.name = "layernorm without parameters " + shape.text(),
          .inputs = {shape},
          .run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return layernorm(tape, x[0], nullptr, nullptr, 1e-5f);
          }};
}

TEST(LayerNorm, GradientsAgreeWithFiniteDifferences) {
  check_gradients(layernorm_case({5, 7}));
  check_gradients(layernorm_case({2, 3, 16}, 0.5f));  // an epsilon that is felt
  check_gradients(used_twice({4, 9}));
  check_gradients(without_parameters({3, 5}));
}

TEST(LayerNorm, AgreesWithPyTorch) {
  const std::string file = "layers.safetensors";
  check_reference(layernorm_case({5, 33}), file, "layernorm");
  check_reference(layernorm_case({3, 192}), file, "layernorm_wide");
  check_reference(layernorm_case({4, 24}, 1e-5f), file, "layernorm_eps1e-5");
  check_reference(layernorm_case({1, 7}, 1e-5f), file, "layernorm_one_row");
  // The mean is 100 deviations: its last place, 2^-17, is 8e-6 of a deviation, and what the sum of
  // 40 such numbers loses comes on top (without SIMD, one after the other, 1e-5; else 3e-6, as
  // PyTorch).
  check_reference(layernorm_case({3, 40}), file, "layernorm_offset", {"x"}, 2e-5);
}

TEST(LayerNorm, OfBf16OnTheCpuAgreesWithF32) {
  for (const Shape& shape : {Shape{5, 7}, Shape{131, 40}, Shape{33, 192}, Shape{3, 2, 777}}) {
    check_bf16_activations_on_the_cpu(layernorm_case(shape));
    check_bf16_activations_on_the_cpu(used_twice(shape));
  }
  check_bf16_activations_on_the_cpu(without_parameters({9, 72}));
}

// Widths for each number of channels a lane can hold and each number of warps on a row; widths that
// are not a multiple of the vector; rows that don't fill a block, and many turns of a block.
TEST(LayerNormKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& shape : {Shape{1, 1, 8}, Shape{1, 7}, Shape{3, 7, 33}, Shape{2, 197, 40},
                             Shape{65, 520}, Shape{33, 392}, Shape{67, 800}, Shape{37, 1040},
                             Shape{29, 2056}, Shape{15, 4104}, Shape{7, 8200}, Shape{5, 2051}}) {
    check_kernels(layernorm_case(shape));
  }
}

// So many rows that a warp takes two of them (many_rows() in layers/row_norm.h), and an odd one.
TEST(LayerNormKernels, AgreeWithTheCpuForManyRows) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(layernorm_case({kernel_device == Device::cuda ? 60001 : 961, 520}));
}

#if defined(DYT_EMULATED)
// Of the GPUs that we compile for, those for graphics have less than half as much (sm_86, sm_89).
TEST(LayerNormKernels, MakeDoWithLessSharedMemory) {
  emulator::shared_memory_of_a_block = emulator::shared_memory_of_sm_89;
  for (const int64_t C : {392, 520, 776, 1040, 2056}) check_kernels(used_twice({131, C}));
  emulator::shared_memory_of_a_block = emulator::shared_memory_of_sm_90;
}
#endif

TEST(LayerNormKernels, AddGradientsAndTakeNoParameters) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& shape : {Shape{35, 33}, Shape{35, 48}, Shape{9, 1040}}) {
    check_kernels(used_twice(shape));
    check_kernels(without_parameters(shape));
  }
}

// With a mean of 300 deviations, mean(x^2) - mean^2 would lose the variance's first digits.
TEST(LayerNorm, SurvivesALargeMean) {
  for (const Shape& shape : {Shape{4, 40}, Shape{3, 33}, Shape{2, 2056}}) {
    const OpCase op = layernorm_case(shape);
    Values values = draw_values(op, 5);
    for (double& v : values.inputs[0]) v = double(float(v + 450));
    const Outcome expected = run_op(op, Device::cpu, DType::f64, values);
    std::vector<Device> devices = {Device::cpu};
    if (is_available(kernel_device)) devices.push_back(kernel_device);
    for (Device device : devices) {
      const Outcome actual = run_op(op, device, DType::f32, values);
      expect_close(actual.y, expected.y, 1e-4, op.name);
      expect_close(actual.input_gradients[0], expected.input_gradients[0], 1e-4, op.name + ": dx");
    }
  }
}

// A row without variance: x - mean is zero, and epsilon keeps 1 / 0 away.
TEST(LayerNorm, OfEqualNumbersIsTheBias) {
  const OpCase op = layernorm_case({2, 8});
  Values values = draw_values(op, 6);
  std::fill(values.inputs[0].begin(), values.inputs[0].end(), 3.0);
  std::vector<Device> devices = {Device::cpu};
  if (is_available(kernel_device)) devices.push_back(kernel_device);
  for (Device device : devices) {
    const std::vector<double> y = run_op(op, device, DType::f32, values).y;
    for (size_t i = 0; i < y.size(); ++i) {
      EXPECT_EQ(y[i], double(float(values.parameters.at("bias")[i % 8])));
    }
  }
}

TEST(LayerNorm, GivesTheSameBitsForAnyNumberOfThreads) {
  const OpCase op = layernorm_case({131, 48});
  const Values values = draw_values(op, 7);
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

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(LayerNorm, RefusesWhatDoesNotFit) {
  Parameters p;
  const Parameter& weight = p.add("norm.weight", {6}, Init::ones());
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.empty({2, 5});
  EXPECT_EQ(error_of([&] { layernorm(tape, x, &weight, nullptr, 1e-6f); }),
            "layernorm: parameter norm.weight has 6 elements for 5 channels");
  EXPECT_EQ(error_of([&] { layernorm(tape, x, nullptr, &weight, 1e-6f); }),
            "layernorm: parameter norm.weight has 6 elements for 5 channels");
  EXPECT_EQ(error_of([&] { layernorm(tape, x, nullptr, nullptr, -1.0f); }),
            "layernorm: epsilon must not be negative, as -1 is");
}

}  // namespace
}  // namespace dyt::test
