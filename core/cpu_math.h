// exp, tanh, erf for the CPU loops. The standard library's f32 versions are calls, and a loop with
// a call in it is not vectorised; these are a few multiplications and additions without a branch,
// so the compiler turns a loop over them into AVX2 or AVX-512 code. Accurate to a few units in the
// last place (tests/core/cpu_math_test.cpp). f64, which is for gradient checks, uses the standard
// library.
//
// The coefficients are minimax fits (mpmath.chebyfit) of the functions named beside them.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace dyt::cpu {

// Asks for n numbers that will be read soon. A loop that does much with each number hides little of
// the wait for memory by itself: while some twenty cycles of arithmetic are in flight, no further
// load fits in.
template <class T>
inline void prefetch(const T* x, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(x + i);
}

inline double exp(double x) { return std::exp(x); }
inline double tanh(double x) { return std::tanh(x); }
inline double erf(double x) { return std::erf(x); }

// exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| <= ln 2 / 2.
//
// Adding 1.5 * 2^23 to a number rounds it to an integer, and the integer then stands in the low
// bits of the sum; shifted to where the exponent is, they make a power of two. We let it be
// 2^(n-1), since n = 128 would be too much for one f32, and put the other 2 into the polynomial.
// Below exp(-86.9) = 1.8e-38, near the smallest normal number, the result is 0.
inline float exp(float x) {
  const float low = -86.9f, high = 89.0f;               // exp(89) is infinity in f32
  const float round = 0x1.8p23f + 126;                  // 126: the exponent of 2^-1 in its bits
  const float c = low > x ? low : high < x ? high : x;  // NaN stays
  const float rounded = c * 1.44269504f + round;
  const float n = rounded - round;
  const float r = (c - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  // 2 exp(r)
  float p = 2.785536924e-03f;
  p = p * r + 1.672876139e-02f;
  p = p * r + 8.333309084e-02f;
  p = p * r + 3.333313926e-01f;
  p = p * r + 1.0f;
  p = p * r + 2.0f;
  p = p * r + 2.0f;
  const float result = p * std::bit_cast<float>(std::bit_cast<uint32_t>(rounded) << 23);
  return low > x ? 0.0f : result;
}

// 2^u = power (1 + rest) for -127 <= u <= 0, rest = 2^f - 1 with |f| <= 1/2; power is 0 at -127.
struct PowerOfTwo {
  float power, rest;
};
inline PowerOfTwo power_of_two(float u) {
  const float round = 0x1.8p23f + 127;  // 127: the exponent of 1 in its bits
  const float rounded = u + round;
  const float f = u - (rounded - round);
  float p = 1.545316295e-04f;  // (2^f - 1) / f
  p = p * f + 1.339086336e-03f;
  p = p * f + 9.618082557e-03f;
  p = p * f + 5.550357114e-02f;
  p = p * f + 2.402265076e-01f;
  p = p * f + 6.931471880e-01f;
  return {std::bit_cast<float>(std::bit_cast<uint32_t>(rounded) << 23), p * f};
}

// 2^u for u <= 0, with an error of u 4e-8 of it: for results that matter less the smaller they are.
inline float exp2_of_negative(float u) {
  const PowerOfTwo two = power_of_two(u < -127.0f ? -127.0f : u);  // NaN stays
  return two.power * two.rest + two.power;
}

// tanh(t) = -e / (2 + e) with e = exp(-2 t) - 1, t = |x|. e is exact enough for small x, too: there
// the power of two is 1.
inline float tanh(float x) {
  const float t = std::fabs(x), end = 10.0f;
  const PowerOfTwo two = power_of_two((end < t ? end : t) * -2.885390082f);  // 2 / ln 2
  const float e = two.power * two.rest + (two.power - 1.0f);
  return std::copysign(e / (2.0f + e), x);
}

inline float erf(float x) {
  const float t = std::fabs(x), s = t * t;
  // small: erf(sqrt(s)) / sqrt(s) - 1 on t < 0.95
  float p = 8.204169676e-05f;
  p = p * s - 8.102915561e-04f;
  p = p * s + 5.197487227e-03f;
  p = p * s - 2.685795906e-02f;
  p = p * s + 1.128366947e-01f;
  p = p * s - 3.761263205e-01f;
  p = p * s + 1.283791665e-01f;
  // large: -log2(erfc(t)) / t on 0.9 < t < 3.95, where erf reaches 1 in f32
  const float c = t > 3.95f ? 3.95f : t;
  float q = -4.647016357e-07f;
  q = q * c + 7.748823368e-06f;
  q = q * c - 2.892613522e-05f;
  q = q * c - 3.500330755e-04f;
  q = q * c + 5.156370579e-03f;
  q = q * c - 3.441583333e-02f;
  q = q * c + 1.536394924e-01f;
  q = q * c + 9.160250325e-01f;
  q = q * c + 1.628383251e+00f;
  return std::copysign(t < 0.95f ? t + t * p : 1.0f - exp2_of_negative(-q * c), x);
}

// The standard normal density and distribution: GELU's building blocks.
inline double normal_pdf(double x) { return 0.39894228040143267794 * std::exp(-0.5 * x * x); }
inline float normal_pdf(float x) {
  return 0.3989422804f * exp2_of_negative(-0.7213475204f * x * x);  // 1 / (2 ln 2)
}
inline double normal_cdf(double x) { return 0.5 * std::erfc(x * -0.70710678118654752440); }

// With t = |x|, the tail beyond t is 2^(-t q(t)) / 2. Accurate to 7e-8, about the last place of a
// result in [0.5, 1]; in the lower tail, down to -5.6, relative to 4e-6.
inline float normal_cdf(float x) {
  const float t = std::fabs(x), c = t > 5.6f ? 5.6f : t;
  // q: -log2(2 (1 - Phi(t))) / t on 0 < t < 5.6
  float q = -3.312962247e-09f;
  q = q * c + 1.175043907e-07f;
  q = q * c - 1.856853563e-06f;
  q = q * c + 1.711051842e-05f;
  q = q * c - 9.899112013e-05f;
  q = q * c + 3.300545812e-04f;
  q = q * c - 6.763604125e-05f;
  q = q * c - 6.895162155e-03f;
  q = q * c + 5.242101868e-02f;
  q = q * c + 4.592240305e-01f;
  q = q * c + 1.151104101e+00f;
  const float tail = 0.5f * exp2_of_negative(-q * t);
  return x < 0 ? tail : 1.0f - tail;
}

}  // namespace dyt::cpu
