// Attention on tensor cores against the plain kernels and the CPU, in bf16. That the op takes it is
// seen from the bits: p is rounded to bf16 here and not there.
#include "layers/attention_mma.h"

#include <gtest/gtest.h>

#include "tests/layers/attention_case.h"
#include "tests/thread_order.h"

namespace dyt::test {
namespace {

Outcome run_plain(const OpCase& op, const Values& values) {
  attention_on_tensor_cores = false;
  const Outcome outcome = run_op(op, kernel_device, DType::bf16, values);
  attention_on_tensor_cores = true;
  return outcome;
}

// One and several tiles of owned rows (64 and 128 of them) and of streamed ones (64), full and not;
// every width of tile, filled and padded; causal with and without tiles that nobody sees.
const std::vector<AttentionSize> sizes = {
    {.B = 3, .T = 1, .heads = 2, .kv_heads = 0, .D = 64, .causal = true},
    {.B = 2, .T = 7, .heads = 3, .kv_heads = 1, .D = 48, .causal = false},
    {.B = 1, .T = 33, .heads = 2, .kv_heads = 0, .D = 96, .causal = true},
    {.B = 1, .T = 64, .heads = 1, .kv_heads = 0, .D = 64, .causal = false},
    {.B = 1, .T = 65, .heads = 2, .kv_heads = 1, .D = 32, .causal = true},
    {.B = 1, .T = 128, .heads = 1, .kv_heads = 0, .D = 24, .causal = true},
    {.B = 1, .T = 130, .heads = 2, .kv_heads = 1, .D = 128, .causal = true},
    {.B = 1, .T = 150, .heads = 1, .kv_heads = 0, .D = 64, .causal = true},
    {.B = 1, .T = 197, .heads = 1, .kv_heads = 0, .D = 64, .causal = false},
    {.B = 1, .T = 260, .heads = 2, .kv_heads = 1, .D = 32, .causal = true}};

TEST(AttentionMmaKernels, AgreeWithThePlainKernels) {
  SKIP_WITHOUT_KERNELS();
  for (const AttentionSize& s : sizes) {
    const OpCase op = attention_case(s);
    const Values values = draw_values(op, 11, true);
    const Outcome fast = run_op(op, kernel_device, DType::bf16, values);
    const Outcome plain = run_plain(op, values);
    const Outcome exact = run_op(op, Device::cpu, DType::f64, values);
    expect_close(fast.y, plain.y, 1e-2, op.name + " y");
    expect_close(fast.input_gradients[0], plain.input_gradients[0], 1e-2, op.name + " dqkv");
    expect_close(fast.y, exact.y, 1e-2, op.name + " y, from f64");
    expect_close(fast.input_gradients[0], exact.input_gradients[0], 1e-2,
                 op.name + " dqkv, from f64");
    if (s.T > 1) {
      EXPECT_NE(fast.y, plain.y) << op.name << ": not computed on tensor cores";
    }
    for_other_thread_orders([&](const char* order) {
      const Outcome again = run_op(op, kernel_device, DType::bf16, values);
      EXPECT_EQ(again.y, fast.y) << op.name << " " << order;
      EXPECT_EQ(again.input_gradients, fast.input_gradients) << op.name << " " << order;
    });
  }
}

// Scores of many hundreds, in later tiles larger than in earlier ones: the running maximum moves.
TEST(AttentionMmaKernels, LargeAndGrowingScoresStayFinite) {
  SKIP_WITHOUT_KERNELS();
  const AttentionSize s{.B = 1, .T = 150, .heads = 1, .kv_heads = 0, .D = 64, .causal = false};
  const OpCase op = attention_case(s);
  Values values = draw_values(op, 12, true);
  for (size_t i = 0; i < values.inputs[0].size(); ++i) {
    const double token = double(i / (3 * 64));
    values.inputs[0][i] = double(float(bf16(float(values.inputs[0][i] * (1 + token / 15)))));
  }
  const Outcome fast = run_op(op, kernel_device, DType::bf16, values);
  const Outcome exact = run_op(op, Device::cpu, DType::f64, values);
  expect_close(fast.y, exact.y, 1e-2, op.name);
  for (double d : fast.input_gradients[0]) ASSERT_TRUE(std::isfinite(d));
}

}  // namespace
}  // namespace dyt::test
