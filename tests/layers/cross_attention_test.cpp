#include <gtest/gtest.h>

#include <cmath>

#include "core/safetensors.h"
#include "layers/attention_bf16_cpu.h"
#include "layers/texts.h"
#include "tests/bf16_cpu_check.h"
#include "tests/layers/attention_case.h"

namespace dyt::test {
namespace {

struct Size {
  int64_t T_q, T_k;  // equal for attention of a text to itself
  int heads, kv_heads;
  int64_t D;
  std::vector<int32_t> lengths;  // one per sample
  bool causal = false;
};

Tensor upload_lengths(Tape& tape, const std::vector<int32_t>& lengths) {
  return tape.upload({int64_t(lengths.size())}, DType::i32, lengths.data());
}

// A text looks at itself; shorter ones of the batch end in padding.
OpCase padded_case(const Size& s) {
  const Shape shape{int64_t(s.lengths.size()), s.T_q, (s.heads + 2 * s.kv_heads) * s.D};
  return {.name = "padded attention " + shape.text(),
          .inputs = {shape},
          .run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            const Tensor lengths = upload_lengths(tape, s.lengths);
            return attention(tape, x[0], {s.heads, s.kv_heads, s.causal}, lengths);
          }};
}

// A text looks at another.
OpCase cross_case(const Size& s) {
  const int64_t B = int64_t(s.lengths.size());
  const Shape q{B, s.T_q, s.heads * s.D}, kv{B, s.T_k, 2 * s.kv_heads * s.D};
  return {.name = "cross attention " + q.text() + " to " + kv.text(),
          .inputs = {q, kv},
          .run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            const Tensor lengths = upload_lengths(tape, s.lengths);
            return cross_attention(tape, x[0], x[1], {s.heads, s.kv_heads}, &lengths);
          }};
}

// Around the tiles of 64 queries and 32 or 64 keys; widths that 16-byte accesses can't read.
const std::vector<Size> padded = {{7, 7, 2, 2, 16, {7, 3, 1}},
                                  {9, 9, 4, 2, 17, {2, 9}, true},
                                  {70, 70, 1, 1, 20, {33, 70, 64}},
                                  {67, 67, 2, 1, 64, {65, 5}, true}};
const std::vector<Size> crossed = {{1, 7, 2, 2, 16, {7, 3}},
                                   {9, 2, 4, 2, 17, {1, 2}},
                                   {5, 70, 2, 2, 24, {1, 64, 70}},
                                   {70, 33, 2, 1, 48, {32, 33}}};

TEST(CrossAttention, GradientsAgreeWithFiniteDifferences) {
  for (const Size& s : padded) check_gradients(padded_case(s));
  for (const Size& s : crossed) check_gradients(cross_case(s));
}

TEST(CrossAttentionKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Size& s : padded) check_kernels(padded_case(s));
  for (const Size& s : crossed) check_kernels(cross_case(s));
  check_kernels(cross_case({3, 40, 1, 1, 128, {40, 17}}));
}

TEST(CrossAttention, InBf16OnTheCpuIsThatInF32ButForRounding) {
  if (!has_attention_in_bf16) GTEST_SKIP() << "no instructions for bf16";
  for (const Size& s : padded) check_bf16_on_the_cpu(padded_case(s));
  for (const Size& s : crossed) check_bf16_on_the_cpu(cross_case(s));
}

// Keys and values that have gone through another reader: the gradient is added.
OpCase read_twice() {
  OpCase op = cross_case({5, 6, 2, 2, 16, {6, 4}});
  op.name = "cross attention, twice";
  op.run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
    const Tensor lengths = upload_lengths(tape, {6, 4});
    const Tensor once = cross_attention(tape, x[0], x[1], {.heads = 2}, &lengths);
    return residual_add(tape, once, cross_attention(tape, x[0], x[1], {.heads = 2}));
  };
  return op;
}

TEST(CrossAttention, AddsToGradientsThatAreThere) { check_gradients(read_twice()); }

TEST(CrossAttentionKernels, AddToGradientsThatAreThere) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(read_twice());
}

// Fixtures of make_attention.py, which says what is in them.
TEST(CrossAttention, AgreesWithPyTorch) {
  const TensorFile file = read_safetensors(reference_folder() + "/attention.safetensors");
  const auto part = [&](const std::string& name) { return file.doubles(name); };
  for (const bool crosses : {false, true}) {
    for (const std::string name :
         {crosses ? "cross" : "padded", crosses ? "cross_padded" : "padded_causal"}) {
      const auto shape = [&](const char* tensor) { return file.at(name + "/" + tensor).shape; };
      Size s{.T_q = shape("q")[1],
             .T_k = shape("k")[1],
             .heads = int(shape("q")[2]),
             .kv_heads = int(shape("k")[2]),
             .D = shape("q")[3],
             .lengths = {}};
      s.causal = name == "padded_causal";
      for (const int64_t length : file.integers(name + "/lengths")) {
        s.lengths.push_back(int32_t(length));
      }
      const size_t q_rows = s.lengths.size() * size_t(s.T_q),
                   k_rows = s.lengths.size() * size_t(s.T_k);
      const auto gather = [&](const std::string& d) {
        std::vector<double> q = part(name + "/" + d + "q"), k = part(name + "/" + d + "k"),
                            v = part(name + "/" + d + "v");
        if (!crosses) return std::vector<std::vector<double>>{side_by_side({q, k, v}, q_rows)};
        return std::vector<std::vector<double>>{q, side_by_side({k, v}, k_rows)};
      };
      Values values;
      values.inputs = gather("");
      values.dy = part(name + "/dy");
      const OpCase op = crosses ? cross_case(s) : padded_case(s);
      const Outcome outcome = run_op(op, Device::cpu, DType::f32, values);
      expect_close(outcome.y, part(name + "/y"), 2e-6, name + " y");
      const auto expected = gather("d");
      for (size_t i = 0; i < expected.size(); ++i) {
        expect_close(outcome.input_gradients[i], expected[i], 2e-6,
                     name + " gradient of input " + std::to_string(i));
      }
    }
  }
}

// Whatever stands in the padding, NaN included, the tokens before it don't see it.
TEST(CrossAttention, PaddingIsNotRead) {
  const Size s{5, 40, 2, 2, 16, {33, 40}};
  const OpCase op = cross_case(s);
  Values values = draw_values(op, 4);
  const Outcome before = run_op(op, Device::cpu, DType::f32, values);
  const size_t row = 2 * 2 * 16;
  std::fill(values.inputs[1].begin() + 33 * row, values.inputs[1].begin() + 40 * row, NAN);
  const Outcome after = run_op(op, Device::cpu, DType::f32, values);
  EXPECT_EQ(before.y, after.y);
  EXPECT_EQ(before.input_gradients, after.input_gradients);
  if (!is_available(kernel_device)) return;
  expect_close(run_op(op, kernel_device, DType::f32, values).y, before.y, 2e-6, "kernels");
}

// A kernel can't refuse a text of no words. It gives NaN, for that text alone; by every way that
// there is: f32, and in bf16 tiles by warps and by warpgroups.
TEST(CrossAttentionKernels, ATextOfNoWordsIsNaN) {
  SKIP_WITHOUT_KERNELS();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t D : {24, 64, 128}) {
      SCOPED_TRACE(testing::Message() << name_of(dtype) << " width " << D);
      const Size s{9, 33, 2, 1, D, {0, 20}};
      const Size whole{9, 33, 2, 1, D, {33, 20}};
      const Values values = draw_values(cross_case(s), 5, dtype == DType::bf16);
      const std::vector<double> y = run_op(cross_case(s), kernel_device, dtype, values).y;
      const std::vector<double> expected =
          run_op(cross_case(whole), kernel_device, dtype, values).y;
      const size_t half = y.size() / 2;
      for (size_t i = 0; i < half; ++i) ASSERT_TRUE(std::isnan(y[i])) << i << " is " << y[i];
      for (size_t i = half; i < y.size(); ++i) ASSERT_EQ(y[i], expected[i]) << i;
    }
  }
}

void expect_error(const std::function<void(Tape&)>& call, const std::string& words) {
  Tape tape(Device::cpu, DType::f32);
  try {
    call(tape);
    FAIL() << "no error with '" << words << "'";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
  }
}

TEST(CrossAttention, RefusesWhatDoesNotFit) {
  const auto cross = [](const Shape& q, const Shape& kv, std::vector<int32_t> lengths,
                        AttentionOptions options = {.heads = 2}) {
    return [=](Tape& tape) {
      const Tensor some = upload_lengths(tape, lengths);
      cross_attention(tape, tape.empty(q), tape.empty(kv), options, &some);
    };
  };
  expect_error(cross({2, 3, 32}, {2, 5, 32}, {5, 5}), "64 channels, not (2, 5, 32)");
  expect_error(cross({2, 3, 32}, {1, 5, 64}, {5, 5}), "(2, 3, 32) and (1, 5, 64)");
  expect_error(cross({2, 3, 32}, {2, 5, 64}, {5}), "1 lengths for 2 samples");
  expect_error(cross({2, 3, 32}, {2, 5, 64}, {5, 6}),
               "sample 1 has 6 keys, which should be 1 to 5");
  expect_error(cross({2, 3, 32}, {2, 5, 64}, {0, 5}), "sample 0 has 0 keys");
  expect_error(cross({2, 3, 32}, {2, 5, 64}, {5, 5}, {.heads = 2, .causal = true}), "causal");
}

}  // namespace
}  // namespace dyt::test
