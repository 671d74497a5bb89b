// The encoder-decoder Transformer ("Attention Is All You Need", arXiv 1706.03762): it reads a text
// and writes another, e.g. its translation. With Post-LN, as published, or Pre-LN (arXiv
// 2002.04745), which has one more norm after the encoder and one after the decoder.
#pragma once
#include <string>
#include <vector>

#include "layers/norm.h"

namespace dyt {

struct TransformerConfig {
  int vocabulary = 256;            // of what is written
  int source_vocabulary = 0;       // of what is read; 0: the same words, and one embedding for both
  int context = 128;               // tokens of a text, at most
  int width = 256, depth = 6;      // layers of the encoder, and as many of the decoder
  int heads = 4, hidden = 0;       // hidden, of the feed-forward layers; 0: 4 width
  bool gelu = false;               // in the feed-forward layers; else ReLU
  bool learned_positions = false;  // else sinusoidal, and embeddings times sqrt(width)
  float dropout = 0;  // of the embeddings and of what each branch adds; attention has none
  NormSpec norm = {.epsilon = 1e-5f};

  int hidden_width() const { return hidden ? hidden : 4 * width; }
};

// Texts in a batch: the shorter ones end in padding, tokens of any value.
struct Texts {
  Tensor tokens;   // (B, S) i32
  Tensor lengths;  // (B) i32, 1 to S each
};

// What a decoder keeps of the texts that it translates, so that it reads each token only once: keys
// and values of every layer, of the source and of what has been written. For each of `texts`
// sources there are `beams` translations in the making; translation n is of text n / beams.
class TransformerCache {
 public:
  // source_tokens: of the longest text; tokens: of the longest translation.
  TransformerCache(const TransformerConfig& config, Device device, DType dtype, int64_t texts,
                   int64_t beams, int64_t source_tokens, int64_t tokens);
  int64_t length() const { return length_; }  // tokens of every translation so far
  // Translation n goes on from where translation parents[n] is.
  void reorder(const std::vector<int32_t>& parents);

 private:
  friend class Transformer;
  KeyValueCache written(int layer) const;
  Tensor source(int layer) const;  // (texts, source_tokens, 2 C)

  Device device_;
  DType dtype_;
  int64_t texts_, beams_, source_tokens_, capacity_, width_, length_ = 0;
  size_t source_bytes_, written_bytes_;  // of one layer
  std::vector<Buffer> sources_, written_, spare_;
  Buffer lengths_;
};

class Transformer {
 public:
  // Declares the parameters, under the names of PyTorch's nn.Transformer; the decoder's
  // multihead_attn is q_proj, kv_proj and out_proj. Error if the configuration can't be.
  Transformer(const TransformerConfig& config, Parameters& parameters);

  // target (B, T) i32: what the decoder has written so far. All throw Error for texts longer than
  // the context. Logits of the token that follows each: (B, T, vocabulary).
  Tensor logits(Tape& tape, const Texts& source, const Tensor& target) const;
  // Mean cross-entropy, in nats per token, of predicting labels (B, T), smoothed as in
  // layers/losses.h; the label -1, of padding, doesn't count.
  Tensor loss(Tape& tape, const Texts& source, const Tensor& target, const Tensor& labels,
              float smoothing = 0) const;

  // For a tape that isn't training: reads the texts, then writes token by token. tokens (texts *
  // beams) i32, the last of every translation; logits (texts * beams, vocabulary) of the next.
  void read(Tape& tape, const Texts& source, TransformerCache& cache) const;
  Tensor next(Tape& tape, const Tensor& tokens, TransformerCache& cache) const;

  const TransformerConfig& config() const { return config_; }

 private:
  struct Linear {
    const Parameter *weight, *bias;
    Tensor operator()(Tape& tape, const Tensor& x, const Tensor* residual = nullptr) const {
      return linear(tape, x, *weight, bias, residual);
    }
  };
  struct Feedforward {
    Linear in, out;
  };
  struct EncoderLayer {
    Linear qkv, proj;
    Feedforward mlp;
    Norm norm1, norm2;
  };
  struct DecoderLayer {
    Linear qkv, proj, query, key_value, cross_proj;
    Feedforward mlp;
    Norm norm1, norm2, norm3;
  };
  void declare_layers(Parameters& parameters);
  Tensor embed(Tape& tape, const Tensor& tokens, const Parameter& table, const Parameter* position,
               int64_t first) const;
  Tensor feedforward(Tape& tape, const Feedforward& mlp, const Tensor& x,
                     const Tensor* residual) const;
  Tensor encode(Tape& tape, const Texts& source) const;  // (B, S, C)
  Tensor decoder_layer(Tape& tape, size_t i, const Tensor& x, const Tensor* memory,
                       const Tensor& lengths, TransformerCache* cache) const;
  // (B, T, C), from the encoder's output or from a cache.
  Tensor decode(Tape& tape, const Tensor& target, const Tensor* memory, const Tensor& lengths,
                TransformerCache* cache) const;

  TransformerConfig config_;
  const Parameter *source_table_, *target_table_;
  const Parameter *source_position_ = nullptr, *target_position_ = nullptr;
  std::vector<EncoderLayer> encoder_;
  std::vector<DecoderLayer> decoder_;
  Norm encoder_norm_, decoder_norm_;
};

}  // namespace dyt
