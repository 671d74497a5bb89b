// What the tests of attention have in common.
#pragma once
#include "layers/layers.h"
#include "tests/op_check.h"

namespace dyt::test {

struct AttentionSize {
  int64_t B, T;
  int heads, kv_heads;  // 0: as many
  int64_t D;
  bool causal;
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
