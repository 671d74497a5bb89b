// What batch and group normalization share: mean and variance over rows, for groups of channels.
// Only .cu files include this.
//
// (1) The mathematics. x, y (B, R, C): B samples of R rows (the pixels); the C channels are G
// groups
//     of neighbours; gamma, beta (C). Over the n = R C / G numbers of one group of one sample:
//
//       mean = 1/n sum of x          rstd = 1 / sqrt(1/n sum of (x - mean)^2 + epsilon)
//       xhat = (x - mean) rstd       y = gamma * xhat + beta
//
//     Group normalization is this. Batch normalization is this with one sample, all rows of the
//     batch, and every channel a group of its own. What is known of two sets of numbers, each with
//     its count, mean and squares = sum of (x - mean)^2, can be merged without reading them again
//     (Chan, Golub & LeVeque 1979), so parts are summed in parallel and no large numbers are ever
//     subtracted:
//
//       d = mean2 - mean1, n = n1 + n2:    mean = mean1 + d n2 / n
//                                          squares = squares1 + squares2 + d^2 n1 n2 / n
//
//     Backward, with g = dy * gamma, and mean(.) over a group:
//
//       dx     = rstd (g - mean(g) - xhat mean(g xhat))
//       dgamma = sum over samples and rows of  dy xhat          dbeta = the same sum of  dy
//
//     Two sums over the rows of each sample and channel give all of it: of dy, and of dy xhat. If
//     mean and rstd are constants (running statistics), dx = rstd g.
//
//     With `relu`, y = max(0, gamma * xhat + beta), and wherever that is 0, dy is taken for 0. The
//     passes compute it again from x, so that nothing is kept and no tensor is read for it: a ReLU
//     of its own moves y twice forward and, with its gradient, three times back.
#pragma once
#include <cmath>

#include "core/bf16_cpu.h"
#include "layers/relu.h"
#include "layers/wide_row.h"

namespace dyt {

struct GroupedShape {
  int64_t B, R, C, G;
  HOST_DEVICE int64_t width() const { return C / G; }  // channels in a group
  // (in 32 bits: a GPU divides 64-bit numbers by calling a function, for which it spills registers)
  HOST_DEVICE int64_t group(int64_t b, int64_t c) const {
    return b * G + int64_t(uint32_t(c) / uint32_t(width()));
  }
};

template <class A>
struct Moments {
  A n = 0, mean = 0, squares = 0;
  // (No branch: a GPU could not have asked for the next ones in the meantime.)
  HOST_DEVICE void merge(const Moments& other) {
    const A total = n + other.n, share = quotient(other.n, std::max(total, A(1)));
    const A d = other.mean - mean;
    mean += d * share;
    squares += other.squares + d * d * n * share;
    n = total;
  }
  HOST_DEVICE static A quotient(A a, A b) {
#if defined(__CUDA_ARCH__)
    return __fdividef(a, b);  // within 2 units in the last place, in 2 instructions instead of 10
#else
    return a / b;
#endif
  }
};

// Running statistics (C), which follow those of a batch: running += momentum (of this batch -
// running), with the unbiased variance; the batches seen. Null where there are none.
template <class A>
struct Running {
  A *mean = nullptr, *variance = nullptr, *batches = nullptr;
  float momentum = 0;
  HOST_DEVICE void follow(int64_t c, A of_mean, A of_variance, int64_t rows) const {
    const A unbiased = A(rows) / A(rows - 1);
    mean[c] += A(momentum) * (of_mean - mean[c]);
    variance[c] += A(momentum) * (of_variance * unbiased - variance[c]);
    if (c == 0 && batches) *batches += 1;
  }
};

// (2) The CPU loops -------------------------------------------------------------------------------

// Calls body(b, part, begin, end) for the rows [begin, end) of sample b, in parallel: as many parts
// of a sample, in total, as for_each_part would cut. Part p of sample b is the (b * parts + p)-th.
inline int64_t cpu_parts(const GroupedShape& s) { return std::clamp<int64_t>(64 / s.B, 1, s.R); }

template <class Body>
void for_each_slab(const GroupedShape& s, Body&& body) {
  const int64_t P = cpu_parts(s);
#pragma omp parallel for schedule(static)
  for (int64_t slab = 0; slab < s.B * P; ++slab) {
    const int64_t part = slab % P;
    body(slab / P, slab, s.R * part / P, s.R * (part + 1) / P);
  }
}

// mean (C) and squares (C) of x (rows, C): pieces that fit into the first-level cache are read
// twice, first for their mean and then for the squares around it, and merged.
template <class T, class A = Acc<T>>
void column_moments_cpu(A* mean, A* squares, const T* x, int64_t rows, int64_t C) {
  const int64_t k = rows_in_wide_row(C), piece = std::max<int64_t>(1, 6144 / (k * C)) * k;
  std::vector<A> wide_sum(size_t(k * C)), wide_mean;
  std::fill_n(mean, C, A(0));
  std::fill_n(squares, C, A(0));
  for (int64_t begin = 0; begin < rows; begin += piece) {
    const int64_t n = std::min(piece, rows - begin);
    const T* from = x + begin * C;
    A* sum = wide_sum.data();
    std::fill(wide_sum.begin(), wide_sum.end(), A(0));
    for_each_wide_row(n, C, [&](int64_t first, int64_t count) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) sum[i] += A(from[first + i]);
    });
    repeat_over_wide_row(wide_mean, C,
                         [&](int64_t c) { return sum_of_channel(wide_sum, c, C) / A(n); });
    const A* m = wide_mean.data();
    std::fill(wide_sum.begin(), wide_sum.end(), A(0));
    for_each_wide_row(n, C, [&](int64_t first, int64_t count) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const A d = A(from[first + i]) - m[i];
        sum[i] += d * d;
      }
    });
    const A share = A(n) / A(begin + n);
    for (int64_t c = 0; c < C; ++c) {  // Moments::merge for all channels
      const A d = m[c] - mean[c];
      mean[c] += d * share;
      squares[c] += sum_of_channel(wide_sum, c, C) + d * d * A(begin) * share;
    }
  }
}

// mean, rstd (B, G) of x (B, R, C).
template <class T, class A = Acc<T>>
void grouped_statistics_cpu(A* mean, A* rstd, const Running<A>& running, const T* x, A epsilon,
                            const GroupedShape& s) {
  const int64_t P = cpu_parts(s), C = s.C;
  std::vector<A> means(size_t(s.B * P * C)), squares(size_t(s.B * P * C));
  for_each_slab(s, [&](int64_t b, int64_t slab, int64_t begin, int64_t end) {
    column_moments_cpu(means.data() + slab * C, squares.data() + slab * C,
                       x + (b * s.R + begin) * C, end - begin, C);
  });
#pragma omp parallel for
  for (int64_t group = 0; group < s.B * s.G; ++group) {
    Moments<A> all;
    for (int64_t part = 0; part < P; ++part) {
      const A rows = A(s.R * (part + 1) / P - s.R * part / P);
      const int64_t at = (group / s.G * P + part) * C + group % s.G * s.width();
      for (int64_t i = at; i < at + s.width(); ++i) {
        all.merge({rows, means[size_t(i)], squares[size_t(i)]});
      }
    }
    const A variance = all.squares / all.n;
    mean[group] = all.mean;
    rstd[group] = 1 / std::sqrt(variance + epsilon);
    if (running.mean) running.follow(group, all.mean, variance, s.R);
  }
}

// Statistics and parameters: each null where there is none, but mean and rstd (B, G).
template <class A>
struct Normalization {
  const A *mean, *rstd, *gamma, *beta;
};

// gamma * xhat + beta for the numbers of a wide row. Loops take a copy of it, so that its pointers
// stay in registers.
template <class A>
struct WideRow {
  const A *mean, *scale, *offset;
  A operator()(A x, int64_t i) const { return (x - mean[i]) * scale[i] + offset[i]; }
};

// What a wide row of sample b is made of.
template <class A>
struct WideNormalization {
  WideNormalization(const Normalization<A>& n, int64_t b, const GroupedShape& s) {
    repeat_over_wide_row(mean, s.C, [&](int64_t c) { return n.mean[s.group(b, c)]; });
    repeat_over_wide_row(scale, s.C, [&](int64_t c) {
      return n.rstd[s.group(b, c)] * (n.gamma ? n.gamma[c] : A(1));
    });
    repeat_over_wide_row(offset, s.C, [&](int64_t c) { return n.beta ? n.beta[c] : A(0); });
  }
  WideRow<A> row() const { return {mean.data(), scale.data(), offset.data()}; }

 private:
  std::vector<A> mean, scale, offset;
};

template <bool relu, class T, class A = Acc<T>>
void grouped_normalize_cpu(T* y, const T* x, const Normalization<A>& n, const GroupedShape& s) {
  for_each_slab(s, [&](int64_t b, int64_t, int64_t begin, int64_t end) {
    const WideNormalization<A> wide(n, b, s);
    const T* from = x + (b * s.R + begin) * s.C;
    T* to = y + (b * s.R + begin) * s.C;
    for_each_wide_row(end - begin, s.C, [&](int64_t first, int64_t count) {
      const WideRow<A> normalized = wide.row();
      const T* x_i = from + first;
      cpu::put_row(to + first, count, [=](int64_t i) {
        const A out = normalized(A(x_i[i]), i);
        return relu ? relu_value(out) : out;
      });
    });
  });
}

// sums (B, 2, C): over the rows of each sample, of dy and of dy xhat.
template <bool relu, class T, class A = Acc<T>>
std::vector<A> grouped_sums_cpu(const T* dy, const T* x, const Normalization<A>& n,
                                const GroupedShape& s) {
  const int64_t P = cpu_parts(s), C = s.C;
  std::vector<A> partials(size_t(s.B * P * 2 * C)), sums(size_t(s.B * 2 * C), A(0));
  for_each_slab(s, [&](int64_t b, int64_t slab, int64_t begin, int64_t end) {
    const WideNormalization<A> wide(n, b, s);
    std::vector<A> wide_dy(size_t(rows_in_wide_row(C) * C), A(0)), wide_product = wide_dy;
    const T *x_b = x + (b * s.R + begin) * C, *dy_b = dy + (b * s.R + begin) * C;
    A *sum = wide_dy.data(), *product = wide_product.data();
    for_each_wide_row(end - begin, C, [&](int64_t first, int64_t count) {
      const WideRow<A> normalized = wide.row();
      const T *x_i = x_b + first, *dy_i = dy_b + first;
      A *const sum_i = sum, *const product_i = product;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const A x_rc = A(x_i[i]), dy_rc = A(dy_i[i]);
        const A up = !relu || normalized(x_rc, i) > 0 ? dy_rc : A(0);
        sum_i[i] += up;
        product_i[i] += up * (x_rc - normalized.mean[i]);
      }
    });
    A* partial = partials.data() + slab * 2 * C;
    for (int64_t c = 0; c < C; ++c) {
      partial[c] = sum_of_channel(wide_dy, c, C);
      partial[C + c] = sum_of_channel(wide_product, c, C) * n.rstd[s.group(b, c)];
    }
  });
  for (int64_t slab = 0; slab < s.B * P; ++slab) {
    for (int64_t i = 0; i < 2 * C; ++i) {
      sums[size_t(slab / P * 2 * C + i)] += partials[size_t(slab * 2 * C + i)];
    }
  }
  return sums;
}

// dgamma and dbeta are added to; dx too if `add`. Any of them may be null.
template <bool relu, class T, class A = Acc<T>>
void grouped_backward_cpu(T* dx, bool add, A* dgamma, A* dbeta, const T* dy, const T* x,
                          const Normalization<A>& n, bool constant_statistics,
                          const GroupedShape& s) {
  const int64_t C = s.C;
  const std::vector<A> sums = grouped_sums_cpu<relu>(dy, x, n, s);
  std::vector<A> mean_g(size_t(s.B * s.G), A(0)), mean_gx(size_t(s.B * s.G), A(0));
  const A scale_of_mean = constant_statistics ? A(0) : A(1) / A(s.R * s.width());
  for (int64_t b = 0; b < s.B; ++b) {
    for (int64_t c = 0; c < C; ++c) {
      const A sum_dy = sums[size_t(b * 2 * C + c)], sum_dyx = sums[size_t((b * 2 + 1) * C + c)];
      const A weight = (n.gamma ? n.gamma[c] : A(1)) * scale_of_mean;
      if (dbeta) dbeta[c] += sum_dy;
      if (dgamma) dgamma[c] += sum_dyx;
      mean_g[size_t(s.group(b, c))] += weight * sum_dy;
      mean_gx[size_t(s.group(b, c))] += weight * sum_dyx;
    }
  }
  if (!dx) return;
  const auto write = [&](auto adds) {
    for_each_slab(s, [&](int64_t b, int64_t, int64_t begin, int64_t end) {
      // dx = scale dy - constant - slope (x - mean)
      const WideNormalization<A> wide(n, b, s);
      std::vector<A> wide_constant, wide_slope;
      const auto r = [&](int64_t c) { return n.rstd[s.group(b, c)]; };
      repeat_over_wide_row(wide_constant, C,
                           [&](int64_t c) { return r(c) * mean_g[size_t(s.group(b, c))]; });
      repeat_over_wide_row(wide_slope, C,
                           [&](int64_t c) { return r(c) * r(c) * mean_gx[size_t(s.group(b, c))]; });
      const int64_t at = (b * s.R + begin) * C;
      for_each_wide_row(end - begin, C, [&](int64_t first, int64_t count) {
        const WideRow<A> normalized = wide.row();
        const T *x_i = x + at + first, *dy_i = dy + at + first;
        const A *constant = wide_constant.data(), *slope = wide_slope.data();
        T* to = dx + at + first;
        cpu::put_row(to, count, [=](int64_t i) {
          const A x_rc = A(x_i[i]), dy_rc = A(dy_i[i]);
          const A up = !relu || normalized(x_rc, i) > 0 ? dy_rc : A(0);
          return (adds() ? A(to[i]) : A(0)) + normalized.scale[i] * up - constant[i] -
                 slope[i] * (x_rc - normalized.mean[i]);
        });
      });
    });
  };
  if (add)
    write(std::true_type{});
  else
    write(std::false_type{});
}

// For bf16 they are made in layers/activations_bf16.cpp.
extern template void grouped_statistics_cpu(float*, float*, const Running<float>&, const bf16*,
                                            float, const GroupedShape&);
extern template void grouped_normalize_cpu<false>(bf16*, const bf16*, const Normalization<float>&,
                                                  const GroupedShape&);
extern template void grouped_normalize_cpu<true>(bf16*, const bf16*, const Normalization<float>&,
                                                 const GroupedShape&);
extern template void grouped_backward_cpu<false>(bf16*, bool, float*, float*, const bf16*,
                                                 const bf16*, const Normalization<float>&, bool,
                                                 const GroupedShape&);
extern template void grouped_backward_cpu<true>(bf16*, bool, float*, float*, const bf16*,
                                                const bf16*, const Normalization<float>&, bool,
                                                const GroupedShape&);

}  // namespace dyt
