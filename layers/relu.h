// ReLU of one number, for activation.cu and for the passes that end in one, and activation.cu's
// loops of it on the CPU.
#pragma once
#include "core/bf16_cpu.h"
#include "core/dtype.h"

namespace dyt {

// max(0, x). A NaN stays one: a run that diverged should show it.
template <class A>
HOST_DEVICE A relu_value(A x) {
  return x < 0 ? A(0) : x;
}

// y = relu(x), or relu(x + residual); residual may be null.
template <class T>
void relu_forward_cpu(T* y, const T* x, const T* residual, int64_t n) {
  using A = Acc<T>;
  if (residual) {
    cpu::put_all(y, n, [=](int64_t i) { return relu_value(A(x[i]) + A(residual[i])); });
  } else {
    cpu::put_all(y, n, [=](int64_t i) { return relu_value(A(x[i])); });
  }
}

// dy = 0 where y = 0. What is left of dy is also written to `copy`, or added to it, unless it is
// null.
template <class T>
void relu_backward_cpu(T* dy, T* copy, bool add, const T* y, int64_t n) {
  using A = Acc<T>;
  cpu::for_each_piece(n, [=](int64_t first, int64_t count) {
    const T* const out = y + first;
    T *const up = dy + first, *const more = copy + first;
    cpu::put_row(up, count, [=](int64_t i) { return A(out[i]) > 0 ? A(up[i]) : A(0); });
    if (copy && add) {
      cpu::put_row(more, count, [=](int64_t i) { return A(more[i]) + A(up[i]); });
    } else if (copy) {
      std::copy_n(up, count, more);
    }
  });
}

// For bf16 they are made in layers/activations_bf16.cpp.
extern template void relu_forward_cpu(bf16*, const bf16*, const bf16*, int64_t);
extern template void relu_backward_cpu(bf16*, bf16*, bool, const bf16*, int64_t);

}  // namespace dyt
