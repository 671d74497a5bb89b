// The CPU loops of layers/layer_scale.cu, which explains and calls them.
#pragma once
#include <vector>

#include "core/bf16_cpu.h"
#include "core/dtype.h"
#include "core/reduce.h"
#include "layers/wide_row.h"

namespace dyt {

// residual may be null.
template <class T, class A = Acc<T>>
void layer_scale_forward_cpu(T* y, const T* x, const A* gamma, const T* residual, int64_t rows,
                             int64_t C) {
  std::vector<A> wide;
  repeat_over_wide_row(wide, C, [&](int64_t c) { return gamma[c]; });
  const A* g = wide.data();
  for_each_part(rows, [=](int64_t, int64_t begin, int64_t end) {
    for_each_wide_row(end - begin, C, [=](int64_t first, int64_t n) {
      const int64_t at = begin * C + first;
      const T *in = x + at, *to_add = residual + at;
      if (residual) {
        cpu::put_row(y + at, n, [=](int64_t i) { return A(to_add[i]) + g[i] * A(in[i]); });
      } else {
        cpu::put_row(y + at, n, [=](int64_t i) { return g[i] * A(in[i]); });
      }
    });
  });
}

// dgamma is added to; dx too if `add`, and it may be null.
template <class T, class A = Acc<T>>
void layer_scale_backward_cpu(T* dx, bool add, A* dgamma, const T* dy, const T* x, const A* gamma,
                              int64_t rows, int64_t C) {
  std::vector<A> wide;
  repeat_over_wide_row(wide, C, [&](int64_t c) { return gamma[c]; });
  const A* g = wide.data();
  const int64_t width = int64_t(wide.size());
  std::vector<A> sums(wide.size(), A(0));
  sum_over_rows(sums.data(), width, rows, [=](int64_t begin, int64_t end, A* sum) {
    for_each_wide_row(end - begin, C, [=](int64_t first, int64_t n) {
      const T *in = x + begin * C + first, *up = dy + begin * C + first;
      T* const down = dx + begin * C + first;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) sum[i] += A(up[i]) * A(in[i]);
      if (dx && add) {
        cpu::put_row(down, n, [=](int64_t i) { return A(down[i]) + g[i] * A(up[i]); });
      } else if (dx) {
        cpu::put_row(down, n, [=](int64_t i) { return g[i] * A(up[i]); });
      }
    });
  });
  for (int64_t c = 0; c < C; ++c) dgamma[c] += sum_of_channel(sums, c, C);
}

// For bf16 they are made in layers/activations_bf16.cpp.
extern template void layer_scale_forward_cpu(bf16*, const bf16*, const float*, const bf16*, int64_t,
                                             int64_t);
extern template void layer_scale_backward_cpu(bf16*, bool, float*, const bf16*, const bf16*,
                                              const float*, int64_t, int64_t);

}  // namespace dyt
