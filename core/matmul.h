// Matrix products, which, like convolutions on the CPU, we leave to libraries: oneDNN on the CPU
// (BLAS=none: our own loops; with units for bf16: core/pair_product.h), cuBLASLt on the GPU. All
// matrices are row-major and contiguous.
#pragma once
#include "core/device.h"

namespace dyt {

enum class Op { none, transpose };

// C (m, n) = op(A) (m, k) op(B) (k, n) + beta * C, summed in Acc<T>.
// A is stored (m, k), or (k, m) if op_a is transpose; B is stored (k, n), or (n, k) if transposed.
// With beta = 0, C is not read. Types (A and B, C): f32 f32; f64 f64 on the cpu; bf16 bf16 and
// bf16 f32, on the cpu with a beta of 0 or 1. On the cpu, f32 may be multiplied in bf16: see
// set_cpu_products in core/product.h. The same product of the same numbers on the same kind of
// device gives the same bits, run after run.
template <class T, class TC>
void matmul(Device device, Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a,
            const T* b, float beta, TC* c);

// The same on the kernel device with rows of A and C that lie a_row and c_row numbers apart, if
// that is more than they are long. A matrix of odd width is thereby put on rows that 16-byte
// accesses can read: without, products in bf16 are several times slower.
template <class T, class TC>
void matmul_with_rows(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row,
                      const T* b, float beta, TC* c, int64_t c_row);

// What is done to a product, in f32, before it is rounded and written: in the GPU's registers,
// where it costs next to nothing beside a pass over D of its own.
enum class After { nothing, gelu, gelu_slope };
template <class T>
struct Epilogue {
  const T* bias = nullptr;  // (n): added to every row
  const T* add = nullptr;   // (m, n): added; may be D itself
  After after = After::nothing;
  // (m, n). After::gelu, D = gelu(h): where h = product + bias goes, for the backward pass.
  // After::gelu_slope, D = product * gelu'(h): where h is read. GELU is its tanh formula.
  T* h = nullptr;
};

// D (m, n) = op(A) op(B) and an epilogue, on the kernel device, in f32 or bf16. False if the
// library can't, and D is not to be read then: the caller makes separate passes of it. That depends
// on shapes, places and the device, not on the numbers.
template <class T>
bool matmul_with_epilogue(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a, const T* b,
                          T* d, const Epilogue<T>& epilogue);

const char* matmul_library(Device device);  // name and version, for `dyt info`

}  // namespace dyt
