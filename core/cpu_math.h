// exp, tanh, erf for the CPU loops. The standard library's f32 versions are calls, and a loop with a
// call in it is not vectorised; these are a few multiplications and additions without a branch, so
// the compiler turns a loop over them into AVX2 or AVX-512 code. Accurate to a few units in the last
// place (tests/core/cpu_math_test.cpp). f64, which is for gradient checks, uses the standard library.
//
// The coefficients are minimax fits (mpmath.chebyfit) of the functions named beside them.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace dyt::cpu {

inline double exp(double x) { return std::exp(x); }
inline double tanh(double x) { return std::tanh(x); }
inline double erf(double x) { return std::erf(x); }

// exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| <= ln 2 / 2.
inline float exp(float x) {
  const float low = -87.3f, high = 88.7f;  // beyond: 2^n leaves the range of f32
  const float c = x < low ? low : x > high ? high : x;
  const float n = std::floor(c * 1.44269504f + 0.5f);
  const float r = (c - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  // (exp(r) - 1 - r) / r^2
  float p = 1.392768462e-03f;
  p = p * r + 8.364380693e-03f;
  p = p * r + 4.166654542e-02f;
  p = p * r + 1.666656963e-01f;
  p = p * r + 5.000000000e-01f;
  const float e = 1.0f + (r + r * r * p);
  const float result = e * std::bit_cast<float>((int32_t(n) + 127) << 23);
  return x < low ? 0.0f : x > high ? HUGE_VALF : x != x ? x : result;
}

inline float tanh(float x) {
  const float t = std::fabs(x), s = x * x;
  // small: (tanh(sqrt(s)) / sqrt(s) - 1) / s on |x| < 0.65
  float p = -5.923726206e-03f;
  p = p * s + 2.087346058e-02f;
  p = p * s - 5.382375887e-02f;
  p = p * s + 1.333258371e-01f;
  p = p * s - 3.333332702e-01f;
  const float small = x + x * s * p;
  const float large = std::copysign(1.0f - 2.0f / (cpu::exp(2.0f * t) + 1.0f), x);
  return t < 0.65f ? small : x != x ? x : large;
}

inline float erf(float x) {
  const float t = std::fabs(x), s = x * x;
  // small: erf(sqrt(s)) / sqrt(s) on |x| < 0.95
  float p = -5.876505632e-04f;
  p = p * s + 4.970797457e-03f;
  p = p * s - 2.675150035e-02f;
  p = p * s + 1.128140730e-01f;
  p = p * s - 3.761245598e-01f;
  p = p * s + 1.128379144e+00f;
  // large: -log(erfc(t)) / t on 0.9 < t < 3.95, where erf reaches 1 in f32
  const float c = t > 3.95f ? 3.95f : t;
  float q = -3.221066286e-07f;
  q = q * c + 5.371075070e-06f;
  q = q * c - 2.005006907e-05f;
  q = q * c - 2.426244394e-04f;
  q = q * c + 3.574123729e-03f;
  q = q * c - 2.385523784e-02f;
  q = q * c + 1.064947810e-01f;
  q = q * c + 6.349401686e-01f;
  q = q * c + 1.128709259e+00f;
  const float large = std::copysign(1.0f - cpu::exp(-q * c), x);
  return t < 0.95f ? x * p : x != x ? x : large;
}

// The standard normal density and distribution: GELU's building blocks.
template <class T>
T normal_pdf(T x) {
  return T(0.39894228040143267794) * cpu::exp(T(-0.5) * x * x);
}
template <class T>
T normal_cdf(T x) {
  return T(0.5) * (T(1) + cpu::erf(x * T(0.70710678118654752440)));
}

}  // namespace dyt::cpu
