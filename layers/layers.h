// Every op there is, on one page. An op computes its output, and records on the tape how to compute
// its gradients. B is the batch, T tokens, C channels, H W an image's height and width (NHWC).
// Shapes are written (B, T, C); an op that works on rows accepts any shape ending in C.
// All throw dyt::Error if shapes don't fit, naming both.
#pragma once
#include "core/parameters.h"
#include "core/tape.h"

namespace dyt {

// --- dyt.cu: Dynamic Tanh and its family, y = gamma * phi(alpha x + shift) + beta ----------------
enum class Squash { tanh, erf, hardtanh, sigmoid, isru, identity };
struct DytParameters {
  const Parameter* alpha = nullptr;  // (1); null: 1, not learned
  const Parameter* shift = nullptr;  // (1); null: 0
  const Parameter* gamma = nullptr;  // (C); null: 1
  const Parameter* beta = nullptr;   // (C); null: 0
};
Tensor dyt(Tape& tape, const Tensor& x, const DytParameters& p, Squash squash = Squash::tanh);

// --- layernorm.cu: y = (x - mean) / sqrt(variance + epsilon) * gamma + beta over the last dimension -
Tensor layernorm(Tape& tape, const Tensor& x, const Parameter* gamma, const Parameter* beta,
                 float epsilon);

// --- gelu.cu: x times the normal distribution function, exactly (erf) or by GPT-2's tanh formula ---
enum class Gelu { erf, tanh };
Tensor gelu(Tape& tape, const Tensor& x, Gelu kind = Gelu::erf);

// --- linear.cu: y (..., Cout) = x (..., Cin) weight' + bias; weight (Cout, Cin) as in PyTorch -------
// With `residual` (..., Cout), y = residual + x weight' + bias. bias may be null.
Tensor linear(Tape& tape, const Tensor& x, const Parameter& weight, const Parameter* bias,
              const Tensor* residual = nullptr);
// gelu(linear(x)), with bias and GELU in one pass over the data.
Tensor linear_gelu(Tape& tape, const Tensor& x, const Parameter& weight, const Parameter& bias,
                   Gelu kind = Gelu::erf);

// --- attention.cu: multi-head attention, softmax(q k' / sqrt(head width)) v ------------------------
// qkv (B, T, (heads + 2 kv_heads) D) holds, per token, the queries of all heads, then the keys, then
// the values; y (B, T, heads D). kv_heads = 0 means as many as heads; fewer: each key and value head
// serves heads / kv_heads query heads. D is 16 to 128. causal: token t sees tokens 0..t.
struct AttentionOptions {
  int heads = 1;
  int kv_heads = 0;
  bool causal = false;
};
Tensor attention(Tape& tape, const Tensor& qkv, const AttentionOptions& options);

// --- residual.cu: y = x + f, or with stochastic depth y = x + f * keep(b) / (1 - drop) -------------
// drop: the probability that a sample (index along the first dimension) skips f; only in training.
Tensor residual_add(Tape& tape, const Tensor& x, const Tensor& f, float drop = 0);

// --- embedding.cu: images to tokens ----------------------------------------------------------------
// images (B, H, W, C) f32 (f64 in f64 runs); weight (D, C, P, P) and bias (D) as in PyTorch;
// y (B, H/P * W/P, D).
Tensor patch_embedding(Tape& tape, const Tensor& images, const Parameter& weight,
                       const Parameter& bias);
// y (B, T', C) = [class_token; x] + position: T' = T + 1 with class_token (1, 1, C), else T;
// position (1, T', C).
Tensor add_position(Tape& tape, const Tensor& x, const Parameter* class_token,
                    const Parameter& position);

// --- pool.cu: tokens to one vector per sample: (B, T, C) to (B, C) ---------------------------------
Tensor mean_pool(Tape& tape, const Tensor& x, int64_t skip = 0);  // mean over tokens skip..T-1
Tensor take_token(Tape& tape, const Tensor& x, int64_t token);

// --- cross_entropy.cu ------------------------------------------------------------------------------
// The mean over rows of the cross-entropy between softmax(logits) (rows, K) and the labels (rows)
// i32, smoothed: (1 - s) on the label plus s / K on every class. One number, f32 (f64 in f64 runs).
Tensor cross_entropy(Tape& tape, const Tensor& logits, const Tensor& labels, float smoothing = 0);

}  // namespace dyt
