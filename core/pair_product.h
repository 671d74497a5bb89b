// Matrix products by the processor's own units for bf16: AMX's tiles, or AVX512-BF16's vdpbf16ps.
// For core/product.cpp; everyone else calls what that offers.
#pragma once
#include "core/product.h"

namespace dyt {

// What multiplies: "AMX", "AVX512-BF16", or "" if this build or processor has neither.
const char* pair_product_unit();

// Whether pair_product is worth it for a product of this shape. Its factors may be f32, which are
// rounded, or bf16, each for itself.
bool has_pair_product(const Product& p);
void pair_product(const Product& p, const void* a, const void* b, void* c);

// The same for split_product, which rounds nothing: all are f32, and each number of A and B is
// split into three of bf16. With AMX alone.
bool has_split_product(const Product& p);
void split_product(const Product& p, const void* a, const void* b, void* c);

// For tests: false, and AVX512-BF16 multiplies although there is AMX.
void use_amx(bool wanted);

}  // namespace dyt
