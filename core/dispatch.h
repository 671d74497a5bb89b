// From a tensor's number type, known at run time, to a template's T: f32 or f64 on the cpu, f32 or
// bf16 where kernels run. Each calls a generic lambda with a value of that type, which reads T off
// it.
#pragma once
#include <type_traits>

#include "core/error.h"
#include "core/tape.h"

namespace dyt {

template <class F>
void on_cpu(DType dtype, F&& body) {
  if (dtype == DType::f32) return body(float{});
  if (dtype == DType::f64) return body(double{});
  fail("the cpu computes in f32 and f64, not in ", name_of(dtype));
}

template <class F>
void on_gpu(DType dtype, F&& body) {
  if (dtype == DType::f32) return body(float{});
  if (dtype == DType::bf16) return body(bf16{});
  fail("kernels compute in f32 and bf16, not in ", name_of(dtype));
}

// For code that is the same on both sides, but for the functions it calls.
template <class F>
void on_either(const Tape& tape, DType dtype, F&& body) {
  if (tape.on_cpu()) {
    on_cpu(dtype, body);
  } else {
    on_gpu(dtype, body);
  }
}

// The same for ops that the cpu has in bf16, too (layers/activations_bf16.h).
template <class F>
void on_either_with_bf16(const Tape& tape, DType dtype, F&& body) {
  if (tape.on_cpu() && dtype == DType::bf16) return body(bf16{});
  on_either(tape, dtype, body);
}

// The same for a bool: body gets a std::bool_constant.
template <class F>
void with_bool(bool value, F&& body) {
  if (value) return body(std::true_type{});
  body(std::false_type{});
}

template <class T>
inline constexpr bool cpu_computes = !std::is_same_v<T, bf16>;
template <class T>
inline constexpr bool gpu_computes = !std::is_same_v<T, double>;

}  // namespace dyt
