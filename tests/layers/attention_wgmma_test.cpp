// Attention on warpgroups against the kernels for single warps and the CPU, in bf16.
#include "layers/attention_wgmma.h"

#include <gtest/gtest.h>

#include "layers/texts.h"
#include "tests/layers/attention_case.h"

namespace dyt::test {
namespace {

Outcome run_on_warpgroups(const OpCase& op, const Values& values) {
  const AttentionOnWarpgroups on(true);
  return run_op(op, kernel_device, DType::bf16, values);
}
Outcome run_on_warps(const OpCase& op, const Values& values) {
  const AttentionOnWarpgroups off(false);
  return run_op(op, kernel_device, DType::bf16, values);
}

// One and several tiles of 128 owned rows, the second warpgroup with and without rows, and of 64
// and 128 streamed ones; full and not; causal with and without tiles that nobody sees.
const std::vector<AttentionSize> sizes = {
    {.B = 3, .T = 1, .heads = 2, .kv_heads = 0, .D = 64, .causal = true},
    {.B = 1, .T = 7, .heads = 3, .kv_heads = 1, .D = 128, .causal = false},
    {.B = 1, .T = 63, .heads = 2, .kv_heads = 1, .D = 64, .causal = false},
    {.B = 1, .T = 65, .heads = 2, .kv_heads = 0, .D = 64, .causal = true},
    {.B = 1, .T = 65, .heads = 2, .kv_heads = 1, .D = 128, .causal = true},
    {.B = 2, .T = 128, .heads = 1, .kv_heads = 0, .D = 128, .causal = false},
    {.B = 1, .T = 130, .heads = 2, .kv_heads = 1, .D = 128, .causal = true},
    {.B = 1, .T = 197, .heads = 2, .kv_heads = 0, .D = 64, .causal = false},
    {.B = 1, .T = 300, .heads = 2, .kv_heads = 1, .D = 64, .causal = true}};

TEST(AttentionWgmmaKernels, AgreeWithTheOthers) {
  SKIP_WITHOUT_KERNELS();
  if (!warpgroups_run_here()) GTEST_SKIP() << "needs a GPU of compute capability 9.0";
  for (const AttentionSize& s : sizes) {
    // At width 128 both add in the same order: on a GPU their bits are the same.
    check_fast_attention(s, 13, run_on_warpgroups, run_on_warps, s.D == 64 ? 101 : s.T + 1);
  }
}

// Texts of different lengths; other numbers of keys than of queries; gradients that are added to
// what is there.
TEST(AttentionWgmmaKernels, LengthsOtherKeysAndSumsOfGradients) {
  SKIP_WITHOUT_KERNELS();
  if (!warpgroups_run_here()) GTEST_SKIP() << "needs a GPU of compute capability 9.0";
  const auto upload = [](Tape& tape, const std::vector<int32_t>& lengths) {
    return tape.upload({int64_t(lengths.size())}, DType::i32, lengths.data());
  };
  const std::vector<OpCase> cases = {
      {.name = "causal, lengths",
       .inputs = {{3, 150, 4 * 64}},
       .run =
           [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
             const Tensor lengths = upload(tape, {150, 1, 129});
             return attention(tape, x[0], {.heads = 2, .kv_heads = 1, .causal = true}, lengths);
           }},
      {.name = "cross attention, few queries",
       .inputs = {{2, 5, 2 * 128}, {2, 140, 2 * 128}},
       .run =
           [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
             const Tensor lengths = upload(tape, {140, 66});
             return cross_attention(tape, x[0], x[1], {.heads = 2, .kv_heads = 1}, &lengths);
           }},
      {.name = "cross attention, few keys",
       .inputs = {{2, 200, 2 * 64}, {2, 3, 4 * 64}},
       .run = [](Tape& tape, const std::vector<Tensor>& x,
                 Parameters&) { return cross_attention(tape, x[0], x[1], {.heads = 2}); }},
      {.name = "queries read twice",
       .inputs = {{1, 70, 2 * 64}, {1, 70, 2 * 64}},
       .run =
           [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
             const AttentionOptions options{.heads = 2, .kv_heads = 1};
             return cross_attention(tape, x[0], cross_attention(tape, x[0], x[1], options),
                                    options);
           }},
      {.name = "keys read twice",
       .inputs = {{1, 70, 2 * 64}, {1, 70, 2 * 64}},
       .run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
         const AttentionOptions options{.heads = 2, .kv_heads = 1};
         return cross_attention(tape, cross_attention(tape, x[0], x[1], options), x[1], options);
       }}};
  for (const OpCase& op : cases) {
    const Values values = draw_values(op, 14, true);
    const Outcome fast = run_on_warpgroups(op, values);
    const Outcome exact = run_op(op, Device::cpu, DType::f64, values);
    expect_close(fast.y, exact.y, 1e-2, op.name);
    for (size_t i = 0; i < op.inputs.size(); ++i) {
      expect_close(fast.input_gradients[i], exact.input_gradients[i], 1e-2, op.name + " gradient");
    }
    for_other_thread_orders([&](const char* order) {
      EXPECT_EQ(run_on_warpgroups(op, values).y, fast.y) << op.name << " " << order;
    });
  }
}

TEST(AttentionWgmmaKernels, LargeAndGrowingScoresStayFinite) {
  SKIP_WITHOUT_KERNELS();
  if (!warpgroups_run_here()) GTEST_SKIP() << "needs a GPU of compute capability 9.0";
  for (const int64_t D : {64, 128}) {
    check_growing_scores({.B = 1, .T = 300, .heads = 1, .kv_heads = 0, .D = D, .causal = false}, 15,
                         30, run_on_warpgroups);
  }
}

// Widths that the kernels aren't made for go the other way, whatever is asked for.
TEST(AttentionWgmmaKernels, OtherWidthsAreLeftToSingleWarps) {
  SKIP_WITHOUT_KERNELS();
  for (const int64_t D : {48, 96}) {
    const AttentionSize s{.B = 1, .T = 33, .heads = 2, .kv_heads = 0, .D = D, .causal = true};
    const OpCase op = attention_case(s);
    const Values values = draw_values(op, 16, true);
    EXPECT_EQ(run_on_warpgroups(op, values).y, run_on_warps(op, values).y) << op.name;
  }
}

// Distances within a sample have 32 bits in these kernels.
TEST(AttentionWgmma, LongSamplesAreLeftToSingleWarps) {
  const AttentionOnWarpgroups on(true);
  const AttentionShape shape{1, 1 << 20, 1 << 20, 1, 1, 64, true, 0.125};
  const auto fits = [&](int64_t row) {
    return fits_warpgroups(shape, Heads<const bf16>{nullptr, 0, row});
  };
  EXPECT_EQ(fits(2047), warpgroups_run_here());
  EXPECT_FALSE(fits(2048));
}

}  // namespace
}  // namespace dyt::test
