// Attention on tensor cores, in bf16: layers/attention_mma.cu, and its gradients in
// layers/attention_mma_backward.cu. layers/attention.cu calls it where it can.
#pragma once
#include "core/tape.h"
#include "layers/attention_cpu.h"

namespace dyt {

// What a benchmark or a test sets to false to have the plain kernels instead.
inline bool attention_on_tensor_cores = true;

// Whether rows of heads can be read and written 16 bytes at a time, as these kernels want: width a
// multiple of 8, the rest aligned. (And a grid has at most 65,535 places for samples.)
template <class... T>
bool fits_tensor_cores(const AttentionShape& shape, const Heads<T>&... heads) {
  const auto fits = [](const auto& x) {
    return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.row % 8 == 0 && x.sample % 8 == 0;
  };
  return attention_on_tensor_cores && shape.D % 8 == 0 && shape.D <= 128 && shape.B < 65536 &&
         (fits(heads) && ...);
}

// y (B, T_q, H, D) and lse (B, H, T_q) from q, k, v, all of which fit (see above).
void attention_forward_mma(Heads<bf16> y, float* lse, Heads<const bf16> q, Heads<const bf16> k,
                           Heads<const bf16> v, const AttentionShape& shape);

// dq, dk, dv from dy; dq is added to what is there if add_q, dk and dv if add_kv. All of them fit.
void attention_backward_mma(Tape& tape, Heads<bf16> dq, Heads<bf16> dk, Heads<bf16> dv, bool add_q,
                            bool add_kv, Heads<const bf16> dy, Heads<const bf16> y,
                            const float* lse, Heads<const bf16> q, Heads<const bf16> k,
                            Heads<const bf16> v, const AttentionShape& shape);

}  // namespace dyt
