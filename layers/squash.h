// The squashing functions of dyt.cu: value(z), and slope(z, value(z)). Each is written once, for
// the CPU (f32 and f64) and for kernels (f32). Only .cu files include this.
#pragma once
#include "core/cpu_math.h"
#include "core/kernel.h"

namespace dyt {

#if defined(__CUDA_ARCH__)
__device__ float tanh_of(float z) { return tanhf(z); }
__device__ float erf_of(float z) { return erff(z); }
__device__ float exp_of(float z) { return exp_approx(z); }
#else
template <class A>
A tanh_of(A z) {
  return cpu::tanh(z);
}
template <class A>
A erf_of(A z) {
  return cpu::erf(z);
}
template <class A>
A exp_of(A z) {
  return cpu::exp(z);
}
#endif

struct Tanh {
  template <class A>
  HOST_DEVICE static A value(A z) {
    return tanh_of(z);
  }
  template <class A>
  HOST_DEVICE static A slope(A, A f) {
    return 1 - f * f;
  }
};
struct Erf {  // Derf, arXiv 2512.10938
  template <class A>
  HOST_DEVICE static A value(A z) {
    return erf_of(z);
  }
  template <class A>
  HOST_DEVICE static A slope(A z, A) {
    return A(1.12837916709551257390) * exp_of(-z * z);  // 2 / sqrt(pi) exp(-z^2)
  }
};
struct Hardtanh {
  template <class A>
  HOST_DEVICE static A value(A z) {
    return z < -1 ? A(-1) : z > 1 ? A(1) : z;
  }
  template <class A>
  HOST_DEVICE static A slope(A z, A) {
    return z > -1 && z < 1 ? A(1) : A(0);
  }
};
struct Sigmoid {
  template <class A>
  HOST_DEVICE static A value(A z) {
    return 1 / (1 + exp_of(-z));
  }
  template <class A>
  HOST_DEVICE static A slope(A, A f) {
    return f * (1 - f);
  }
};
struct Isru {  // inverse square root unit, z / sqrt(1 + z^2)
  template <class A>
  HOST_DEVICE static A value(A z) {
    return z / sqrt(1 + z * z);
  }
  template <class A>
  HOST_DEVICE static A slope(A z, A) {
    const A r = 1 / sqrt(1 + z * z);
    return r * r * r;
  }
};
struct Identity {
  template <class A>
  HOST_DEVICE static A value(A z) {
    return z;
  }
  template <class A>
  HOST_DEVICE static A slope(A, A) {
    return A(1);
  }
};

// What follows has one property less than tanh (arXiv 2512.10938: a good replacement for a norm is
// centred on zero, bounded, sensitive at zero, monotone), and a slope of at most 1 as tanh has.
struct ShiftedTanh {  // not centred: from 0 to 2
  template <class A>
  HOST_DEVICE static A value(A z) {
    return 1 + tanh_of(z);
  }
  template <class A>
  HOST_DEVICE static A slope(A, A f) {
    return f * (2 - f);  // 1 - tanh^2
  }
};
struct Arcsinh {  // not bounded: log(2 |z|) far from zero
  template <class A>
  HOST_DEVICE static A value(A z) {
    return A(asinh(z));
  }
  template <class A>
  HOST_DEVICE static A slope(A z, A) {
    return 1 / sqrt(1 + z * z);
  }
};
struct Deadzone {  // not sensitive: 0 within 1/2 of zero, and tanh from there
  template <class A>
  HOST_DEVICE static A value(A z) {
    const A half = A(0.5);
    return tanh_of(z < -half ? z + half : z > half ? z - half : A(0));
  }
  template <class A>
  HOST_DEVICE static A slope(A z, A f) {
    return z * z > A(0.25) ? 1 - f * f : A(0);
  }
};
struct Bump {  // not monotone: rises to 0.61 at z = 1, and falls to 0 again
  template <class A>
  HOST_DEVICE static A value(A z) {
    return z * exp_of(A(-0.5) * z * z);
  }
  template <class A>
  HOST_DEVICE static A slope(A z, A) {
    return (1 - z * z) * exp_of(A(-0.5) * z * z);
  }
};

}  // namespace dyt
