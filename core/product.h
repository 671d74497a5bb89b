// Large matrix products on the CPU, with what is added to them in the same pass: oneDNN's
// primitives, or core/pair_product.h. For ops that fuse something with a product; others call
// core/matmul.h.
#pragma once
#include <cstdint>

#include "core/matmul.h"

namespace dyt {

// What products of f32 matrices multiply in on the CPU: f32, or bf16 with sums in f32, in about
// half the time. Weights and gradients stay f32. It is a setting of the whole process, as PyTorch's
// set_float32_matmul_precision is, and f32 at the start. Error if the type is another.
void set_cpu_products(DType type);
DType cpu_products();

// Sets it for a while.
class CpuProductsIn {
 public:
  explicit CpuProductsIn(DType type) : before_(cpu_products()) { set_cpu_products(type); }
  ~CpuProductsIn() { set_cpu_products(before_); }
  CpuProductsIn(const CpuProductsIn&) = delete;
  CpuProductsIn& operator=(const CpuProductsIn&) = delete;

 private:
  DType before_;
};

// C (m, n) = op(A) (m, k) op(B) (k, n) + C if `add` + bias (n) + residual (m, n), A and B stored as
// for matmul; bias and residual are f32 and may be null. With A in bf16, the factors are multiplied
// in bf16 and summed in f32: B may be f32, and is rounded first, and C is f32 or, without a
// residual, bf16. With A in f32, all are.
struct Product {
  Op op_a = Op::none, op_b = Op::none;
  int64_t m, n, k;
  bool add = false;
  const float *bias = nullptr, *residual = nullptr;
  DType a = DType::f32, b = DType::f32, c = DType::f32;
};

// Whether library_product is there for this product of f32 matrices: oneDNN is built in, B is a
// small matrix beside A and C, a weight, so that packing it every time costs next to nothing, and
// there is enough work for some milliseconds of preparation when a shape comes for the first time.
// A must not be transposed: such a product has few rows, and oneDNN might share the sum over k
// among threads, so that its bits would depend on their number. (Without AVX-512, on AVX2 or
// arm64, they do in some shapes anyway: there oneDNN 2.6 multiplies by other code.)
bool has_library_product(const Product& p);
void library_product(const Product& p, const void* a, const void* b, void* c);

// A product of f32 matrices with what is added to it in one pass, by AMX (core/pair_product.h) or
// the library; false, and nothing is done, where there is neither, or it wouldn't pay.
bool product_in_one_pass(const Product& p, const float* a, const float* b, float* c);

// A product with A in bf16, of any size, on every processor: where there are instructions for it
// (AMX, AVX512-BF16), with them, by core/pair_product.h or oneDNN; elsewhere the factors, rounded
// to bf16, are multiplied as f32.
void product_in_bf16(const Product& p, const void* a, const void* b, void* c);
bool has_bf16_instructions();

// A product of f32 matrices, rounded to bf16 first; or, with cheap_rounding, on their way into the
// processor's unit, which takes no pass of its own.
void product_rounded_to_bf16(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const float* a,
                             const float* b, float beta, float* c);
bool cheap_rounding();

}  // namespace dyt
