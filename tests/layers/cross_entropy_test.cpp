#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/philox.h"
#include "core/safetensors.h"
#include "layers/losses.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

using Labels = std::vector<int32_t>;

Labels draw_labels(int64_t rows, int64_t K) {
  RandomSequence random(8, 8);
  Labels labels(static_cast<size_t>(rows));
  for (int32_t& label : labels) label = int32_t(random.below(uint32_t(K)));
  labels.front() = 0;
  labels.back() = int32_t(K - 1);
  return labels;
}

OpCase cross_entropy_case(Shape shape, const Labels& labels, const LossOptions& options) {
  return {.name = "cross_entropy " + shape.text() + " smoothing " +
                  std::to_string(options.smoothing) + (options.ignores ? ", rows left out" : ""),
          .inputs = {shape},
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
                const Tensor label =
                    tape.upload({int64_t(labels.size())}, DType::i32, labels.data());
                return cross_entropy(tape, x[0], label, options);
              },
          .input_scale = 2};
}
OpCase cross_entropy_case(Shape shape, float smoothing) {
  return cross_entropy_case(shape, draw_labels(shape.size() / shape[-1], shape[-1]),
                            {.smoothing = smoothing});
}

// Every third row is left out, the last one too.
OpCase rows_left_out(Shape shape, float smoothing) {
  Labels labels = draw_labels(shape.size() / shape[-1], shape[-1]);
  for (size_t r = 1; r < labels.size(); r += 3) labels[r] = ignored_label;
  if (labels.size() > 1) labels.back() = ignored_label;
  return cross_entropy_case(shape, labels, {.smoothing = smoothing, .ignores = true});
}

// Two losses of the same logits: their gradients add up.
OpCase used_twice(Shape shape) {
  OpCase op = cross_entropy_case(shape, 0);
  const Labels labels(size_t(shape.size() / shape[-1]), 1);
  op.name += ", twice";
  const auto once = op.run;
  op.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    const Tensor label = tape.upload({int64_t(labels.size())}, DType::i32, labels.data());
    const Tensor first = once(tape, x, p);
    return residual_add(tape, first, cross_entropy(tape, x[0], label, {.smoothing = 0.3f}));
  };
  return op;
}

std::vector<Device> devices() {
  std::vector<Device> all = {Device::cpu};
  if (is_available(kernel_device)) all.push_back(kernel_device);
  return all;
}

TEST(CrossEntropy, GradientsAgreeWithFiniteDifferences) {
  check_gradients(cross_entropy_case({5, 7}, 0));
  check_gradients(cross_entropy_case({2, 3, 4}, 0.1f));
  check_gradients(cross_entropy_case({4, 6}, 1));
  check_gradients(used_twice({3, 5}));
  check_gradients(rows_left_out({7, 5}, 0));
  check_gradients(rows_left_out({2, 4, 6}, 0.1f));
}

TEST(CrossEntropy, AgreesWithPyTorch) {
  const TensorFile file = read_safetensors(reference_folder() + "/layers.safetensors");
  for (const std::string name :
       {"cross_entropy", "cross_entropy_smooth", "cross_entropy_wide", "cross_entropy_huge"}) {
    const std::vector<int64_t> shape = file.at(name + "/logits").shape;
    const std::vector<int64_t> labels = file.integers(name + "/labels");
    const float smoothing = float(file.doubles(name + "/smoothing")[0]);
    const OpCase op = cross_entropy_case({shape[0], shape[1]}, {labels.begin(), labels.end()},
                                         {.smoothing = smoothing});
    const Values values{.inputs = {file.doubles(name + "/logits")}, .parameters = {}, .dy = {1}};
    for (Device device : devices()) {
      const Outcome outcome = run_op(op, device, DType::f32, values);
      expect_close(outcome.y, file.doubles(name + "/loss"), 1e-6, name);
      expect_close(outcome.input_gradients[0], file.doubles(name + "/dlogits"), 2e-6,
                   name + ": dlogits");
    }
  }
}

// One warp, 256 and 1024 threads per row; widths that aren't a multiple of the vector; more rows
// than the second stage has threads.
TEST(CrossEntropyKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& shape : {Shape{1, 8}, Shape{7, 10}, Shape{3, 11, 33}, Shape{2, 30, 40},
                             Shape{5, 512}, Shape{4, 1000}, Shape{2, 4099}, Shape{1, 9000}}) {
    check_kernels(cross_entropy_case(shape, 0.1f));
  }
  check_kernels(cross_entropy_case({520, 3}, 0));
  check_kernels(cross_entropy_case({197, 32}, 0));
  check_kernels(used_twice({5, 10}));
  check_kernels(used_twice({5, 24}));
  check_kernels(rows_left_out({197, 33}, 0));
  check_kernels(rows_left_out({7, 40}, 0.1f));
  check_kernels(rows_left_out({1100, 8}, 0));  // more rows than the second stage has threads
  check_kernels(rows_left_out({1, 9}, 0));     // none is left out
}

TEST(CrossEntropy, WithRowsLeftOutAgreesWithPyTorch) {
  const TensorFile file = read_safetensors(reference_folder() + "/losses.safetensors");
  for (const std::string name : {"left_out", "left_out_smooth"}) {
    const std::vector<int64_t> shape = file.at(name + "/logits").shape;
    const std::vector<int64_t> labels = file.integers(name + "/labels");
    const float smoothing = float(file.doubles(name + "/smoothing")[0]);
    const OpCase op = cross_entropy_case({shape[0], shape[1]}, {labels.begin(), labels.end()},
                                         {.smoothing = smoothing, .ignores = true});
    const Values values{.inputs = {file.doubles(name + "/logits")}, .parameters = {}, .dy = {1}};
    for (Device device : devices()) {
      const Outcome outcome = run_op(op, device, DType::f32, values);
      expect_close(outcome.y, file.doubles(name + "/loss"), 1e-6, name);
      expect_close(outcome.input_gradients[0], file.doubles(name + "/dlogits"), 2e-6,
                   name + ": dlogits");
    }
  }
}

// Whatever stands in a row that is left out, NaN too: the loss is that of the other rows.
TEST(CrossEntropy, RowsLeftOutAreAsIfTheyWereNotThere) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Values three{.inputs = {{1, 2, 3, nan, nan, nan, -1, 0, 4}}, .parameters = {}, .dy = {1}};
  const Values two{.inputs = {{1, 2, 3, -1, 0, 4}}, .parameters = {}, .dy = {1}};
  const Outcome expected =
      run_op(cross_entropy_case({2, 3}, {0, 1}, {}), Device::cpu, DType::f32, two);
  for (Device device : devices()) {
    const OpCase op = cross_entropy_case({3, 3}, {0, ignored_label, 1}, {.ignores = true});
    const Outcome actual = run_op(op, device, DType::f32, three);
    expect_close(actual.y, expected.y, 1e-6, "loss");
    const std::vector<double>& d = actual.input_gradients[0];
    for (size_t i : {3, 4, 5}) EXPECT_EQ(d[i], 0);
    expect_close({d[0], d[1], d[2], d[6], d[7], d[8]}, expected.input_gradients[0], 1e-6,
                 "dlogits");
  }
}

// The same logits plus a thousand: the same loss, were it not for the rounding of the logits.
TEST(CrossEntropy, DoesNotOverflow) {
  const OpCase op = cross_entropy_case({4, 40}, 0.1f);
  Values values = draw_values(op, 2);
  for (double& v : values.inputs[0]) v = std::round(v * 256) / 256;
  const Outcome expected = run_op(op, Device::cpu, DType::f64, values);
  for (double& v : values.inputs[0]) v += 1000;
  for (Device device : devices()) {
    const Outcome actual = run_op(op, device, DType::f32, values);
    expect_close(actual.y, expected.y, 2e-5, "loss");
    expect_close(actual.input_gradients[0], expected.input_gradients[0], 2e-6, "dlogits");
  }
}

// A class of logit -infinity has probability zero: as if it weren't there.
TEST(CrossEntropy, AnInfinitelyUnlikelyClassIsNotThere) {
  const double inf = std::numeric_limits<double>::infinity();
  const Values four{
      .inputs = {{1, 0.5, -inf, -inf, -inf, -inf, -2, 0.25}}, .parameters = {}, .dy = {1}};
  const Values two{.inputs = {{1, 0.5, -2, 0.25}}, .parameters = {}, .dy = {1}};
  const Outcome expected =
      run_op(cross_entropy_case({2, 2}, {1, 0}, {}), Device::cpu, DType::f32, two);
  for (Device device : devices()) {
    const Outcome actual = run_op(cross_entropy_case({2, 4}, {1, 2}, {}), device, DType::f32, four);
    expect_close(actual.y, expected.y, 1e-6, "loss");
    const std::vector<double>& d = actual.input_gradients[0];
    for (size_t i : {2, 3, 4, 5}) EXPECT_EQ(d[i], 0);
    expect_close({d[0], d[1], d[6], d[7]}, expected.input_gradients[0], 1e-6, "dlogits");
  }
}

TEST(CrossEntropy, OfEqualLogitsIsTheLogarithmOfTheClasses) {
  for (float smoothing : {0.0f, 0.2f}) {
    const OpCase op = cross_entropy_case({3, 100}, smoothing);
    const Values values{.inputs = {std::vector<double>(300, 5.0)}, .parameters = {}, .dy = {1}};
    for (Device device : devices()) {
      EXPECT_NEAR(run_op(op, device, DType::f32, values).y[0], std::log(100.0), 1e-6);
    }
  }
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(CrossEntropy, RefusesWhatDoesNotFit) {
  Tape tape(Device::cpu, DType::f32);
  const std::vector<float> numbers(20, 1.0f);
  const Tensor logits = tape.upload({2, 10}, DType::f32, numbers.data(), true);
  const auto labelled = [&](const Labels& labels, const LossOptions& options = {}) {
    return error_of([&] {
      cross_entropy(tape, logits, tape.upload({int64_t(labels.size())}, DType::i32, labels.data()),
                    options);
    });
  };
  EXPECT_EQ(labelled({3, 9}), "no error");
  EXPECT_EQ(labelled({3, 10}),
            "cross_entropy: the label of row 1 is 10, but there are 10 classes, 0 to 9");
  EXPECT_EQ(labelled({-1, 3}),
            "cross_entropy: the label of row 0 is -1, but there are 10 classes, 0 to 9");
  EXPECT_EQ(labelled({-1, 3}, {.ignores = true}), "no error");
  EXPECT_EQ(labelled({-2, 3}, {.ignores = true}),
            "cross_entropy: the label of row 0 is -2, but there are 10 classes, 0 to 9");
  EXPECT_EQ(labelled({-1, -1}, {.ignores = true}),
            "cross_entropy: all 2 rows are left out (labelled -1), so there is no mean");
  EXPECT_EQ(labelled({1, 2, 3}), "cross_entropy: 3 labels for 2 rows of logits (2, 10)");
  EXPECT_EQ(labelled({1, 2}, {.smoothing = 1.5f}),
            "cross_entropy: smoothing is a share in [0, 1], not 1.5");
  EXPECT_EQ(
      error_of([&] { cross_entropy(tape, logits, tape.upload({2}, DType::f32, numbers.data())); }),
      "tensor (2) holds f32, not i32");
}

// Kernels can't throw: the loss and the row's gradient are NaN, the other rows are as ever.
TEST(CrossEntropyKernels, ShowALabelThatIsNoClass) {
  SKIP_WITHOUT_KERNELS();
  const Values values{.inputs = {std::vector<double>(16, 1.0)}, .parameters = {}, .dy = {1}};
  for (int32_t label : {-1, 8, 1 << 30, std::numeric_limits<int32_t>::min()}) {
    for (const bool ignores : {false, true}) {
      if (ignores && label == ignored_label) continue;
      const OpCase op =
          cross_entropy_case({2, 8}, {label, 3}, {.smoothing = 0.1f, .ignores = ignores});
      const Outcome outcome = run_op(op, kernel_device, DType::f32, values);
      EXPECT_TRUE(std::isnan(outcome.y[0]));
      for (size_t i = 0; i < 16; ++i) {
        EXPECT_EQ(std::isnan(outcome.input_gradients[0][i]), i < 8) << i;
      }
    }
  }
  const OpCase none = cross_entropy_case({2, 8}, {-1, -1}, {.ignores = true});
  EXPECT_TRUE(std::isnan(run_op(none, kernel_device, DType::f32, values).y[0]));
}

}  // namespace
}  // namespace dyt::test
