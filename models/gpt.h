// Language models: GPT-2 ("Language Models are Unsupervised Multitask Learners", 2019) and LLaMA
// (arXiv 2302.13971), which differ in a dozen lines of one page.
//
//                 gpt2                               llama
//   positions     learned, added to the tokens       turned into queries and keys (RoPE)
//   norm          LayerNorm                          RMSNorm
//   feed-forward  GELU, 4 x width                    SwiGLU, 8/3 x width
//   biases        everywhere                         nowhere
//   head          the token embedding                a matrix of its own (or tied = true)
//
// With DyT (arXiv 2503.10622) a LLaMA has no beta, and a learned factor on its embeddings.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "layers/norm.h"

namespace dyt {

enum class GPTStyle { gpt2, llama };

struct GPTConfig {
  GPTStyle style = GPTStyle::gpt2;
  int vocabulary = 256;
  int context = 128;  // tokens a prediction can look back on, and positions that gpt2 learns
  int width = 192;
  int depth = 6;
  int heads = 6;
  int kv_heads = 0;   // 0: as many as heads; fewer: grouped-query attention
  int hidden = 0;     // of the feed-forward layers; 0: 4 width; llama: 8/3 width, up to a full 32
  bool tied = true;   // the head's matrix is the token embedding
  float dropout = 0;  // of the embeddings and of what each branch adds; attention has none
  double rope_theta = 10000;
  NormSpec norm = {.epsilon = 1e-5f};  // its `bias` is set by the style; alpha0: see below
  float alpha0_attention = 0;  // where DyT's alpha starts before attention, if not at norm.alpha0
  std::optional<bool> embedding_scale = {};  // default: in a llama with DyT or one of its family
  // false: every token sees all others, as in BERT (arXiv 1810.04805). The last word of the
  // vocabulary is then the mask, and training hides tokens instead of asking for the next ones.
  bool causal = true;

  int hidden_width() const;
  int head_width() const { return width / heads; }
  int qkv_width() const { return (heads + 2 * (kv_heads ? kv_heads : heads)) * head_width(); }
  bool scales_embedding() const;
};

// At byte level: "gpt_char", "llama_char" (6 layers of 192, 128 tokens), "bert_char" (the first,
// not causal, with a mask); with GPT-2's vocabulary: "gpt2_124m", "gpt2_355m", "gpt2_774m",
// "gpt2_1.5b"; with LLaMA's: "llama_60m", "llama_130m", "llama_350m". Error listing them for any
// other name.
GPTConfig gpt_preset(const std::string& name);
const std::vector<std::string>& gpt_presets();

// Where DyT's alpha starts in a language model of this width, {before attention, elsewhere}: the
// values that the authors of arXiv 2503.10622 tuned, of the nearest width.
std::pair<float, float> tuned_alpha0(int width);

// Keys and values of the tokens a model has read, so that it reads each only once (`GPT::next`).
class GPTCache {
 public:
  GPTCache(const GPTConfig& config, Device device, DType dtype, int64_t batch = 1);
  int64_t length() const { return length_; }  // tokens in it
  void clear() { length_ = 0; }

 private:
  friend class GPT;
  KeyValueCache layer(int i) const;
  int64_t capacity_, length_ = 0;
  size_t bytes_;  // of the keys of one layer
  Buffer memory_;
};

class GPT {
 public:
  // Declares the parameters; Error if the configuration can't be.
  GPT(const GPTConfig& config, Parameters& parameters);

  // tokens (B, T) i32, T <= context. All throw Error for a longer text.
  Tensor logits(Tape& tape, const Tensor& tokens) const;  // (B, T, V)
  // Mean cross-entropy, in nats per token, of predicting labels (B, T): the tokens that follow, or,
  // if it isn't causal, those that were hidden, -1 elsewhere.
  Tensor loss(Tape& tape, const Tensor& tokens, const Tensor& labels) const;
  // Logits (B, V) of what follows the last of these tokens, which follow those in the cache; they
  // are added to it. For a tape that isn't training, and a model that is causal.
  Tensor next(Tape& tape, const Tensor& tokens, GPTCache& cache) const;

  const GPTConfig& config() const { return config_; }

 private:
  struct Block {
    Norm norm1, norm2;
    const Parameter *qkv_weight, *qkv_bias = nullptr, *proj_weight, *proj_bias = nullptr;
    const Parameter *in_weight, *in_bias = nullptr, *out_weight, *out_bias = nullptr;
  };
  void declare_gpt2(Parameters& parameters);
  void declare_llama(Parameters& parameters);
  NormSpec norm_spec(bool before_attention) const;
  Tensor hidden(Tape& tape, const Tensor& tokens, GPTCache* cache) const;  // (B, T, C)
  Tensor block_forward(Tape& tape, int i, const Tensor& x, GPTCache* cache) const;
  Tensor attention_branch(Tape& tape, int i, const Tensor& x, const Tensor* residual,
                          GPTCache* cache) const;
  Tensor mlp_branch(Tape& tape, int i, const Tensor& x, const Tensor* residual) const;

  GPTConfig config_;
  const Parameter *token_, *position_ = nullptr, *scale_ = nullptr, *head_;
  std::vector<Block> blocks_;
  Norm norm_;
};

}  // namespace dyt
