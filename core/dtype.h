// Number types: f32 and f64 on the CPU (f64 is for gradient checks), f32 and bf16 on the GPU.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

// Code that runs on the host, and in kernels when a CUDA compiler reads it.
#if defined(__CUDACC__)
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif

namespace dyt {

// bfloat16: the upper half of an f32. Converts like a number, so that `float v = x[i]` and
// `y[i] = T(v)` read the same in every kernel; arithmetic is done in float.
struct bf16 {
  uint16_t bits;
  bf16() = default;
  HOST_DEVICE explicit bf16(float value) {
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));  // one instruction instead of six
#else
    const uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = uint16_t((u >> 16) | 0x40u);  // keep a NaN a NaN
    } else {
      bits = uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);  // round to nearest, ties to even
    }
#endif
  }
  HOST_DEVICE operator float() const {
#if defined(__CUDA_ARCH__)
    // One instruction (prmt): of a shift nvcc makes two, one of them to get at the 16 bits.
    float value;
    asm("mov.b32 %0, {0, %1};" : "=f"(value) : "h"(bits));
    return value;
#else
    return std::bit_cast<float>(uint32_t(bits) << 16);
#endif
  }
};

enum class DType { f32, f64, bf16, i32 };

template <class T>
struct dtype_of;
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct dtype_of<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct dtype_of<int32_t> {
  static constexpr DType value = DType::i32;
};

inline size_t size_of(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::bf16 ? 2 : 4;
}
const char* name_of(DType dtype);  // "f32", "f64", "bf16", "i32"

// The type that sums, vector parameters (gamma, beta, alpha, bias of norms) and all parameter
// gradients are kept in: f64 for f64, f32 for f32 and bf16.
template <class T>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
template <class T>
using Acc = typename accumulator<T>::type;
inline DType accumulator_of(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

}  // namespace dyt
