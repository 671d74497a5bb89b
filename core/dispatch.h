// Calls a generic lambda with the number type of a tape's device: f32 or f64 on the cpu, f32 or bf16
// where kernels run. The lambda receives a value of that type and reads `T` off it.
#pragma once
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

}  // namespace dyt
