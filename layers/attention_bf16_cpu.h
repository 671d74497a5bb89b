// Attention on the CPU with products in bf16, which are summed in f32; all else is f32. For
// layers/attention.cu, if this build is for a processor with AVX512-BF16; else attention computes
// in f32.
#pragma once
#include "core/product.h"
#include "layers/attention_cpu.h"

namespace dyt {

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
inline constexpr bool has_attention_in_bf16 = true;
#else
inline constexpr bool has_attention_in_bf16 = false;
#endif
inline bool attends_in_bf16() { return has_attention_in_bf16 && cpu_products() == DType::bf16; }

// As attention_forward_cpu and attention_backward_cpu. Error without the instructions.
void attention_forward_bf16_cpu(Heads<float> y, float* lse, Heads<const float> q,
                                Heads<const float> k, Heads<const float> v,
                                const AttentionShape& shape);
void attention_backward_bf16_cpu(Heads<float> dq, Heads<float> dk, Heads<float> dv, bool add_q,
                                 bool add_kv, Heads<const float> dy, const float* lse,
                                 Heads<const float> q, Heads<const float> k, Heads<const float> v,
                                 const AttentionShape& shape);

}  // namespace dyt
