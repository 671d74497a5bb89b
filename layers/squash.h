// The squashing functions of dyt.cu: value(z), and slope(z, value(z)), for the CPU (f32 and f64).
// Kernels take squash_kernel.h's, and from here what is marked for them.
#pragma once
#include <cmath>

#include "core/cpu_math.h"
#include "core/dtype.h"

namespace dyt {

struct Tanh {
  template <class A>
  static A value(A z) {
    return cpu::tanh(z);
  }
  template <class A>
  HOST_DEVICE static A slope(A, A f) {
    return 1 - f * f;
  }
};
struct Erf {  // Derf, arXiv 2512.10938
  template <class A>
  static A value(A z) {
    return cpu::erf(z);
  }
  template <class A>
  static A slope(A z, A) {
    return A(1.12837916709551257390) * cpu::exp(-z * z);  // 2 / sqrt(pi) exp(-z^2)
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
  static A value(A z) {
    return 1 / (1 + cpu::exp(-z));
  }
  template <class A>
  HOST_DEVICE static A slope(A, A f) {
    return f * (1 - f);
  }
};
struct Isru {  // inverse square root unit, z / sqrt(1 + z^2)
  template <class A>
  static A value(A z) {
    return z / std::sqrt(1 + z * z);
  }
  template <class A>
  static A slope(A z, A) {
    const A r = 1 / std::sqrt(1 + z * z);
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
  static A value(A z) {
    return 1 + cpu::tanh(z);
  }
  template <class A>
  HOST_DEVICE static A slope(A, A f) {
    return f * (2 - f);  // 1 - tanh^2
  }
};
struct Arcsinh {  // not bounded: log(2 |z|) far from zero
  template <class A>
  static A value(A z) {
    return A(std::asinh(z));
  }
  template <class A>
  static A slope(A z, A) {
    return 1 / std::sqrt(1 + z * z);
  }
};
struct Deadzone {  // not sensitive: 0 within 1/2 of zero, and tanh from there
  template <class A>
  static A value(A z) {
    const A half = A(0.5);
    return cpu::tanh(z < -half ? z + half : z > half ? z - half : A(0));
  }
  template <class A>
  HOST_DEVICE static A slope(A z, A f) {
    return z * z > A(0.25) ? 1 - f * f : A(0);
  }
};
struct Bump {  // not monotone: rises to 0.61 at z = 1, and falls to 0 again
  template <class A>
  static A value(A z) {
    return z * cpu::exp(A(-0.5) * z * z);
  }
  template <class A>
  static A slope(A z, A) {
    return (1 - z * z) * cpu::exp(A(-0.5) * z * z);
  }
};

}  // namespace dyt
