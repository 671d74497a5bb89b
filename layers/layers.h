// Most ops, on one page; the others are in convolutions.h, mlp.h, norm_free.h, losses.h, texts.h
// and unfused.h. An op computes its output, and records on the tape how to compute its gradients. B
// is the batch, T tokens, C channels, H W an image's height and width (NHWC). Shapes are written
// (B, T, C); an op that works on rows accepts any shape ending in C.
// All throw dyt::Error if shapes don't fit, naming both.
#pragma once
#include "core/parameters.h"
#include "core/tape.h"

namespace dyt {

// --- dyt.cu ---
// Dynamic Tanh and its family: y = gamma * phi(alpha x + shift) + beta.
enum class Squash {
  tanh,
  erf,
  hardtanh,
  sigmoid,
  isru,
  identity,
  // tanh with one of the properties broken that a good replacement for a norm has (experiment 16)
  shifted_tanh,  // 1 + tanh(z): not centred on zero
  arcsinh,       // not bounded
  deadzone,      // tanh(z -+ 1/2), and 0 where |z| < 1/2: not sensitive at zero
  bump           // z exp(-z^2 / 2): not monotone
};
struct DytParameters {
  const Parameter* alpha = nullptr;  // (1); null: 1, not learned
  const Parameter* shift = nullptr;  // (1); null: 0
  const Parameter* gamma = nullptr;  // (C); null: 1
  const Parameter* beta = nullptr;   // (C); null: 0
};
Tensor dyt(Tape& tape, const Tensor& x, const DytParameters& p, Squash squash = Squash::tanh);

// --- layernorm.cu ---
// y = (x - mean) / sqrt(variance + epsilon) * gamma + beta over the last dimension.
Tensor layernorm(Tape& tape, const Tensor& x, const Parameter* gamma, const Parameter* beta,
                 float epsilon);

// --- gelu.cu ---
// x times the normal distribution function, exactly (erf) or by GPT-2's tanh formula.
enum class Gelu { erf, tanh };
Tensor gelu(Tape& tape, const Tensor& x, Gelu kind = Gelu::erf);

// --- linear.cu ---
// y (..., Cout) = x (..., Cin) weight' + bias; weight (Cout, Cin) as in PyTorch, bias may be null.
// With `residual` (..., Cout), y = residual + x weight' + bias.
Tensor linear(Tape& tape, const Tensor& x, const Parameter& weight, const Parameter* bias,
              const Tensor* residual = nullptr);
// gelu(linear(x)), with bias and GELU in one pass over the data.
Tensor linear_gelu(Tape& tape, const Tensor& x, const Parameter& weight, const Parameter& bias,
                   Gelu kind = Gelu::erf);

// --- attention.cu ---
// Multi-head attention, softmax(q k' / sqrt(D)) v, D the width of a head, 16 to 128. qkv (B, T,
// (heads + 2 kv_heads) D) holds, per token, the queries of all heads, then the keys, then the
// values; y (B, T, heads D). kv_heads = 0 means as many as heads; fewer: each key and value head
// serves heads / kv_heads query heads. causal: token t sees tokens 0..t.
struct AttentionOptions {
  int heads = 1;
  int kv_heads = 0;
  bool causal = false;
};
Tensor attention(Tape& tape, const Tensor& qkv, const AttentionOptions& options);

// --- residual.cu ---
// y = x + f, or with stochastic depth y = x + f * keep(b) / (1 - drop). drop: the probability that
// a sample (index along the first dimension) skips f; only in training.
Tensor residual_add(Tape& tape, const Tensor& x, const Tensor& f, float drop = 0);

// --- embedding.cu ---
// Images to tokens: images (B, H, W, C) f32 (f64 in f64 runs); weight (D, C, P, P) and bias (D) as
// in PyTorch; y (B, H/P * W/P, D).
Tensor patch_embedding(Tape& tape, const Tensor& images, const Parameter& weight,
                       const Parameter& bias);
// y (B, T', C) = [class_token; x] + position: T' = T + 1 with class_token (1, 1, C), else T;
// position (1, T', C).
Tensor add_position(Tape& tape, const Tensor& x, const Parameter* class_token,
                    const Parameter& position);

// --- pool.cu ---
// Tokens to one vector per sample: (B, T, C) to (B, C).
Tensor mean_pool(Tape& tape, const Tensor& x, int64_t skip = 0);  // mean over tokens skip..T-1
Tensor take_token(Tape& tape, const Tensor& x, int64_t token);

// --- cross_entropy.cu ---
// The mean over rows of the cross-entropy between softmax(logits) (rows, K) and the labels (rows)
// i32, smoothed: (1 - s) on the label plus s / K on every class. One number, f32 (f64 in f64 runs).
// A label outside 0..K-1 is an Error on the cpu; kernels make the loss and its row's gradient NaN.
Tensor cross_entropy(Tape& tape, const Tensor& logits, const Tensor& labels, float smoothing = 0);

// --- token_embedding.cu ---
// y (B, T, C) = scale weight[token] + position[first + t]; tokens (B, T) i32; weight (V, C);
// position (P, C), P >= first + T, or null; scale (1), learned, or null: 1.
Tensor token_embedding(Tape& tape, const Tensor& tokens, const Parameter& weight,
                       const Parameter* position = nullptr, const Parameter* scale = nullptr,
                       int64_t first = 0);

// --- rope.cu ---
// Rotary position embedding of the queries and keys in a packed qkv, as attention takes it. In
// every head, numbers i and i + D/2 of token t turn by the angle (first + t) theta^(-2i/D).
Tensor rope(Tape& tape, const Tensor& qkv, const AttentionOptions& heads, double theta = 10000,
            int64_t first = 0);

// --- swiglu.cu ---
// y (..., C) = silu(gate) up from [gate, up] (..., 2 C); silu(x) = x / (1 + exp(-x)).
Tensor swiglu(Tape& tape, const Tensor& gate_up);

// --- dropout.cu ---
// y = x keep / (1 - drop), each number kept with probability 1 - drop; in training.
Tensor dropout(Tape& tape, const Tensor& x, float drop);

// --- tied_head.cu ---
// The output of a language model, its weight (V, C) the token embedding or its own. tied_head: the
// mean over rows of the cross-entropy between softmax(x weight') and labels (rows) i32, one number,
// f32 (f64 in f64 runs). Never more than chunk_rows rows of logits exist; 0: as many as make a good
// product.
Tensor tied_head(Tape& tape, const Tensor& x, const Parameter& weight, const Tensor& labels,
                 int64_t chunk_rows = 0);
Tensor tied_logits(Tape& tape, const Tensor& x, const Parameter& weight);  // (..., V) = x weight'

// --- attention.cu, of a text that grows ---
// Attention of a text's next T tokens to themselves and to the `past` ones before, whose keys and
// values are in a cache, (B, capacity, kv_heads D) each, on the tape's device in its number type;
// those of the new tokens are added to it. Causal; no gradient.
struct KeyValueCache {
  void *keys = nullptr, *values = nullptr;
  int64_t capacity = 0, past = 0;  // tokens
};
Tensor attention_with_cache(Tape& tape, const Tensor& qkv, const AttentionOptions& options,
                            const KeyValueCache& cache);

// --- rmsnorm.cu ---
// y = x / sqrt(mean of x^2 + epsilon) * gamma over the last dimension.
Tensor rmsnorm(Tape& tape, const Tensor& x, const Parameter* gamma, float epsilon);

// --- batchnorm.cu ---
// y = gamma * (x - mean) / sqrt(variance + epsilon) + beta for each channel of (..., C), mean and
// variance over everything but C: of this batch in training, which needs more than one row, else
// the running ones. Training also moves those: (1 - momentum) * old + momentum * new, with the
// unbiased variance, and counts the batch.
struct BatchnormParameters {
  const Parameter* gamma = nullptr;               // (C); null: 1
  const Parameter* beta = nullptr;                // (C); null: 0
  const ModelBuffer* running_mean = nullptr;      // (C)
  const ModelBuffer* running_variance = nullptr;  // (C)
  const ModelBuffer* batches = nullptr;           // (1); null: not counted
};
struct BatchnormOptions {
  float epsilon = 1e-5f;
  float momentum = 0.1f;
  bool frozen = false;  // true: training, too, takes the running statistics, and leaves them alone
  bool relu = false;    // true: y = max(0, ...), without a pass of its own
};
Tensor batchnorm(Tape& tape, const Tensor& x, const BatchnormParameters& p,
                 const BatchnormOptions& options = {});

// --- groupnorm.cu ---
// The same for each sample of x (B, ..., C), over its rows and the C / groups channels of a group;
// no running statistics. gamma and beta (C) may be null.
Tensor groupnorm(Tape& tape, const Tensor& x, int groups, const Parameter* gamma,
                 const Parameter* beta, float epsilon);

// --- activation.cu ---
// relu: max(0, x), or max(0, x + residual). silu: x / (1 + exp(-x)).
Tensor relu(Tape& tape, const Tensor& x, const Tensor* residual = nullptr);
Tensor silu(Tape& tape, const Tensor& x);

// --- layer_scale.cu ---
// y (..., C) = gamma * x, or residual + gamma * x.
Tensor layer_scale(Tape& tape, const Tensor& x, const Parameter& gamma,
                   const Tensor* residual = nullptr);

// --- cross_entropy_soft.cu ---
// The same loss with soft targets (rows, K) f32, as mixup makes them: the mean over rows of -sum
// over k of targets(k) log softmax(logits)(k). Labels are smoothed beforehand.
Tensor cross_entropy_soft(Tape& tape, const Tensor& logits, const Tensor& targets);

}  // namespace dyt
