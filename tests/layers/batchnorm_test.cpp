#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <memory>

#include "core/safetensors.h"
#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"

namespace dyt::test {
namespace {

struct Statistics {
  std::vector<double> mean, variance, batches;
};

// Running statistics start at `before` where given; what they are afterwards goes to `after`.
OpCase batchnorm_case(Shape shape, BatchnormOptions options = {}, const Statistics& before = {},
                      std::shared_ptr<Statistics> after = nullptr) {
  return {.name = "batchnorm " + shape.text() + (options.frozen ? " frozen" : "") +
                  (options.relu ? " relu" : ""),
          .inputs = {shape},
          .declare =
              [=](Parameters& p) {
                p.add("weight", {shape[-1]}, Init::gaussian(1.0));
                p.add("bias", {shape[-1]}, Init::gaussian(1.0));
                p.add_buffer("running_mean", {shape[-1]}, 0.3);
                p.add_buffer("running_var", {shape[-1]}, 1.7);
                p.add_buffer("num_batches_tracked", {1}, 0, true);
              },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                const ModelBuffer& mean = p.find_buffer("running_mean");
                const ModelBuffer& variance = p.find_buffer("running_var");
                const ModelBuffer& batches = p.find_buffer("num_batches_tracked");
                if (!before.mean.empty()) p.set_values(mean, before.mean);
                if (!before.variance.empty()) p.set_values(variance, before.variance);
                const Tensor y = batchnorm(tape, x[0],
                                           {.gamma = &p.find("weight"),
                                            .beta = &p.find("bias"),
                                            .running_mean = &mean,
                                            .running_variance = &variance,
                                            .batches = &batches},
                                           options);
                if (after) *after = {p.values(mean), p.values(variance), p.values(batches)};
                return y;
              },
          .input_scale = 1.5};
}

TEST(Batchnorm, GradientsAgreeWithFiniteDifferences) {
  check_gradients(batchnorm_case({5, 7}));
  check_gradients(batchnorm_case({2, 3, 4, 3}));
  check_gradients(batchnorm_case({5, 7}, {.frozen = true}));
  check_gradients(batchnorm_case({2, 3, 4, 3}, {.relu = true}));
  check_gradients(batchnorm_case({5, 7}, {.frozen = true, .relu = true}));
}

// One pass with a ReLU at its end against two.
void check_fused_relu(Device device, DType dtype) {
  const OpCase fused = batchnorm_case({3, 5, 7, 24}, {.relu = true});
  OpCase apart = batchnorm_case({3, 5, 7, 24});
  apart.run = [run = apart.run](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    return relu(tape, run(tape, x, p));
  };
  const Values values = draw_values(fused, 8, true);
  const Outcome one = run_op(fused, device, dtype, values);
  const Outcome two = run_op(apart, device, dtype, values);
  EXPECT_EQ(one.y, two.y);
  expect_close(one.input_gradients[0], two.input_gradients[0], 1e-6, "dx");
  for (const auto& [name, gradient] : two.parameter_gradients) {
    expect_close(one.parameter_gradients.at(name), gradient, 1e-6, "d" + name);
  }
}
TEST(Batchnorm, WithReluIsBatchnormAndRelu) { check_fused_relu(Device::cpu, DType::f32); }
TEST(BatchnormKernels, WithReluAreBatchnormAndRelu) {
  SKIP_WITHOUT_KERNELS();
  check_fused_relu(kernel_device, DType::f32);
  check_fused_relu(kernel_device, DType::bf16);
}

TEST(Batchnorm, AgreesWithPyTorch) {
  const TensorFile file = read_safetensors(reference_folder() + "/layers2.safetensors");
  const auto before = [&](const std::string& name) {
    return Statistics{
        file.doubles(name + "/running_mean"), file.doubles(name + "/running_var"), {}};
  };
  const auto after = std::make_shared<Statistics>();
  check_reference(batchnorm_case({2, 3, 5, 7}, {}, before("batchnorm_train"), after),
                  "layers2.safetensors", "batchnorm_train");
  expect_close(after->mean, file.doubles("batchnorm_train/new_running_mean"), 1e-6, "mean");
  expect_close(after->variance, file.doubles("batchnorm_train/new_running_var"), 1e-6, "variance");
  EXPECT_EQ(after->batches, std::vector<double>{1});

  const Statistics fixed = before("batchnorm_eval");
  check_reference(batchnorm_case({2, 3, 5, 7}, {.frozen = true}, fixed, after),
                  "layers2.safetensors", "batchnorm_eval");
  EXPECT_EQ(after->mean, fixed.mean);
  EXPECT_EQ(after->variance, fixed.variance);
  EXPECT_EQ(after->batches, std::vector<double>{0});
}

TEST(BatchnormKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& shape : {Shape{7, 8}, Shape{5, 1}, Shape{3, 7, 33}, Shape{2, 197, 16},
                             Shape{2, 33, 48}, Shape{65, 264}, Shape{601, 72}, Shape{2, 300, 5}}) {
    check_kernels(batchnorm_case(shape));
  }
  check_kernels(batchnorm_case({3, 7, 12}, {.frozen = true}));
  for (const Shape& shape : {Shape{7, 8}, Shape{3, 7, 33}, Shape{65, 264}, Shape{601, 72}}) {
    check_kernels(batchnorm_case(shape, {.relu = true}));
  }
}

TEST(Batchnorm, WithActivationsInBf16AgreesWithF32) {
  for (const Shape& shape : {Shape{7, 8}, Shape{3, 7, 33}, Shape{2, 197, 16}, Shape{65, 264}}) {
    check_bf16_activations_on_the_cpu(batchnorm_case(shape));
    check_bf16_activations_on_the_cpu(batchnorm_case(shape, {.relu = true}));
  }
  check_bf16_activations_on_the_cpu(batchnorm_case({3, 7, 12}, {.frozen = true}));
  check_bf16_activations_on_the_cpu(added_to_x(batchnorm_case({6, 24}, {.relu = true})));
}

TEST(BatchnormKernels, MoveTheRunningStatisticsAsTheCpuDoes) {
  SKIP_WITHOUT_KERNELS();
  const auto cpu = std::make_shared<Statistics>(), kernels = std::make_shared<Statistics>();
  const Values values = draw_values(batchnorm_case({9, 40}), 3);
  run_op(batchnorm_case({9, 40}, {.momentum = 0.25f}, {}, cpu), Device::cpu, DType::f32, values);
  run_op(batchnorm_case({9, 40}, {.momentum = 0.25f}, {}, kernels), kernel_device, DType::f32,
         values);
  expect_close(kernels->mean, cpu->mean, 1e-6, "mean");
  expect_close(kernels->variance, cpu->variance, 1e-6, "variance");
  EXPECT_EQ(kernels->batches, std::vector<double>{1});
}

// A mean of 3000 with a deviation of 1: mean(x^2) - mean^2 has no correct digit in f32.
void check_large_mean(Device device) {
  const OpCase op = batchnorm_case({40, 12, 8});
  Values values = draw_values(op, 5);
  for (double& x : values.inputs[0]) x = double(float(3000 + x));
  const Outcome exact = run_op(op, Device::cpu, DType::f64, values);
  const Outcome ours = run_op(op, device, DType::f32, values);
  expect_close(ours.y, exact.y, 1e-3, "y");
  expect_close(ours.input_gradients[0], exact.input_gradients[0], 1e-3, "dx");
}
TEST(Batchnorm, SurvivesALargeMean) { check_large_mean(Device::cpu); }
TEST(BatchnormKernels, SurviveALargeMean) {
  SKIP_WITHOUT_KERNELS();
  check_large_mean(kernel_device);
}

TEST(Batchnorm, HasTheSameBitsForAnyNumberOfThreads) {
  const OpCase op = batchnorm_case({3, 33, 65, 5});
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

// Running mean 0.3 and variance 1.7, whatever is in the batch; one row is enough.
TEST(Batchnorm, EvaluatesWithTheRunningStatistics) {
  const auto after = std::make_shared<Statistics>();
  const OpCase op{.name = "evaluation",
                  .inputs = {{1, 2}},
                  .declare = batchnorm_case({1, 2}).declare,
                  .run = [&](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                    tape.training = false;
                    const Tensor y = batchnorm_case({1, 2}, {}, {}, after).run(tape, x, p);
                    for (int i = 0; i < 2; ++i) {
                      const double expected = (x[0].as<double>()[i] - 0.3) /
                                                  std::sqrt(1.7 + double(1e-5f)) *
                                                  p.values(p.find("weight"))[size_t(i)] +
                                              p.values(p.find("bias"))[size_t(i)];
                      EXPECT_NEAR(y.as<double>()[i], expected, 1e-12);
                    }
                    tape.training = true;
                    return relu(tape, x[0]);  // run_op wants gradients
                  }};
  run_op(op, Device::cpu, DType::f64, draw_values(op, 7));
  EXPECT_EQ(after->mean, (std::vector<double>{0.3, 0.3}));
  EXPECT_EQ(after->batches, std::vector<double>{0});
}

TEST(Batchnorm, AddsToAGradientThatIsThere) { check_gradients(added_to_x(batchnorm_case({6, 9}))); }

TEST(BatchnormKernels, AddToAGradientThatIsThere) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(added_to_x(batchnorm_case({6, 24})));
  check_kernels(added_to_x(batchnorm_case({6, 24}, {.relu = true})));
}

TEST(Batchnorm, RefusesASingleValueAndOtherWidths) {
  const auto message = [](const OpCase& op) -> std::string {
    try {
      run_op(op, Device::cpu, DType::f32, draw_values(op, 1));
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_NE(message(batchnorm_case({1, 4})).find("one value per channel, x (1, 4)"),
            std::string::npos);
  OpCase wide = batchnorm_case({3, 4});
  wide.inputs = {{3, 5}};
  EXPECT_NE(message(wide).find("parameter weight has 4 elements for 5 channels"),
            std::string::npos);
}

}  // namespace
}  // namespace dyt::test
