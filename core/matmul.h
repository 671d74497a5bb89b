// Matrix products, the one thing we leave to libraries: oneDNN on the CPU (BLAS=none: our own
// loops), cuBLASLt on the GPU. All matrices are row-major and contiguous.
#pragma once
#include "core/device.h"

namespace dyt {

enum class Op { none, transpose };

// C (m, n) = op(A) (m, k) op(B) (k, n) + beta * C, summed in Acc<T>.
// A is stored (m, k), or (k, m) if op_a is transpose; B is stored (k, n), or (n, k) if transposed.
// With beta = 0, C is not read. Types (A and B, C): f32 f32; f64 f64 on the cpu; bf16 bf16 and
// bf16 f32, on the cpu with a beta of 0 or 1. On the cpu, f32 may be multiplied in bf16: see
// set_cpu_products in core/product.h.
template <class T, class TC>
void matmul(Device device, Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a,
            const T* b, float beta, TC* c);

const char* matmul_library(Device device);  // name and version, for `dyt info`

}  // namespace dyt
