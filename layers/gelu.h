// GELU (Hendrycks & Gimpel, arXiv 1606.08415) and its derivative at one x, for the CPU loops (f32
// and f64; a loop over them is vectorised) and for kernels (f32). gelu.cu has the mathematics.
#pragma once
#include "core/cpu_math.h"
#include "core/dtype.h"
#include "layers/layers.h"

namespace dyt {

namespace gelu_detail {

#if defined(__CUDA_ARCH__)
__device__ inline float normal_cdf(float x) {
  return 0.5f * (1.0f + erff(x * 0.70710678118654752440f));
}
__device__ inline float exp_of(float z) { return expf(z); }
#else
template <class A>
A normal_cdf(A x) {
  return cpu::normal_cdf(x);
}
template <class A>
A exp_of(A z) {
  return cpu::exp(z);
}
#endif

// Phi(x), the standard normal distribution function, or GPT-2's formula for it:
// (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)) with u = sqrt(2 / pi) (x + 0.044715 x^3).
template <Gelu kind, class A>
HOST_DEVICE inline A distribution(A x) {
  if constexpr (kind == Gelu::erf) {
    return normal_cdf(x);
  } else {
    const A u = A(0.79788456080286535588) * x * (A(1) + A(0.044715) * x * x);
    return A(1) / (A(1) + exp_of(A(-2) * u));
  }
}

}  // namespace gelu_detail

template <Gelu kind, class A>
HOST_DEVICE inline A gelu_value(A x) {
  return x * gelu_detail::distribution<kind>(x);
}

// d gelu / dx = Phi(x) + x Phi'(x)
template <Gelu kind, class A>
HOST_DEVICE inline A gelu_slope(A x) {
  const A phi = gelu_detail::distribution<kind>(x);
  if constexpr (kind == Gelu::erf) {
    return phi + x * A(0.39894228040143267794) * gelu_detail::exp_of(A(-0.5) * x * x);
  } else {
    const A two_du = A(1.59576912160573071176) * (A(1) + A(0.134145) * x * x);
    return phi + x * phi * (A(1) - phi) * two_du;
  }
}

}  // namespace dyt
