// Attention on tensor cores against the plain kernels and the CPU, in bf16. That the op takes it is
// seen from the bits: p is rounded to bf16 here and not there.
#include "layers/attention_mma.h"

#include <gtest/gtest.h>

#include "tests/layers/attention_case.h"

namespace dyt::test {
namespace {

Outcome run_fast(const OpCase& op, const Values& values) {
  const AttentionOnWarpgroups off(false);
  return run_op(op, kernel_device, DType::bf16, values);
}
Outcome run_plain(const OpCase& op, const Values& values) {
  attention_on_tensor_cores = false;
  const Outcome outcome = run_fast(op, values);
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
  for (const AttentionSize& s : sizes) check_fast_attention(s, 11, run_fast, run_plain, 2);
}

TEST(AttentionMmaKernels, LargeAndGrowingScoresStayFinite) {
  SKIP_WITHOUT_KERNELS();
  check_growing_scores({.B = 1, .T = 150, .heads = 1, .kv_heads = 0, .D = 64, .causal = false}, 12,
                       15, run_fast);
}

}  // namespace
}  // namespace dyt::test
