// The squashing functions of squash.h as kernels compute them. Only .cu files include this.
//
// At 4 bytes an element a GPU has time for 28 instructions forward, and at 6 for 43 back
// (docs/performance.md, Instructions), of which loading, rounding, the sums and storing take 8 and
// 20. CUDA's own tanhf, erff, asinhf, and its
// square roots and divisions, take 10 to 40; what follows takes 3 to 15, with the units for 2^x,
// log2(x), 1/x and 1/sqrt(x), and errs by 6e-7 at most, of results around 1.
#pragma once
#include "layers/gelu_kernel.h"
#include "layers/squash.h"

namespace dyt {

template <class Phi>
struct InKernel : Phi {};  // where it says nothing else

template <>
struct InKernel<Tanh> : Tanh {
  __device__ static float value(float z) { return tanh_by_exp(z); }
};
// erf(z) = 2 Phi(sqrt(2) z) - 1, from the normal distribution's tail, as GELU has it. Value and
// slope share the density, which the compiler finds out.
template <>
struct InKernel<Erf> : Erf {
  static constexpr float sqrt2 = 1.41421356237309504880f;
  __device__ static float value(float z) {
    const float x = sqrt2 * z;
    return copysignf(1.0f - 2.0f * normal_tail(x, normal_density(x)), z);
  }
  __device__ static float slope(float z, float) { return 2 * sqrt2 * normal_density(sqrt2 * z); }
};
template <>
struct InKernel<Sigmoid> : Sigmoid {
  __device__ static float value(float z) { return logistic(z); }
};
template <>
struct InKernel<Isru> : Isru {
  __device__ static float value(float z) { return z * reciprocal_sqrt_approx(1.0f + z * z); }
  __device__ static float slope(float z, float) {
    const float r = reciprocal_sqrt_approx(1.0f + z * z);
    return r * r * r;
  }
};
template <>
struct InKernel<ShiftedTanh> : ShiftedTanh {
  __device__ static float value(float z) { return 1.0f + tanh_by_exp(z); }
};
// asinh(z) = log(|z| + sqrt(1 + z^2)), with the sign of z; z^2 stays finite.
template <>
struct InKernel<Arcsinh> : Arcsinh {
  __device__ static float value(float z) {
    const float squared = fminf(1.0f + z * z, 1e38f);
    const float sum = fabsf(z) + squared * reciprocal_sqrt_approx(squared);
    return copysignf(0.69314718055994530942f * log2_approx(sum), z);
  }
  __device__ static float slope(float z, float) {
    return reciprocal_sqrt_approx(fminf(1.0f + z * z, 1e38f));
  }
};
template <>
struct InKernel<Deadzone> : Deadzone {
  __device__ static float value(float z) { return tanh_by_exp(z - fminf(fmaxf(z, -0.5f), 0.5f)); }
};
template <>
struct InKernel<Bump> : Bump {
  __device__ static float value(float z) { return z * exp_approx(-0.5f * z * z); }
  __device__ static float slope(float z, float) {
    return (1.0f - z * z) * exp_approx(-0.5f * z * z);
  }
};

}  // namespace dyt
