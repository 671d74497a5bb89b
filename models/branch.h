// The residual branches of a Transformer: where the norm stands (arXiv 2002.04745) and dropout.
#pragma once
#include "layers/norm.h"

namespace dyt {

// to + dropout(f), where branch(residual) gives f, or residual + f if it is given one. Without
// dropout, the branch's last product adds to `to` directly.
template <class Branch>
Tensor add_branch(Tape& tape, const Tensor& to, float drop, Branch&& branch) {
  if (drop == 0 || !tape.training) return branch(&to);
  return residual_add(tape, to, dropout(tape, branch(nullptr), drop));
}

// Pre-LN: x + f(norm(x)); Post-LN: norm(x + f(x)). branch(input, residual) as above.
template <class Branch>
Tensor residual_branch(Tape& tape, const Tensor& x, const Norm& norm, Placement placement,
                       float drop, Branch&& branch) {
  const bool pre = placement == Placement::pre;
  const Tensor input = pre ? norm(tape, x) : x;
  const Tensor y =
      add_branch(tape, x, drop, [&](const Tensor* residual) { return branch(input, residual); });
  return pre ? y : norm(tape, y);
}

}  // namespace dyt
