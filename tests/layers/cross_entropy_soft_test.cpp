#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/philox.h"
#include "core/safetensors.h"
#include "layers/layers.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

// Distributions, but for the first row, which sums to 1.5; with a few zeros.
std::vector<float> draw_targets(int64_t rows, int64_t K) {
  RandomSequence random(5, 5);
  std::vector<float> targets(size_t(rows * K));
  for (int64_t r = 0; r < rows; ++r) {
    float sum = 0;
    for (int64_t k = 0; k < K; ++k) {
      float& t = targets[size_t(r * K + k)];
      t = random.below(3) == 0 ? 0 : random.uniform();
      sum += t;
    }
    if (sum == 0) targets[size_t(r * K)] = sum = 1;
    for (int64_t k = 0; k < K; ++k) targets[size_t(r * K + k)] *= (r == 0 ? 1.5f : 1.0f) / sum;
  }
  return targets;
}

OpCase soft_case(Shape shape, const std::vector<float>& targets) {
  return {.name = "cross_entropy_soft " + shape.text(),
          .inputs = {shape},
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
                return cross_entropy_soft(tape, x[0],
                                          tape.upload(shape, DType::f32, targets.data()));
              },
          .input_scale = 2};
}
OpCase soft_case(Shape shape) {
  return soft_case(shape, draw_targets(shape.size() / shape[-1], shape[-1]));
}

// Two losses of the same logits: their gradients add up.
OpCase used_twice(Shape shape) {
  OpCase op = soft_case(shape);
  const std::vector<float> even(size_t(shape.size()), 1 / float(shape[-1]));
  op.name += ", twice";
  const auto once = op.run;
  op.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    const Tensor first = once(tape, x, p);
    const Tensor other = tape.upload(shape, DType::f32, even.data());
    return residual_add(tape, first, cross_entropy_soft(tape, x[0], other));
  };
  return op;
}

std::vector<Device> devices() {
  std::vector<Device> all = {Device::cpu};
  if (is_available(kernel_device)) all.push_back(kernel_device);
  return all;
}

TEST(CrossEntropySoft, GradientsAgreeWithFiniteDifferences) {
  check_gradients(soft_case({5, 7}));
  check_gradients(soft_case({2, 3, 4}));
  check_gradients(used_twice({3, 5}));
}

TEST(CrossEntropySoft, AgreesWithPyTorch) {
  const TensorFile file = read_safetensors(reference_folder() + "/layers2.safetensors");
  const std::string name = "cross_entropy_soft";
  const std::vector<int64_t> shape = file.at(name + "/logits").shape;
  const OpCase op = soft_case({shape[0], shape[1]}, file.floats(name + "/targets"));
  const Values values{.inputs = {file.doubles(name + "/logits")}, .parameters = {}, .dy = {1}};
  for (Device device : devices()) {
    const Outcome outcome = run_op(op, device, DType::f32, values);
    expect_close(outcome.y, file.doubles(name + "/loss"), 1e-6, name);
    expect_close(outcome.input_gradients[0], file.doubles(name + "/dlogits"), 2e-6, "dlogits");
  }
}

// One warp, 256 and 1024 threads per row; widths that aren't a multiple of the vector.
TEST(CrossEntropySoftKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& shape :
       {Shape{1, 1}, Shape{1, 8}, Shape{7, 10}, Shape{3, 11, 33}, Shape{5, 512}, Shape{4, 1000},
        Shape{2, 4099}, Shape{1, 9000}, Shape{1030, 3}}) {
    check_kernels(soft_case(shape));
  }
  check_kernels(used_twice({5, 10}));
  check_kernels(used_twice({5, 24}));
}

// With the label's distribution as targets it is cross_entropy.
TEST(CrossEntropySoft, OfOneHotTargetsIsTheCrossEntropy) {
  const std::vector<int32_t> labels = {2, 0, 6, 6};
  for (const float smoothing : {0.0f, 0.1f}) {
    std::vector<float> targets(4 * 7, smoothing / 7);
    for (size_t r = 0; r < 4; ++r) targets[r * 7 + size_t(labels[r])] += 1 - smoothing;
    const OpCase soft = soft_case({4, 7}, targets);
    OpCase hard = soft;
    hard.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
      return cross_entropy(tape, x[0], tape.upload({4}, DType::i32, labels.data()), smoothing);
    };
    const Values values = draw_values(soft, 4);
    for (Device device : devices()) {
      const Outcome a = run_op(soft, device, DType::f32, values);
      const Outcome b = run_op(hard, device, DType::f32, values);
      expect_close(a.y, b.y, 1e-6, "loss");
      expect_close(a.input_gradients[0], b.input_gradients[0], 1e-6, "dlogits");
    }
  }
}

// The same logits plus a thousand: the same loss, were it not for the rounding of the logits.
TEST(CrossEntropySoft, DoesNotOverflow) {
  for (const Shape& shape : {Shape{4, 40}, Shape{2, 1000}}) {
    const OpCase op = soft_case(shape);
    Values values = draw_values(op, 2);
    for (double& v : values.inputs[0]) v = std::round(v * 256) / 256;
    const Outcome expected = run_op(op, Device::cpu, DType::f64, values);
    for (const double shift : {1000.0, -1000.0}) {
      Values shifted = values;
      for (double& v : shifted.inputs[0]) v += shift;
      for (Device device : devices()) {
        const Outcome actual = run_op(op, device, DType::f32, shifted);
        expect_close(actual.y, expected.y, 2e-6, "loss");
        expect_close(actual.input_gradients[0], expected.input_gradients[0], 2e-6, "dlogits");
      }
    }
  }
}

// A class of logit -infinity and target 0 has probability zero: as if it weren't there.
TEST(CrossEntropySoft, AnInfinitelyUnlikelyClassIsNotThere) {
  const double inf = std::numeric_limits<double>::infinity();
  const Values four{
      .inputs = {{1, 0.5, -inf, -inf, -inf, -inf, -2, 0.25}}, .parameters = {}, .dy = {1}};
  const Values two{.inputs = {{1, 0.5, -2, 0.25}}, .parameters = {}, .dy = {1}};
  const Outcome expected =
      run_op(soft_case({2, 2}, {0.25f, 0.75f, 1, 0}), Device::cpu, DType::f32, two);
  for (Device device : devices()) {
    const Outcome actual =
        run_op(soft_case({2, 4}, {0.25f, 0.75f, 0, 0, 0, 0, 1, 0}), device, DType::f32, four);
    expect_close(actual.y, expected.y, 1e-6, "loss");
    const std::vector<double>& d = actual.input_gradients[0];
    for (size_t i : {2, 3, 4, 5}) EXPECT_EQ(d[i], 0);
    expect_close({d[0], d[1], d[6], d[7]}, expected.input_gradients[0], 1e-6, "dlogits");
  }
}

TEST(CrossEntropySoft, RefusesTargetsThatDoNotFit) {
  Tape tape(Device::cpu, DType::f32);
  const std::vector<float> numbers(20, 0.5f);
  const Tensor logits = tape.upload({2, 10}, DType::f32, numbers.data(), true);
  const auto error_of = [&](Shape shape, DType dtype) -> std::string {
    try {
      cross_entropy_soft(tape, logits, tape.upload(shape, dtype, numbers.data()));
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(error_of({2, 10}, DType::f32), "no error");
  EXPECT_EQ(error_of({2, 9}, DType::f32), "cross_entropy_soft: targets (2, 9) for logits (2, 10)");
  EXPECT_EQ(error_of({10, 2}, DType::f32),
            "cross_entropy_soft: targets (10, 2) for logits (2, 10)");
  EXPECT_EQ(error_of({2, 10}, DType::i32), "tensor (2, 10) holds i32, not f32");
}

}  // namespace
}  // namespace dyt::test
