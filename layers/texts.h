// The ops of models that read texts of different lengths in one batch, or a text and write another:
// the rest of layers.h's page. Shorter texts of a batch end in padding, and `lengths` (B) i32, on
// the tape's device, says how many tokens of each are no padding, at least 1. A length that can't
// be is an Error on the cpu; kernels make that sample's y NaN, or see no more than there is.
#pragma once
#include "layers/layers.h"

namespace dyt {

// --- attention.cu ---
// Attention of texts to themselves, as in layers.h. No query sees a key in the padding; y there is
// finite and means nothing.
Tensor attention(Tape& tape, const Tensor& qkv, const AttentionOptions& options,
                 const Tensor& lengths);

// Queries (B, T_q, heads D) of one text look at another, kv (B, T_k, 2 kv_heads D), keys, then
// values, of which `lengths` (null: all T_k) are no padding. y (B, T_q, heads D). Not causal: there
// is no order between the two.
Tensor cross_attention(Tape& tape, const Tensor& q, const Tensor& kv,
                       const AttentionOptions& options, const Tensor* lengths = nullptr);

// --- sinusoids.cu ---
// y (B, T, C) = factor x + sinusoidal positions first .. first + T - 1
Tensor add_sinusoids(Tape& tape, const Tensor& x, float factor = 1, int64_t first = 0);

}  // namespace dyt
