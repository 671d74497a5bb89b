// The CPU loops of LayerNorm and RMSNorm; layernorm.cu and rmsnorm.cu have the mathematics. With
// `centered`, LayerNorm. Without, RMSNorm: the mean is 0 and is not stored, mean(g) drops out of
// dx, and there is no beta.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/cpu_math.h"
#include "core/reduce.h"

namespace dyt {

// (2) The CPU loops -------------------------------------------------------------------------------

// Sums over a row x (C), in two halves side by side: an addition takes about four cycles, and two
// sums don't wait for each other.
template <class T>
T sum_of(const T* x, int64_t C) {
  const int64_t half = C / 2;
  T first = C % 2 == 1 ? x[C - 1] : T(0), second = 0;
#pragma omp simd reduction(+ : first, second)
  for (int64_t c = 0; c < half; ++c) {
    first += x[c];
    second += x[half + c];
  }
  return first + second;
}

// Of the squares of x - mean.
template <class T>
T sum_of_squares(const T* x, T mean, int64_t C) {
  const int64_t half = C / 2;
  T first = C % 2 == 1 ? (x[C - 1] - mean) * (x[C - 1] - mean) : T(0), second = 0;
#pragma omp simd reduction(+ : first, second)
  for (int64_t c = 0; c < half; ++c) {
    first += (x[c] - mean) * (x[c] - mean);
    second += (x[half + c] - mean) * (x[half + c] - mean);
  }
  return first + second;
}

template <bool centered, class T>
void row_norm_forward_cpu(T* y, T* mean, T* rstd, const T* x, const T* gamma, const T* beta,
                          T epsilon, int64_t rows, int64_t C) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T* x_r = x + r * C;
    cpu::prefetch(x_r + C, C);
    const T m = centered ? sum_of(x_r, C) / T(C) : T(0);
    const T s = 1 / std::sqrt(sum_of_squares(x_r, m, C) / T(C) + epsilon);
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) {
      const T xhat = (x_r[c] - m) * s;
      y[r * C + c] = (gamma ? gamma[c] : T(1)) * xhat + (beta ? beta[c] : T(0));
    }
    if (centered) mean[r] = m;
    rstd[r] = s;
  }
}

// One row: x, dy, dx (C). dgamma and dbeta are added to; dx too if `add`, and it may be null.
template <bool centered, class T>
void row_norm_backward_row_cpu(T* dx, bool add, T* dgamma, T* dbeta, const T* dy, const T* x,
                               T mean, T rstd, const T* gamma, int64_t C) {
  T sum_g = 0, sum_gx = 0;
#pragma omp simd reduction(+ : sum_g, sum_gx)
  for (int64_t c = 0; c < C; ++c) {
    const T xhat = (x[c] - mean) * rstd, g = dy[c] * (gamma ? gamma[c] : T(1));
    dgamma[c] += dy[c] * xhat;
    if constexpr (centered) {
      dbeta[c] += dy[c];
      sum_g += g;
    }
    sum_gx += g * xhat;
  }
  if (!dx) return;
  const T mean_g = sum_g / T(C), mean_gx = sum_gx / T(C);
  if (!add) std::fill_n(dx, C, T(0));
#pragma omp simd
  for (int64_t c = 0; c < C; ++c) {
    const T xhat = (x[c] - mean) * rstd, g = dy[c] * (gamma ? gamma[c] : T(1));
    dx[c] += rstd * (g - mean_g - xhat * mean_gx);
  }
}

// dgamma and dbeta are added to; dx too if `add`. Any of them may be null.
template <bool centered, class T>
void row_norm_backward_cpu(T* dx, bool add, T* dgamma, T* dbeta, const T* dy, const T* x,
                           const T* mean, const T* rstd, const T* gamma, int64_t rows, int64_t C) {
  std::vector<T> sums(size_t(2 * C), T(0));  // dgamma, dbeta
  sum_over_rows(sums.data(), 2 * C, rows, [=](int64_t begin, int64_t end, T* partial) {
    for (int64_t r = begin; r < end; ++r) {
      cpu::prefetch(x + (r + 1) * C, C);
      cpu::prefetch(dy + (r + 1) * C, C);
      row_norm_backward_row_cpu<centered>(dx ? dx + r * C : nullptr, add, partial, partial + C,
                                          dy + r * C, x + r * C, centered ? mean[r] : T(0), rstd[r],
                                          gamma, C);
    }
  });
  for (int64_t c = 0; c < C && dgamma; ++c) dgamma[c] += sums[size_t(c)];
  for (int64_t c = 0; c < C && dbeta; ++c) dbeta[c] += sums[size_t(C + c)];
}

}  // namespace dyt
