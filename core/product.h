// Large f32 matrix products on the CPU, with what is added to them in the same pass: oneDNN's
// primitives. For core/matmul.cu and layers/linear.cu; everyone else calls those.
#pragma once
#include <cstdint>

#include "core/matmul.h"

namespace dyt {

// C (m, n) = A (m, k) op(B) (k, n) + C if `add` + bias (n) + residual (m, n), B stored as for
// matmul; bias and residual may be null. A is never transposed: such a product has few rows, and
// oneDNN might share the sum over k among threads, so that its bits would depend on their number.
struct Product {
  Op op_b;
  int64_t m, n, k;
  bool add = false;
  const float *bias = nullptr, *residual = nullptr;
};

// Whether library_product is there for this product: oneDNN is built in, B is a small matrix beside
// A and C, a weight, so that packing it every time costs next to nothing, and there is enough work
// for some milliseconds of preparation when a shape comes for the first time.
bool has_library_product(const Product& p);
void library_product(const Product& p, const float* a, const float* b, float* c);

}  // namespace dyt
