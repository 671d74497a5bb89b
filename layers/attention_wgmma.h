// Attention on the tensor cores of Hopper's warpgroups, in bf16: layers/attention_wgmma.cu, and its
// gradients in layers/attention_wgmma_backward.cu.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "core/device.h"
#include "layers/attention_mma.h"

namespace dyt {

// What DYT_ATTENTION=mma, a benchmark or a test sets to false to have the kernels for single warps
// instead.
inline bool attention_on_warpgroups = [] {
  const char* const asked = std::getenv("DYT_ATTENTION");
  return !asked || std::string_view(asked) != "mma";
}();

// Whether heads that fit the tensor cores (layers/attention_mma.h) are for these kernels, too. They
// count the numbers of a sample with 32 bits.
template <class... T>
bool fits_warpgroups(const AttentionShape& shape, const Heads<T>&... heads) {
  const auto fits = [&](const auto& x) {
    return std::max(shape.T_q, shape.T_k) * x.row < int64_t(1) << 31;
  };
  return attention_on_warpgroups && (shape.D == 64 || shape.D == 128) && (fits(heads) && ...) &&
         warpgroups_run_here();
}

// As attention_forward_mma.
void attention_forward_wgmma(Heads<bf16> y, float* lse, Heads<const bf16> q, Heads<const bf16> k,
                             Heads<const bf16> v, const AttentionShape& shape);

// As attention_backward_mma.
void attention_backward_wgmma(Tape& tape, Heads<bf16> dq, Heads<bf16> dk, Heads<bf16> dv,
                              bool add_q, bool add_kv, Heads<const bf16> dy, Heads<const bf16> y,
                              const float* lse, Heads<const bf16> q, Heads<const bf16> k,
                              Heads<const bf16> v, const AttentionShape& shape);

}  // namespace dyt
