// GELU (Hendrycks & Gimpel, arXiv 1606.08415) and its derivative at one x, for the CPU loops (f32
// and f64; a loop over them is vectorised). gelu.cu has the mathematics, gelu_kernel.h the same for
// kernels.
#pragma once
#include <algorithm>

#include "core/cpu_math.h"
#include "layers/layers.h"

namespace dyt {

namespace gelu_detail {

// Phi(x), the standard normal distribution function, or GPT-2's formula for it:
// (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)) with u = sqrt(2 / pi) (x + 0.044715 x^3).
template <Gelu kind, class A>
inline A distribution(A x) {
  if constexpr (kind == Gelu::erf) {
    return cpu::normal_cdf(x);
  } else {
    const A u = A(0.79788456080286535588) * x * (A(1) + A(0.044715) * x * x);
    return A(1) / (A(1) + cpu::exp(A(-2) * u));
  }
}

}  // namespace gelu_detail

template <Gelu kind, class A>
inline A gelu_value(A x) {
  return x * gelu_detail::distribution<kind>(x);
}

// d gelu / dx = Phi(x) + x Phi'(x)
template <Gelu kind, class A>
inline A gelu_slope(A x) {
  const A phi = gelu_detail::distribution<kind>(x);
  if constexpr (kind == Gelu::erf) {
    return phi + x * cpu::normal_pdf(x);
  } else {
    const A two_du = A(1.59576912160573071176) * (A(1) + A(0.134145) * x * x);
    return phi + x * phi * (A(1) - phi) * two_du;
  }
}

// Rows of h at a time in a linear layer with GELU behind it, on the CPU: between the product that
// writes them and GELU they are to stay in the second-level cache; 512 at least, as the product
// packs the weight each time.
template <class T>
int64_t gelu_rows_at_once(int64_t C) {
  constexpr int64_t numbers = (int64_t(1) << 21) / int64_t(sizeof(T));
  return std::max<int64_t>(512, numbers / C / 64 * 64);
}

}  // namespace dyt
