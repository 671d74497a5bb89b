#include <gtest/gtest.h>

#include <cmath>

#include "core/philox.h"
#include "core/safetensors.h"
#include "layers/losses.h"
#include "tests/bf16_cpu_check.h"

namespace dyt::test {
namespace {

struct Head {
  int64_t rows, C, V, chunk = 0;
  LossOptions loss = {};
  int64_t stored_rows = 0;  // of weight, with those that are zeros
};

std::vector<int32_t> draw_labels(const Head& s) {
  RandomSequence random(6, 6);
  std::vector<int32_t> labels(static_cast<size_t>(s.rows));
  for (int32_t& label : labels) label = int32_t(random.below(uint32_t(s.V)));
  labels[0] = int32_t(s.V - 1);
  return labels;
}

OpCase head_case(const Head& s, const std::vector<int32_t>& labels) {
  return {
      .name = "tied head of " + std::to_string(s.V) + " words, chunk " + std::to_string(s.chunk),
      .inputs = {{s.rows, s.C}},
      .declare =
          [=](Parameters& p) {
            p.add("weight", {s.V, s.C}, Init::gaussian(1)).stored_rows = s.stored_rows;
          },
      .run =
          [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
            return tied_head(tape, x[0], p.find("weight"),
                             tape.upload({s.rows}, DType::i32, labels.data()), s.loss, s.chunk);
          }};
}

OpCase head_case(const Head& s) { return head_case(s, draw_labels(s)); }

// Every second row is left out, among them a whole chunk.
OpCase rows_left_out(Head s) {
  s.loss.ignores = true;
  std::vector<int32_t> labels = draw_labels(s);
  for (size_t r = 1; r < labels.size(); r += 2) labels[r] = ignored_label;
  for (int64_t r = s.chunk; r < std::min(s.rows, 2 * s.chunk); ++r) {
    labels[size_t(r)] = ignored_label;
  }
  return head_case(s, labels);
}

TEST(TiedHead, GradientsAgreeWithFiniteDifferences) {
  check_gradients(head_case({6, 4, 11}));
  check_gradients(head_case({6, 4, 11, 4}));  // chunks of 4 and 2 rows
  check_gradients(head_case({6, 4, 11, 4, {.smoothing = 0.2f}}));
  check_gradients(rows_left_out({7, 4, 11, 2}));
  check_gradients(rows_left_out({7, 4, 11, 0, {.smoothing = 0.1f}}));
}

TEST(TiedHead, AgreesWithPyTorch) {
  const TensorFile file = read_safetensors(reference_folder() + "/layers2.safetensors");
  const std::vector<int64_t> wide = file.integers("tied_head/labels");
  for (int64_t chunk : {0, 1, 4}) {
    const OpCase op = head_case({6, 9, 67, chunk}, {wide.begin(), wide.end()});
    const Values values{
        {file.doubles("tied_head/x")}, {{"weight", file.doubles("tied_head/weight")}}, {1.0}};
    const Outcome outcome = run_op(op, Device::cpu, DType::f32, values);
    expect_close(outcome.y, file.doubles("tied_head/loss"), 2e-6, "loss");
    expect_close(outcome.input_gradients[0], file.doubles("tied_head/dx"), 2e-6, "dx");
    expect_close(outcome.parameter_gradients.at("weight"), file.doubles("tied_head/dweight"), 2e-6,
                 "dweight");
  }
}

TEST(TiedHead, WithSmoothingAndRowsLeftOutAgreesWithPyTorch) {
  const TensorFile file = read_safetensors(reference_folder() + "/losses.safetensors");
  for (const std::string name :
       {"tied_head_left_out", "tied_head_left_out_smooth", "tied_head_smooth"}) {
    const std::vector<int64_t> x = file.at(name + "/x").shape;
    const std::vector<int64_t> labels = file.integers(name + "/labels");
    const float smoothing = float(file.doubles(name + "/smoothing")[0]);
    const bool ignores = name != "tied_head_smooth";
    for (int64_t chunk : {0, 2}) {
      const Head head{x[0], x[1], 13, chunk, {.smoothing = smoothing, .ignores = ignores}};
      const OpCase op = head_case(head, {labels.begin(), labels.end()});
      const Values values{
          {file.doubles(name + "/x")}, {{"weight", file.doubles(name + "/weight")}}, {1.0}};
      const Outcome outcome = run_op(op, Device::cpu, DType::f32, values);
      expect_close(outcome.y, file.doubles(name + "/loss"), 2e-6, name + ": loss");
      expect_close(outcome.input_gradients[0], file.doubles(name + "/dx"), 2e-6, name + ": dx");
      expect_close(outcome.parameter_gradients.at("weight"), file.doubles(name + "/dweight"), 2e-6,
                   name + ": dweight");
    }
  }
}

TEST(TiedHeadKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(head_case({7, 33, 67, 3, {.smoothing = 0.1f}}));
  check_kernels(rows_left_out({33, 16, 520, 10}));
  check_kernels(rows_left_out({197, 8, 40, 0, {.smoothing = 0.1f}}));
  check_kernels(head_case({1, 8, 5}));
  check_kernels(head_case({7, 33, 67, 3}));
  check_kernels(head_case({33, 16, 520, 10}));
  check_kernels(head_case({3, 8, 4104}));  // a block of 1,024 threads per row
  check_kernels(head_case({.rows = 7, .C = 33, .V = 67, .chunk = 3, .stored_rows = 72}));
  check_kernels(head_case({.rows = 33, .C = 16, .V = 521, .stored_rows = 640}));
}

TEST(TiedHeadKernels, RowsThatAreOnlyStoredStayZero) {
  SKIP_WITHOUT_KERNELS();
  const int64_t V = 21, C = 8, stored = 32;
  Parameters p;
  Parameter& weight = p.add("weight", {V, C}, Init::gaussian(1));
  weight.stored_rows = stored;
  p.allocate(kernel_device, DType::bf16, 0);
  ASSERT_EQ(p.flat_size(), stored * C);
  EXPECT_EQ(p.count(), V * C);
  Tape tape(kernel_device, DType::bf16);
  const std::vector<bf16> x(3 * C, bf16(1.0f));
  const std::vector<int32_t> labels = {0, 20, 7};
  const Tensor in = tape.upload({3, C}, DType::bf16, x.data(), true);
  tape.backward(tied_head(tape, in, weight, tape.upload({3}, DType::i32, labels.data())));
  std::vector<float> gradient(size_t(stored * C));
  copy_to_host(kernel_device, gradient.data(), p.gradients(), gradient.size() * sizeof(float));
  for (int64_t i = 0; i < stored * C; ++i) {
    if (i >= V * C) {
      EXPECT_EQ(gradient[size_t(i)], 0) << i;
    } else {
      EXPECT_NE(gradient[size_t(i)], 0) << i;
    }
  }
}

TEST(TiedHead, InBf16AgreesWithF32) {
  check_bf16_on_the_cpu(head_case({1, 8, 5}));
  check_bf16_on_the_cpu(head_case({33, 16, 520, 10}));
}

// However the rows are cut, the result is the same; dloss is not 1 here, see draw_values.
TEST(TiedHead, ChunksDoNotChangeTheResult) {
  const Values values = draw_values(head_case({13, 8, 50}), 5);
  const Outcome whole = run_op(head_case({13, 8, 50, 13}), Device::cpu, DType::f64, values);
  for (int64_t chunk : {1, 5, 100}) {
    const Outcome cut = run_op(head_case({13, 8, 50, chunk}), Device::cpu, DType::f64, values);
    expect_close(cut.y, whole.y, 1e-13, "loss");
    expect_close(cut.input_gradients[0], whole.input_gradients[0], 1e-13, "dx");
    expect_close(cut.parameter_gradients.at("weight"), whole.parameter_gradients.at("weight"),
                 1e-13, "dweight");
  }
}

TEST(TiedHead, GradientsAreAddedToWhatIsThere) {
  OpCase op = head_case({4, 3, 7});
  op.run = [run = op.run](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    const Tensor a = run(tape, x, p);
    return residual_add(tape, a, run(tape, x, p));
  };
  check_gradients(op);
}

// The same loss as cross_entropy of the logits.
TEST(TiedHead, IsTheCrossEntropyOfTheLogits) {
  const Head s{9, 8, 40, 4};
  OpCase separate = head_case(s);
  separate.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    return cross_entropy(tape, tied_logits(tape, x[0], p.find("weight")),
                         tape.upload({s.rows}, DType::i32, draw_labels(s).data()));
  };
  const Values values = draw_values(separate, 8);
  const Outcome a = run_op(head_case(s), Device::cpu, DType::f64, values);
  const Outcome b = run_op(separate, Device::cpu, DType::f64, values);
  expect_close(a.y, b.y, 1e-13, "loss");
  expect_close(a.input_gradients[0], b.input_gradients[0], 1e-12, "dx");
  expect_close(a.parameter_gradients.at("weight"), b.parameter_gradients.at("weight"), 1e-12,
               "dweight");
}

// Memory for a chunk of logits, not for all; without training nothing but that.
TEST(TiedHead, MemoryDoesNotGrowWithRowsTimesVocabulary) {
  const int64_t C = 4, V = 1000, chunk = 10;
  Parameters p;
  Parameter& weight = p.add("weight", {V, C}, Init::gaussian(1));
  p.allocate(Device::cpu, DType::f32, 1);
  const auto used = [&](int64_t rows, bool training) {
    Tape tape(Device::cpu, DType::f32);
    tape.training = training;
    const Tensor x =
        tape.upload({rows, C}, DType::f32, std::vector<float>(size_t(rows * C)).data());
    const Tensor labels =
        tape.upload({rows}, DType::i32, std::vector<int32_t>(size_t(rows)).data());
    const size_t before = tape.arena().used();
    const Tensor loss = tied_head(tape, x, weight, labels, chunk);
    EXPECT_NEAR(to_host(tape, loss)[0], std::log(double(V)), 1e-4);  // logits are all 0
    return tape.arena().used() - before;
  };
  EXPECT_LT(used(500, true), 4 * size_t(chunk * V + V * C + 500 * C + 500) + 4096);
  EXPECT_LT(used(500, false), 4 * size_t(chunk * V + 500) + 4096);
}

std::string message_of(int64_t rows, const std::vector<int32_t>& labels, int64_t C,
                       const LossOptions& options = {}) {
  Parameters p;
  Parameter& weight = p.add("lm_head.weight", {4, C}, Init::ones());
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.upload({rows, 3}, DType::f32, std::vector<float>(size_t(rows * 3)).data());
  try {
    tied_head(tape, x, weight, tape.upload({int64_t(labels.size())}, DType::i32, labels.data()),
              options);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(TiedHead, RefusesWhatDoesNotFit) {
  EXPECT_EQ(message_of(2, {0, 3}, 3), "no error");
  EXPECT_NE(message_of(2, {0, 4}, 3).find("label of row 1 is 4, but the vocabulary has 4 words"),
            std::string::npos);
  EXPECT_NE(message_of(2, {-1, 0}, 3).find("label of row 0 is -1"), std::string::npos);
  EXPECT_EQ(message_of(2, {-1, 0}, 3, {.ignores = true}), "no error");
  EXPECT_NE(message_of(2, {-2, 0}, 3, {.ignores = true}).find("label of row 0 is -2"),
            std::string::npos);
  EXPECT_NE(message_of(2, {-1, -1}, 3, {.ignores = true}).find("all 2 rows are left out"),
            std::string::npos);
  EXPECT_NE(message_of(2, {0, 1}, 3, {.smoothing = -0.1f}).find("a share in [0, 1], not -0.1"),
            std::string::npos);
  EXPECT_NE(message_of(2, {0, 1, 2}, 3).find("3 labels for 2 rows"), std::string::npos);
  EXPECT_NE(message_of(2, {0, 1}, 5).find("lm_head.weight (4, 5) does not take 3 channels"),
            std::string::npos);
}

TEST(TiedHeadKernels, MakeALossWithAnUnknownLabelNaN) {
  SKIP_WITHOUT_KERNELS();
  Parameters p;
  Parameter& weight = p.add("weight", {5, 4}, Init::gaussian(1));
  p.allocate(kernel_device, DType::f32, 0);
  for (const auto& [bad, ignores] : {std::pair(5, false), {5, true}, {-1, false}}) {
    Tape tape(kernel_device, DType::f32);
    const Tensor x = tape.upload({2, 4}, DType::f32, std::vector<float>(8, 1.0f).data());
    const std::vector<int32_t> labels = {0, bad};
    const Tensor loss = tied_head(tape, x, weight, tape.upload({2}, DType::i32, labels.data()),
                                  {.ignores = ignores});
    EXPECT_TRUE(std::isnan(to_host(tape, loss)[0])) << bad;
  }
}

}  // namespace
}  // namespace dyt::test
