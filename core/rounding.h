// From f32 to bf16 and back, whole tensors at a time, on the CPU.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace dyt {

void round_to_bf16(bf16* to, const float* from, int64_t n);  // to[0..n) = from, rounded
void widen(float* to, const bf16* from, int64_t n);          // to[0..n) = from

// to[0..n) += from, summed in f32.
void add(bf16* to, const bf16* from, int64_t n);
void add(bf16* to, const float* from, int64_t n);
void add(float* to, const bf16* from, int64_t n);
void add(float* to, const float* from, int64_t n);

}  // namespace dyt
