// The CPU loops of LayerNorm and RMSNorm; layernorm.cu and rmsnorm.cu have the mathematics. With
// `centered`, LayerNorm. Without, RMSNorm: the mean is 0 and is not stored, mean(g) drops out of
// dx, and there is no beta.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/bf16_cpu.h"
#include "core/cpu_math.h"
#include "core/dtype.h"
#include "core/reduce.h"
#include "core/rounding.h"

namespace dyt {

// (2) The CPU loops -------------------------------------------------------------------------------

// The sum of value(x) over a row x (C), by L sums side by side. Adding these up takes as long as
// adding some ten vectors, so there are no more of them than a vector has.
template <int L, class A, class F>
A sum_by_lanes(const A* x, int64_t C, F&& value) {
  A lanes[L] = {}, sum = 0;
  int64_t c = 0;
  for (; c + L <= C; c += L) {
#pragma omp simd simdlen(L)
    for (int l = 0; l < L; ++l) lanes[l] += value(x[c + l]);
  }
  for (; c < C; ++c) sum += value(x[c]);
#pragma omp simd simdlen(L) reduction(+ : sum)
  for (int l = 0; l < L; ++l) sum += lanes[l];
  return sum;
}

template <class A, class F>
A sum_over_row(const A* x, int64_t C, F&& value) {
#if defined(__AVX512F__)
  constexpr int L = 64 / sizeof(A);
  if (C % L == 0) return sum_by_lanes<L>(x, C, value);
#endif
  return sum_by_lanes<32 / sizeof(A)>(x, C, value);
}

// Rows by the handful: a row's sum, mean, squares and rstd wait for each other, some hundred
// cycles, and what is done for other rows meanwhile takes no time.
inline constexpr int64_t most_rows_at_once = 16;
inline int64_t rows_at_once(int64_t C) {  // whose x stays in the first-level cache
  return std::clamp<int64_t>(640 / C, 1, most_rows_at_once);
}

template <bool centered, class T, class A = Acc<T>>
void row_norm_forward_cpu(T* y, A* mean, A* rstd, const T* x, const A* gamma, const A* beta,
                          A epsilon, int64_t rows, int64_t C) {
  const std::vector<A> ones(gamma ? 0 : size_t(C), A(1)), zeros(beta ? 0 : size_t(C), A(0));
  const A *scale = gamma ? gamma : ones.data(), *offset = beta ? beta : zeros.data();
  const int64_t at_once = rows_at_once(C);
#pragma omp parallel
  {
    const WorkingRow<T> blank(C);
    std::vector<WorkingRow<T>> wide(size_t(at_once), blank);
    const A* x_of[most_rows_at_once];
    A m[most_rows_at_once], s[most_rows_at_once];
#pragma omp for
    for (int64_t first = 0; first < rows; first += at_once) {
      const int64_t n = std::min(at_once, rows - first);
      for (int64_t i = 0; i < n; ++i) {
        const T* const x_i = x + (first + i) * C;
        cpu::prefetch(x_i + at_once * C, C);
        x_of[i] = wide[size_t(i)].read(x_i, C);
        m[i] = centered ? sum_over_row(x_of[i], C, [](A v) { return v; }) / A(C) : A(0);
      }
      for (int64_t i = 0; i < n; ++i) {
        const A center = m[i];
        s[i] = sum_over_row(x_of[i], C, [=](A v) { return (v - center) * (v - center); });
      }
      for (int64_t i = 0; i < n; ++i) s[i] = 1 / std::sqrt(s[i] / A(C) + epsilon);
      for (int64_t i = 0; i < n; ++i) {
        const A *const x_i = x_of[i], center = m[i], r = s[i];
        cpu::put_row(y + (first + i) * C, C,
                     [=](int64_t c) { return scale[c] * ((x_i[c] - center) * r) + offset[c]; });
        if (centered) mean[first + i] = center;
        rstd[first + i] = r;
      }
    }
  }
}

// One row: x, dy, dx, gamma (C). dgamma and dbeta are added to; dx too if `add`, and it may be
// null.
template <bool centered, class T, class A = Acc<T>>
void row_norm_backward_row_cpu(T* dx, bool add, A* dgamma, A* dbeta, const A* dy, const A* x,
                               A mean, A rstd, const A* gamma, int64_t C) {
  A sum_g = 0, sum_gx = 0;
#pragma omp simd reduction(+ : sum_g, sum_gx)
  for (int64_t c = 0; c < C; ++c) {
    const A xhat = (x[c] - mean) * rstd, g = dy[c] * gamma[c];
    dgamma[c] += dy[c] * xhat;
    if constexpr (centered) {
      dbeta[c] += dy[c];
      sum_g += g;
    }
    sum_gx += g * xhat;
  }
  if (!dx) return;
  const A mean_g = sum_g / A(C), mean_gx = sum_gx / A(C);
  const auto dx_of = [=](int64_t c) {
    const A xhat = (x[c] - mean) * rstd, g = dy[c] * gamma[c];
    return rstd * (g - mean_g - xhat * mean_gx);
  };
  if (add) {
    cpu::put_row(dx, C, [=](int64_t c) { return A(dx[c]) + dx_of(c); });
  } else {
    cpu::put_row(dx, C, dx_of);
  }
}

// dgamma and dbeta are added to; dx too if `add`. Any of them may be null.
template <bool centered, class T, class A = Acc<T>>
void row_norm_backward_cpu(T* dx, bool add, A* dgamma, A* dbeta, const T* dy, const T* x,
                           const A* mean, const A* rstd, const A* gamma, int64_t rows, int64_t C) {
  const std::vector<A> ones(gamma ? 0 : size_t(C), A(1));
  const A* scale = gamma ? gamma : ones.data();
  std::vector<A> sums(size_t(2 * C), A(0));  // dgamma, dbeta
  sum_over_rows(sums.data(), 2 * C, rows, [=](int64_t begin, int64_t end, A* partial) {
    WorkingRow<T> wide_x(C), wide_dy(C);
    for (int64_t r = begin; r < end; ++r) {
      cpu::prefetch(x + (r + 1) * C, C);
      cpu::prefetch(dy + (r + 1) * C, C);
      row_norm_backward_row_cpu<centered>(dx ? dx + r * C : nullptr, add, partial, partial + C,
                                          wide_dy.read(dy + r * C, C), wide_x.read(x + r * C, C),
                                          centered ? mean[r] : A(0), rstd[r], scale, C);
    }
  });
  for (int64_t c = 0; c < C && dgamma; ++c) dgamma[c] += sums[size_t(c)];
  for (int64_t c = 0; c < C && dbeta; ++c) dbeta[c] += sums[size_t(C + c)];
}

// For bf16 they are made in layers/activations_bf16.cpp.
extern template void row_norm_forward_cpu<true>(bf16*, float*, float*, const bf16*, const float*,
                                                const float*, float, int64_t, int64_t);
extern template void row_norm_forward_cpu<false>(bf16*, float*, float*, const bf16*, const float*,
                                                 const float*, float, int64_t, int64_t);
extern template void row_norm_backward_cpu<true>(bf16*, bool, float*, float*, const bf16*,
                                                 const bf16*, const float*, const float*,
                                                 const float*, int64_t, int64_t);
extern template void row_norm_backward_cpu<false>(bf16*, bool, float*, float*, const bf16*,
                                                  const bf16*, const float*, const float*,
                                                  const float*, int64_t, int64_t);

}  // namespace dyt
