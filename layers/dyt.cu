// Dynamic Tanh (DyT), the layer that replaces LayerNorm in "Transformers without Normalization"
// (arXiv 2503.10622, section 4), and its family.
//
// (1) The mathematics. x, y (rows, C); alpha and shift (Derf's alone) scalars; gamma, beta (C):
//
//       z = alpha x + shift         y = gamma * phi(z) + beta          phi = tanh for DyT
//
//     Every element is treated alike and alone: no mean, no variance, nothing that one channel of a
//     token has to know of the others. That is all the difference to LayerNorm, and why it is
//     cheap: no reduction stands between reading x and writing y. Backward, with dz = dy * gamma *
//     phi'(z):
//
//       dx     = alpha dz
//       dalpha = sum over rows and channels of  x dz         dshift = the same sum of  dz
//       dgamma = sum over rows of  dy phi(z)                 dbeta  = sum over rows of  dy
//
//     phi(z) is computed again from x in the backward pass: one tanh is cheaper than writing phi(z)
//     and reading it again.
#include "core/dispatch.h"
#include "core/rounding.h"
#include "layers/dyt_kernels.h"
#include "layers/wide_row.h"

namespace dyt {
namespace {

// (2) The CPU loops -------------------------------------------------------------------------------

// What is optional is settled before the inner loop: with a branch inside, the compiler would not
// vectorise it. Rows of few channels are taken several at a time (layers/wide_row.h): for an op
// that treats every element alone, what a row is only tells which gamma and beta belong to it.

// What belongs to the numbers of a wide row; `value` where a parameter is missing.
template <class A>
std::vector<A> over_wide_row(const A* parameter, A value, int64_t C) {
  std::vector<A> wide;
  repeat_over_wide_row(wide, C, [=](int64_t c) { return parameter ? parameter[c] : value; });
  return wide;
}

template <class Phi, class T, class A = Acc<T>>
void dyt_forward_cpu(T* y, const T* x, const A* alpha, const A* shift, const A* gamma,
                     const A* beta, int64_t rows, int64_t C) {
  const A a = alpha ? *alpha : A(1), s = shift ? *shift : A(0);
  const std::vector<A> scales = over_wide_row(gamma, A(1), C),
                       offsets = over_wide_row(beta, A(0), C);
  const A *scale = scales.data(), *offset = offsets.data();
  const int64_t width = int64_t(scales.size());
#pragma omp parallel
  {
    WorkingRow<T> wide_x(width), wide_y(width);
#pragma omp for
    for (int64_t first = 0; first < rows * C; first += width) {
      const int64_t n = std::min(width, rows * C - first);
      cpu::prefetch(x + first + width, width);
      const A* x_r = wide_x.read(x + first, n);
      A* y_r = wide_y.open(y + first, n, false);
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) y_r[i] = scale[i] * Phi::value(a * x_r[i] + s) + offset[i];
      wide_y.close(y + first, n);
    }
  }
}

// dgamma, dbeta, dalpha, dshift are added to; dx too if `add`. Any of them may be null.
template <class Phi, bool add, class T, class A = Acc<T>>
void dyt_backward_cpu(T* dx, A* dalpha, A* dshift, A* dgamma, A* dbeta, const T* dy, const T* x,
                      const A* alpha, const A* shift, const A* gamma, int64_t rows, int64_t C) {
  const A a = alpha ? *alpha : A(1), s = shift ? *shift : A(0);
  const std::vector<A> scales = over_wide_row(gamma, A(1), C);
  const A* scale = scales.data();
  const int64_t width = int64_t(scales.size());
  std::vector<A> sums(size_t(2 * width + 2), A(0));  // dgamma, dbeta of a wide row; dalpha, dshift
  sum_over_rows(sums.data(), 2 * width + 2, rows, [=](int64_t begin, int64_t end, A* partial) {
    WorkingRow<T> wide_x(width), wide_dy(width), wide_dx(width);
    std::vector<A> unwanted(dx ? 0 : size_t(width), A(0));
    double sum_alpha = 0, sum_shift = 0;  // in f64: many numbers of both signs nearly cancel
    // Copies, so that the compiler sees that what the loop writes does not change them.
    const A a_here = a, s_here = s, *const scale_here = scale;
    A *const sum_gamma = partial, *const sum_beta = partial + width;
    for (int64_t first = begin * C; first < end * C; first += width) {
      const int64_t n = std::min(width, end * C - first);
      cpu::prefetch(x + first + width, width);
      cpu::prefetch(dy + first + width, width);
      const A *x_r = wide_x.read(x + first, n), *dy_r = wide_dy.read(dy + first, n);
      A* dx_r = dx ? wide_dx.open(dx + first, n, add) : unwanted.data();
      A row_alpha = 0, row_shift = 0;
#pragma omp simd reduction(+ : row_alpha, row_shift)
      for (int64_t i = 0; i < n; ++i) {
        const A z = a_here * x_r[i] + s_here, f = Phi::value(z);
        const A dz = dy_r[i] * scale_here[i] * Phi::slope(z, f);
        sum_gamma[i] += dy_r[i] * f;
        sum_beta[i] += dy_r[i];
        row_alpha += x_r[i] * dz;
        row_shift += dz;
        dx_r[i] = (add ? dx_r[i] : A(0)) + a_here * dz;
      }
      sum_alpha += row_alpha;
      sum_shift += row_shift;
      if (dx) wide_dx.close(dx + first, n);
    }
    partial[2 * width] = A(sum_alpha);
    partial[2 * width + 1] = A(sum_shift);
  });
  for (int64_t i = 0; i < width && dgamma; ++i) dgamma[i % C] += sums[size_t(i)];
  for (int64_t i = 0; i < width && dbeta; ++i) dbeta[i % C] += sums[size_t(width + i)];
  if (dalpha) *dalpha += sums[size_t(2 * width)];
  if (dshift) *dshift += sums[size_t(2 * width + 1)];
}

// (3) The kernels are in dyt_kernels.h.

// (4) The op --------------------------------------------------------------------------------------

// with_squash, on_either_with_bf16 and on_gpu turn what is chosen at run time into template
// arguments (core/dispatch.h). With `branch`, the op first adds a residual branch, x = input + f
// (layers/drop_path.h): read past it at first. values_of and gradient_of are null where there is no
// parameter.
template <class F>
void with_squash(Squash squash, F&& body) {
  switch (squash) {
    case Squash::tanh:
      return body(Tanh{});
    case Squash::erf:
      return body(Erf{});
    case Squash::hardtanh:
      return body(Hardtanh{});
    case Squash::sigmoid:
      return body(Sigmoid{});
    case Squash::isru:
      return body(Isru{});
    case Squash::identity:
      return body(Identity{});
    case Squash::shifted_tanh:
      return body(ShiftedTanh{});
    case Squash::arcsinh:
      return body(Arcsinh{});
    case Squash::deadzone:
      return body(Deadzone{});
    case Squash::bump:
      return body(Bump{});
  }
}

}  // namespace

Tensor dyt(Tape& tape, const Tensor& input, const DytParameters& p, Squash squash,
           ResidualBranch* branch) {
  const int64_t rows = input.rows(), C = input.channels();
  for (const Parameter* v : {p.gamma, p.beta}) {
    require(!v || v->size() == C, "dyt: parameter ", v ? v->name : "", " has ", v ? v->size() : 0,
            " elements for ", C, " channels");
  }
  const DropPath path = branch ? begin_residual(tape, input, *branch) : DropPath{};
  const Tensor x = branch ? branch->y : input;
  const Tensor y = tape.empty(x.shape, x.dtype);
  with_squash(squash, [&](auto phi) {
    using Phi = decltype(phi);
    if (tape.on_cpu()) {
      on_either_with_bf16(tape, x.dtype, [&](auto t) {
        using T = decltype(t);
        if (branch) {
          add_branch(tape, input.as<T>(), branch_of<T>(branch, path), rows, C);
        }
        dyt_forward_cpu<Phi>(y.as<T>(), x.as<T>(), values_of<T>(p.alpha), values_of<T>(p.shift),
                             values_of<T>(p.gamma), values_of<T>(p.beta), rows, C);
      });
    } else {
      on_gpu(x.dtype, [&](auto t) {
        using T = decltype(t);
        const auto forward =
            branch ? dyt_forward_gpu<Phi, true, T> : dyt_forward_gpu<Phi, false, T>;
        forward(y.as<T>(), input.as<T>(), branch_of<T>(branch, path), values_of<T>(p.alpha),
                values_of<T>(p.shift), values_of<T>(p.gamma), values_of<T>(p.beta), rows, C);
      });
    }
  });
  tape.record(y, [=, &tape] {
    with_squash(squash, [&](auto phi) {
      using Phi = decltype(phi);
      if (tape.on_cpu()) {
        on_either_with_bf16(tape, x.dtype, [&](auto t) {
          using T = decltype(t);
          const auto dx = tape.gradient<T>(x);
          const auto backward =
              dx.add ? dyt_backward_cpu<Phi, true, T> : dyt_backward_cpu<Phi, false, T>;
          backward(dx.data, gradient_of<T>(p.alpha), gradient_of<T>(p.shift),
                   gradient_of<T>(p.gamma), gradient_of<T>(p.beta), tape.gradient_of_output<T>(y),
                   x.as<T>(), values_of<T>(p.alpha), values_of<T>(p.shift), values_of<T>(p.gamma),
                   rows, C);
        });
      } else {
        on_gpu(x.dtype, [&](auto t) {
          using T = decltype(t);
          const auto dx = tape.gradient<T>(x);
          const auto backward =
              dx.add ? dyt_backward_gpu<Phi, true, T> : dyt_backward_gpu<Phi, false, T>;
          backward(tape, dx.data, gradient_of<T>(p.alpha), gradient_of<T>(p.shift),
                   gradient_of<T>(p.gamma), gradient_of<T>(p.beta), tape.gradient_of_output<T>(y),
                   x.as<T>(), values_of<T>(p.alpha), values_of<T>(p.shift), values_of<T>(p.gamma),
                   rows, C);
        });
      }
    });
  });
  return y;
}

Tensor dyt(Tape& tape, const Tensor& x, const DytParameters& p, Squash squash) {
  return dyt(tape, x, p, squash, nullptr);
}

}  // namespace dyt
