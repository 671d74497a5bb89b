// Whole tensors on the CPU: from f32 to bf16 and back, and sums of the two.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace dyt {

void round_to_bf16(bf16* to, const float* from, int64_t n);  // to[0..n) = from, rounded
void widen(float* to, const bf16* from, int64_t n);          // to[0..n) = from

// to[0..n) += from: f32 and bf16, either to either, summed in f32; f64 to f64.
template <class To, class From>
void add(To* to, const From* from, int64_t n);

}  // namespace dyt
