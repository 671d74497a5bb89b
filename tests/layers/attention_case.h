// What the tests of attention have in common.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "layers/attention_wgmma.h"
#include "layers/layers.h"
#include "tests/op_check.h"
#include "tests/thread_order.h"

namespace dyt::test {

struct AttentionSize {
  int64_t B, T;
  int heads, kv_heads;  // 0: as many
  int64_t D;
  bool causal;
};

// Whether Hopper's warpgroups compute attention, where they can, whatever the environment asks for.
class AttentionOnWarpgroups {
 public:
  explicit AttentionOnWarpgroups(bool on) : before_(attention_on_warpgroups) {
    attention_on_warpgroups = on;
  }
  ~AttentionOnWarpgroups() { attention_on_warpgroups = before_; }
  AttentionOnWarpgroups(const AttentionOnWarpgroups&) = delete;
  AttentionOnWarpgroups& operator=(const AttentionOnWarpgroups&) = delete;

 private:
  bool before_;
};

inline OpCase attention_case(const AttentionSize& s) {
  const int kv = s.kv_heads ? s.kv_heads : s.heads;
  const Shape shape{s.B, s.T, (s.heads + 2 * kv) * s.D};
  return {.name = "attention " + shape.text() + " heads " + std::to_string(s.heads) +
                  (s.causal ? " causal" : ""),
          .inputs = {shape},
          .run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
            return attention(tape, x[0],
                             {.heads = s.heads, .kv_heads = s.kv_heads, .causal = s.causal});
          }};
}

using Run = std::function<Outcome(const OpCase& op, const Values& values)>;

// Kernels in bf16, `fast`, against others and against f64 on the CPU, in all thread orders. From
// `seen_from` tokens on their bits must differ from those of the others, or they did not run.
inline void check_fast_attention(const AttentionSize& s, uint64_t seed, const Run& fast,
                                 const Run& others, int64_t seen_from) {
  const OpCase op = attention_case(s);
  const Values values = draw_values(op, seed, true);
  const Outcome one = fast(op, values), other = others(op, values);
  const Outcome exact = run_op(op, Device::cpu, DType::f64, values);
  expect_close(one.y, other.y, 1e-2, op.name + " y");
  expect_close(one.input_gradients[0], other.input_gradients[0], 1e-2, op.name + " dqkv");
  expect_close(one.y, exact.y, 1e-2, op.name + " y, from f64");
  expect_close(one.input_gradients[0], exact.input_gradients[0], 1e-2, op.name + " dqkv, from f64");
  if (s.T >= seen_from) {
    EXPECT_TRUE(one.y != other.y || one.input_gradients != other.input_gradients)
        << op.name << ": not computed by the kernels that were asked for";
  }
  for_other_thread_orders([&](const char* order) {
    const Outcome again = fast(op, values);
    EXPECT_EQ(again.y, one.y) << op.name << " " << order;
    EXPECT_EQ(again.input_gradients, one.input_gradients) << op.name << " " << order;
  });
}

// Scores of many hundreds, in later tiles larger than in earlier ones: the running maximum moves.
// Token t of one head is (1 + t / growth) times as large as the first.
inline void check_growing_scores(const AttentionSize& s, uint64_t seed, double growth,
                                 const Run& fast) {
  const OpCase op = attention_case(s);
  Values values = draw_values(op, seed, true);
  for (size_t i = 0; i < values.inputs[0].size(); ++i) {
    const double token = double(i / size_t(3 * s.D));
    values.inputs[0][i] = double(float(bf16(float(values.inputs[0][i] * (1 + token / growth)))));
  }
  const Outcome one = fast(op, values);
  const Outcome exact = run_op(op, Device::cpu, DType::f64, values);
  expect_close(one.y, exact.y, 1e-2, op.name);
  for (double d : one.input_gradients[0]) ASSERT_TRUE(std::isfinite(d));
}

// Matrices of as many rows, side by side.
inline std::vector<double> side_by_side(const std::vector<std::vector<double>>& parts,
                                        size_t rows) {
  std::vector<double> all;
  for (size_t r = 0; r < rows; ++r) {
    for (const std::vector<double>& part : parts) {
      const long width = long(part.size() / rows);
      all.insert(all.end(), part.begin() + long(r) * width, part.begin() + long(r + 1) * width);
    }
  }
  return all;
}

}  // namespace dyt::test
