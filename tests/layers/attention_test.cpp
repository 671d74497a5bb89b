#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>

#include "core/safetensors.h"
#include "layers/attention_bf16_cpu.h"
#include "layers/attention_cpu.h"
#include "layers/layers.h"
#include "tests/bf16_cpu_check.h"
#include "tests/layers/attention_case.h"

namespace dyt::test {
namespace {

// The definition, with loops over everything, in f64.
std::vector<double> by_definition(const std::vector<double>& qkv, const AttentionSize& s) {
  const int64_t KV = s.kv_heads ? s.kv_heads : s.heads, H = s.heads, D = s.D;
  const int64_t row = (H + 2 * KV) * D;
  std::vector<double> y(size_t(s.B * s.T * H * D));
  for (int64_t b = 0; b < s.B; ++b) {
    for (int64_t h = 0; h < H; ++h) {
      const double* const sample = qkv.data() + b * s.T * row;
      const double* const q = sample + h * D;
      const double* const k = sample + (H + h / (H / KV)) * D;
      const double* const v = k + KV * D;
      for (int64_t i = 0; i < s.T; ++i) {
        const int64_t keys = s.causal ? i + 1 : s.T;
        std::vector<double> p(static_cast<size_t>(keys));
        double highest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < keys; ++j) {
          for (int64_t d = 0; d < D; ++d) p[size_t(j)] += q[i * row + d] * k[j * row + d];
          p[size_t(j)] /= std::sqrt(double(D));
          highest = std::max(highest, p[size_t(j)]);
        }
        for (double& p_j : p) sum += p_j = std::exp(p_j - highest);
        double* const y_i = y.data() + ((b * s.T + i) * H + h) * D;
        for (int64_t j = 0; j < keys; ++j) {
          for (int64_t d = 0; d < D; ++d) y_i[d] += p[size_t(j)] / sum * v[j * row + d];
        }
      }
    }
  }
  return y;
}

// 65, 70 and 130 tokens are more than one tile of queries on the CPU.
const std::vector<AttentionSize> sizes = {
    {.B = 2, .T = 1, .heads = 1, .kv_heads = 0, .D = 16, .causal = true},
    {.B = 1, .T = 7, .heads = 2, .kv_heads = 0, .D = 24, .causal = false},
    {.B = 1, .T = 7, .heads = 2, .kv_heads = 0, .D = 17, .causal = true},
    {.B = 2, .T = 9, .heads = 4, .kv_heads = 2, .D = 16, .causal = false},
    {.B = 1, .T = 6, .heads = 3, .kv_heads = 1, .D = 20, .causal = true},
    {.B = 1, .T = 65, .heads = 1, .kv_heads = 0, .D = 16, .causal = false},
    {.B = 1, .T = 70, .heads = 2, .kv_heads = 1, .D = 18, .causal = true},
    {.B = 1, .T = 130, .heads = 1, .kv_heads = 0, .D = 16, .causal = true}};

TEST(Attention, GradientsAgreeWithFiniteDifferences) {
  for (const AttentionSize& s : sizes) {
    OpCase op = attention_case(s);
    op.checked_elements = 16;
    check_gradients(op);
  }
}

TEST(Attention, AgreesWithItsDefinition) {
  std::vector<AttentionSize> all = sizes;
  for (const int64_t D : {32, 48, 64, 80, 96, 128}) {
    all.push_back({.B = 1, .T = 67, .heads = 2, .kv_heads = 0, .D = D, .causal = D % 3 == 0});
  }
  for (const AttentionSize& s : all) {
    const OpCase op = attention_case(s);
    const Values values = draw_values(op, 3);
    const std::vector<double> expected = by_definition(values.inputs[0], s);
    expect_close(run_op(op, Device::cpu, DType::f64, values).y, expected, 1e-13, op.name);
    expect_close(run_op(op, Device::cpu, DType::f32, values).y, expected, 1e-6, op.name);
  }
}

// Fixtures attention_T*_hd*: qkv, dy and heads, and y and dqkv under full/ and causal/.
TEST(Attention, AgreesWithPyTorch) {
  const TensorFile file = read_safetensors(reference_folder() + "/layers.safetensors");
  for (const int64_t T : {1, 7, 33}) {
    for (const int64_t D : {16, 24, 64}) {
      const std::string prefix =
          "attention_T" + std::to_string(T) + "_hd" + std::to_string(D) + "/";
      const int heads = int(file.integers(prefix + "heads")[0]);
      Values values;
      values.inputs = {file.doubles(prefix + "qkv")};
      values.dy = file.doubles(prefix + "dy");
      const int64_t B = int64_t(values.inputs[0].size()) / (T * 3 * heads * D);
      for (const std::string kind : {"full", "causal"}) {
        const OpCase op = attention_case(
            {.B = B, .T = T, .heads = heads, .kv_heads = 0, .D = D, .causal = kind == "causal"});
        const Outcome outcome = run_op(op, Device::cpu, DType::f32, values);
        const std::string what = prefix + kind;
        expect_close(outcome.y, file.doubles(what + "/y"), 2e-6, what + " y");
        expect_close(outcome.input_gradients[0], file.doubles(what + "/dqkv"), 2e-6,
                     what + " dqkv");
      }
    }
  }
}

// Fixtures with q, k, v (B, T, heads, D) apart, all causal.
TEST(Attention, GroupedQueriesAgreeWithPyTorch) {
  const TensorFile file = read_safetensors(reference_folder() + "/layers2.safetensors");
  const auto compare = [&](const std::string& prefix, const AttentionSize& s) {
    const auto part = [&](const char* name) { return file.doubles(prefix + "/" + name); };
    const size_t rows = size_t(s.B * s.T);
    Values values;
    values.inputs = {side_by_side({part("q"), part("k"), part("v")}, rows)};
    values.dy = part("dy");
    const Outcome outcome = run_op(attention_case(s), Device::cpu, DType::f32, values);
    expect_close(outcome.y, part("y"), 2e-6, prefix + " y");
    expect_close(outcome.input_gradients[0],
                 side_by_side({part("dq"), part("dk"), part("dv")}, rows), 2e-6, prefix + " dqkv");
  };
  compare("grouped_query_attention",
          {.B = 2, .T = 9, .heads = 4, .kv_heads = 2, .D = 16, .causal = true});
  compare("multi_query_attention",
          {.B = 2, .T = 5, .heads = 3, .kv_heads = 1, .D = 24, .causal = true});
}

// The second reader of qkv adds to the gradient that the first one wrote.
OpCase used_twice() {
  return {.name = "attention, twice",
          .inputs = {{2, 5, 3 * 2 * 20}},
          .run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            const Tensor past = attention(tape, x[0], {.heads = 2, .causal = true});
            return residual_add(tape, past, attention(tape, x[0], {.heads = 2}));
          }};
}

// Widths below, at and between the kernels' 32, 64 and 128; rows on both sides of their tiles of 32
// and 64; widths that 16-byte accesses can't read (17, and 20 in bf16).
const std::vector<AttentionSize> awkward = {
    {.B = 2, .T = 1, .heads = 2, .kv_heads = 0, .D = 16, .causal = false},
    {.B = 1, .T = 7, .heads = 2, .kv_heads = 0, .D = 17, .causal = true},
    {.B = 2, .T = 33, .heads = 1, .kv_heads = 0, .D = 20, .causal = false},
    {.B = 1, .T = 33, .heads = 2, .kv_heads = 1, .D = 24, .causal = true},
    {.B = 1, .T = 65, .heads = 1, .kv_heads = 0, .D = 64, .causal = false},
    {.B = 1, .T = 70, .heads = 2, .kv_heads = 1, .D = 48, .causal = true},
    {.B = 1, .T = 40, .heads = 3, .kv_heads = 1, .D = 80, .causal = false},
    {.B = 1, .T = 35, .heads = 1, .kv_heads = 0, .D = 128, .causal = true}};

TEST(AttentionKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const AttentionSize& s : awkward) check_kernels(attention_case(s));
}

TEST(Attention, InBf16AgreesWithF32) {
  if (!has_attention_in_bf16) GTEST_SKIP() << "no instructions for bf16";
  for (const AttentionSize& s : awkward) check_bf16_on_the_cpu(attention_case(s));
  check_bf16_on_the_cpu(
      attention_case({.B = 2, .T = 197, .heads = 2, .kv_heads = 1, .D = 33, .causal = true}));
  check_bf16_on_the_cpu(used_twice());
}

TEST(AttentionKernels, AgreeWithTheCpuOver197Tokens) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(
      attention_case({.B = 1, .T = 197, .heads = 1, .kv_heads = 0, .D = 32, .causal = false}));
}

TEST(Attention, AddsToAGradientThatIsThere) { check_gradients(used_twice()); }

TEST(AttentionKernels, AddToAGradientThatIsThere) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(used_twice());
}

// Scores of many hundreds: exp of them is infinite, of their differences it isn't.
TEST(Attention, LargeScoresStayFinite) {
  const AttentionSize s{.B = 1, .T = 70, .heads = 1, .kv_heads = 0, .D = 64, .causal = true};
  OpCase op = attention_case(s);
  op.input_scale = 12;
  const Values values = draw_values(op, 5);
  expect_close(run_op(op, Device::cpu, DType::f32, values).y, by_definition(values.inputs[0], s),
               1e-4, op.name);
}

// Scores far below zero: exp of minus their log-sum-exp is infinite, and must not come to stand
// where a last tile has no queries.
TEST(Attention, LowScoresStayFiniteInBf16) {
  if (!has_attention_in_bf16) GTEST_SKIP() << "no instructions for bf16";
  for (const int T : {65, 70, 97}) {
    OpCase op =
        attention_case({.B = 1, .T = T, .heads = 1, .kv_heads = 0, .D = 64, .causal = false});
    op.bf16_tolerance = 0.15;  // factors near 5 are rounded by 0.01, and scores by 0.1
    const auto run = op.run;
    op.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
      std::vector<float> shift(size_t(T) * 3 * 64);  // q by +5, k by -5: scores of -200
      for (size_t i = 0; i < shift.size(); ++i) {
        const size_t part = i / 64 % 3;
        shift[i] = part == 0 ? 5.0f : part == 1 ? -5.0f : 0.0f;
      }
      const Tensor by = tape.upload({1, T, 3 * 64}, DType::f32, shift.data());
      return run(tape, {residual_add(tape, x[0], by)}, p);
    };
    check_bf16_on_the_cpu(op);
  }
}

TEST(AttentionKernels, LargeScoresStayFinite) {
  SKIP_WITHOUT_KERNELS();
  OpCase op = attention_case({.B = 1, .T = 35, .heads = 1, .kv_heads = 0, .D = 64, .causal = true});
  op.input_scale = 12;
  op.f32_tolerance = 1e-3;
  op.bf16_tolerance = 1e-1;  // ds is a difference of numbers near 1,000, one of them from y in bf16
  check_kernels(op);
}

TEST(Attention, CausalOutputsDoNotDependOnLaterTokens) {
  const AttentionSize s{.B = 1, .T = 70, .heads = 2, .kv_heads = 0, .D = 16, .causal = true};
  const OpCase op = attention_case(s);
  Values values = draw_values(op, 6);
  const std::vector<double> before = run_op(op, Device::cpu, DType::f32, values).y;
  const size_t changed = 66, channels = 3 * 2 * 16, width = 2 * 16;
  for (size_t i = changed * channels; i < values.inputs[0].size(); ++i) values.inputs[0][i] += 1;
  const std::vector<double> after = run_op(op, Device::cpu, DType::f32, values).y;
  for (size_t i = 0; i < changed * width; ++i) ASSERT_EQ(before[i], after[i]) << i;
  for (size_t i = changed * width; i < after.size(); ++i) ASSERT_NE(before[i], after[i]) << i;
}

TEST(Attention, TheSameBitsForAnyNumberOfThreads) {
  const OpCase op =
      attention_case({.B = 3, .T = 66, .heads = 2, .kv_heads = 1, .D = 24, .causal = true});
  const Values values = draw_values(op, 8);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const Outcome one = run_op(op, Device::cpu, DType::f32, values);
  omp_set_num_threads(5);
  const Outcome five = run_op(op, Device::cpu, DType::f32, values);
  omp_set_num_threads(threads);
  EXPECT_EQ(one.y, five.y);
  EXPECT_EQ(one.input_gradients, five.input_gradients);
}

// Queries and keys of different number, as with a cache of keys and values: the last queries alone
// give the last rows of y.
TEST(Attention, TheLastQueriesAloneGiveTheLastRows) {
  const AttentionSize s{.B = 2, .T = 70, .heads = 2, .kv_heads = 0, .D = 16, .causal = true};
  const OpCase op = attention_case(s);
  const Values values = draw_values(op, 9);
  const std::vector<double>& qkv = values.inputs[0];
  const std::vector<double> all = run_op(op, Device::cpu, DType::f64, values).y;
  for (const int last : {1, 3, 66}) {
    const int64_t C = 2 * 16, row = 3 * C, sample = 70 * row, skipped = 70 - last;
    std::vector<double> y(size_t(2 * last * C)), lse(size_t(2 * 2 * last));
    attention_forward_cpu<double>(
        {y.data(), last * C, C}, lse.data(), {qkv.data() + skipped * row, sample, row},
        {qkv.data() + C, sample, row}, {qkv.data() + 2 * C, sample, row},
        {.B = 2, .T_q = last, .T_k = 70, .H = 2, .KV = 2, .D = 16, .causal = true, .scale = 0.25});
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t i = 0; i < last * C; ++i) {
        ASSERT_NEAR(y[size_t(b * last * C + i)], all[size_t((b * 70 + skipped) * C + i)], 1e-14);
      }
    }
  }
}

void expect_error(const Shape& shape, const AttentionOptions& options, const std::string& words) {
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.empty(shape);
  try {
    attention(tape, x, options);
    FAIL() << "no error for " << shape.text();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
  }
}

TEST(Attention, RefusesShapesThatDoNotFit) {
  expect_error({2, 5, 100}, {.heads = 2}, "100 channels of qkv cannot be cut into 2 query");
  expect_error({2, 5, 96}, {.heads = 4}, "heads of width 16 to 128 are supported, not 8");
  expect_error({2, 5, 3 * 132}, {.heads = 1}, "not 132");
  expect_error({2, 5, 7 * 16}, {.heads = 3, .kv_heads = 2}, "3 heads cannot share 2");
  expect_error({2, 5, 96}, {.heads = 0}, "0 heads");
  expect_error({10, 96}, {.heads = 2}, "qkv is (B, T, channels), not (10, 96)");
}

}  // namespace
}  // namespace dyt::test
