// GELU, SiLU and their derivatives at one x in kernels; gelu.cu, activation.cu and swiglu.cu have
// the mathematics. Only .cu files include this.
//
// At 4 bytes an element, a GPU has time for some 28 instructions (layers/row_norm.h), of which
// loading, rounding and storing take a third. CUDA's erff and expf, and a division, take 10 to 40
// each; these formulas take 8 to 16, with the units for 2^x and 1/x, and are as good to 2e-7.
#pragma once
#include "core/kernel.h"
#include "layers/layers.h"

namespace dyt {

// 1 / (1 + e^-x)
__device__ inline float logistic(float x) { return reciprocal_approx(1.0f + exp_approx(-x)); }

// Phi'(x), the density of the standard normal distribution.
__device__ inline float normal_density(float x) {
  return 0.39894228040143267794f * exp2_approx(-0.5f * log2_e * x * x);
}

// 1 - Phi(|x|) from x and the density: Abramowitz & Stegun 26.2.17, off by less than 7.5e-8.
__device__ inline float normal_tail(float x, float density) {
  const float t = reciprocal_approx(1.0f + 0.2316419f * fabsf(x));
  const float of_t =
      t * (0.319381530f +
           t * (-0.356563782f + t * (1.781477937f + t * (-1.821255978f + t * 1.330274429f))));
  return density * of_t;
}

// Phi(x), the same way.
__device__ inline float normal_distribution(float x, float density) {
  const float tail = normal_tail(x, density);
  return x > 0 ? 1.0f - tail : tail;
}

// 2 sqrt(2 / pi) (x + 0.044715 x^3): GPT-2's formula for Phi is the logistic function of it.
__device__ inline float gpt2_argument(float x) {
  return x * (1.59576912160573071176f + 0.0713548162726f * x * x);
}

template <Gelu kind>
__device__ inline float gelu_in_kernel(float x) {
  if (kind == Gelu::erf) return x * normal_distribution(x, normal_density(x));
  return x * logistic(gpt2_argument(x));
}

template <Gelu kind>
__device__ inline float gelu_slope_in_kernel(float x) {
  if (kind == Gelu::erf) {
    const float density = normal_density(x);
    return normal_distribution(x, density) + x * density;
  }
  const float phi = logistic(gpt2_argument(x));
  return phi + x * phi * (1.0f - phi) * (1.59576912160573071176f + 0.214064448818f * x * x);
}

__device__ inline float silu_in_kernel(float x) { return x * logistic(x); }
__device__ inline float silu_slope_in_kernel(float x) {
  const float s = logistic(x);
  return s * (1.0f + x * (1.0f - s));
}

}  // namespace dyt
