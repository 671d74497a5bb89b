#include "models/transformer.h"

#include <cmath>

#include "layers/losses.h"
#include "layers/mlp.h"
#include "layers/texts.h"
#include "models/branch.h"

namespace dyt {
namespace {

void check(const TransformerConfig& c) {
  require(c.vocabulary > 0 && c.source_vocabulary >= 0 && c.context > 0 && c.width > 0 &&
              c.depth > 0 && c.heads > 0 && c.hidden >= 0,
          "a Transformer needs a positive vocabulary (", c.vocabulary, "), context (", c.context,
          "), width (", c.width, "), depth (", c.depth, ") and number of heads (", c.heads, ")");
  require(c.width % c.heads == 0, "heads (", c.heads, ") must divide the width (", c.width, ")");
  require(c.width / c.heads >= 16 && c.width / c.heads <= 128,
          "heads of width 16 to 128 are supported, not ", c.width / c.heads, " (width ", c.width,
          " / ", c.heads, " heads)");
  require(c.dropout >= 0 && c.dropout < 1, "dropout must be in [0, 1), not ", c.dropout);
  require(c.norm.kind != NormKind::batchnorm && c.norm.kind != NormKind::groupnorm,
          name_of(c.norm.kind),
          " takes its statistics over all tokens of a text: in the decoder, a token would see "
          "those that follow it, and in both the padding");
}

// Xavier's (Glorot and Bengio, AISTATS 2010), as in paper B: uniform, of variance 2 / (in + out).
Init xavier(int64_t in, int64_t out) { return Init::uniform(std::sqrt(6.0 / double(in + out))); }

}  // namespace

Transformer::Transformer(const TransformerConfig& c, Parameters& parameters) : config_(c) {
  check(c);
  const int64_t C = c.width;
  const Init table = Init::gaussian(1 / std::sqrt(double(C)));
  target_table_ = &parameters.add("target_embedding.weight", {c.vocabulary, C}, table);
  source_table_ = target_table_;
  if (c.source_vocabulary) {
    source_table_ = &parameters.add("source_embedding.weight", {c.source_vocabulary, C}, table);
  }
  if (c.learned_positions) {
    const Shape shape{c.context, C};
    source_position_ =
        &parameters.add("source_position.weight", shape, Init::gaussian(0.02), false);
    target_position_ =
        &parameters.add("target_position.weight", shape, Init::gaussian(0.02), false);
  }
  declare_layers(parameters);
  if (c.norm.placement == Placement::post) {  // its last layers end in a norm
    NormSpec none{.kind = NormKind::none};
    encoder_norm_ = Norm(parameters, "encoder.norm", C, none);
    decoder_norm_ = Norm(parameters, "decoder.norm", C, none);
  } else {
    encoder_norm_ = Norm(parameters, "encoder.norm", C, c.norm);
    decoder_norm_ = Norm(parameters, "decoder.norm", C, c.norm);
  }
}

void Transformer::declare_layers(Parameters& parameters) {
  const int64_t C = config_.width, hidden = config_.hidden_width();
  const auto add = [&](const std::string& weight, const std::string& bias, int64_t in,
                       int64_t out) {
    return Linear{&parameters.add(weight, {out, in}, xavier(in, out)),
                  &parameters.add(bias, {out}, Init::zeros())};
  };
  const auto add_linear = [&](const std::string& name, int64_t in, int64_t out) {
    return add(name + ".weight", name + ".bias", in, out);
  };
  const auto add_attention = [&](auto& layer, const std::string& name) {
    layer.qkv = add(name + ".in_proj_weight", name + ".in_proj_bias", C, 3 * C);
    layer.proj = add_linear(name + ".out_proj", C, C);
  };
  const auto add_feedforward = [&](const std::string& name) {
    const Linear in = add_linear(name + "linear1", C, hidden);
    return Feedforward{in, add_linear(name + "linear2", hidden, C)};
  };
  for (int i = 0; i < config_.depth; ++i) {
    const std::string name = "encoder.layers." + std::to_string(i) + ".";
    EncoderLayer& layer = encoder_.emplace_back();
    add_attention(layer, name + "self_attn");
    layer.mlp = add_feedforward(name);
    layer.norm1 = Norm(parameters, name + "norm1", C, config_.norm);
    layer.norm2 = Norm(parameters, name + "norm2", C, config_.norm);
  }
  for (int i = 0; i < config_.depth; ++i) {
    const std::string name = "decoder.layers." + std::to_string(i) + ".";
    DecoderLayer& layer = decoder_.emplace_back();
    add_attention(layer, name + "self_attn");
    layer.query = add_linear(name + "multihead_attn.q_proj", C, C);
    layer.key_value = add_linear(name + "multihead_attn.kv_proj", C, 2 * C);
    layer.cross_proj = add_linear(name + "multihead_attn.out_proj", C, C);
    layer.mlp = add_feedforward(name);
    layer.norm1 = Norm(parameters, name + "norm1", C, config_.norm);
    layer.norm2 = Norm(parameters, name + "norm2", C, config_.norm);
    layer.norm3 = Norm(parameters, name + "norm3", C, config_.norm);
  }
}

Tensor Transformer::embed(Tape& tape, const Tensor& tokens, const Parameter& table,
                          const Parameter* position, int64_t first) const {
  require(tokens.shape.rank() == 2, "tokens are (B, T), not ", tokens.shape.text());
  require(first + tokens.shape[1] <= config_.context, "a text of ", first + tokens.shape[1],
          " tokens is longer than the model's context of ", config_.context);
  Tensor x = token_embedding(tape, tokens, table, position, nullptr, first);
  if (!position) x = add_sinusoids(tape, x, std::sqrt(float(config_.width)), first);
  return dropout(tape, x, config_.dropout);
}

Tensor Transformer::feedforward(Tape& tape, const Feedforward& mlp, const Tensor& x,
                                const Tensor* residual) const {
  if (config_.gelu) {
    const MlpParameters p{mlp.in.weight, mlp.in.bias, mlp.out.weight, mlp.out.bias};
    return dyt::mlp(tape, x, p, Gelu::erf, residual);
  }
  return mlp.out(tape, relu(tape, mlp.in(tape, x)), residual);
}

Tensor Transformer::encode(Tape& tape, const Texts& source) const {
  const Placement placement = config_.norm.placement;
  Tensor x = embed(tape, source.tokens, *source_table_, source_position_, 0);
  for (const EncoderLayer& layer : encoder_) {
    const auto attend = [&](const Tensor& input, const Tensor* residual) {
      const Tensor qkv = layer.qkv(tape, input);
      return layer.proj(tape, attention(tape, qkv, {.heads = config_.heads}, source.lengths),
                        residual);
    };
    const auto mlp = [&](const Tensor& input, const Tensor* residual) {
      return feedforward(tape, layer.mlp, input, residual);
    };
    x = residual_branch(tape, x, layer.norm1, placement, config_.dropout, attend);
    x = residual_branch(tape, x, layer.norm2, placement, config_.dropout, mlp);
  }
  return encoder_norm_(tape, x);
}

Tensor Transformer::decoder_layer(Tape& tape, size_t i, const Tensor& x, const Tensor* memory,
                                  const Tensor& lengths, TransformerCache* cache) const {
  const DecoderLayer& layer = decoder_[i];
  const AttentionOptions heads{.heads = config_.heads},
      causal{.heads = config_.heads, .causal = true};
  // Padding stands at the end: nothing before it sees it, and nothing in it counts in the loss.
  const auto attend = [&](const Tensor& input, const Tensor* residual) {
    const Tensor qkv = layer.qkv(tape, input);
    const Tensor y = cache ? attention_with_cache(tape, qkv, heads, cache->written(int(i)))
                           : attention(tape, qkv, causal);
    return layer.proj(tape, y, residual);
  };
  // The translations of one text look at it together, as if they were queries of one text.
  const auto look_at_source = [&](const Tensor& input, const Tensor* residual) {
    const Tensor key_value = cache ? cache->source(int(i)) : layer.key_value(tape, *memory);
    const int64_t B = key_value.shape[0];
    const Tensor query = layer.query(tape, input).reshaped({B, input.rows() / B, input.channels()});
    const Tensor y = cross_attention(tape, query, key_value, heads, &lengths);
    return layer.cross_proj(tape, y.reshaped(input.shape), residual);
  };
  const auto mlp = [&](const Tensor& input, const Tensor* residual) {
    return feedforward(tape, layer.mlp, input, residual);
  };
  const Placement placement = config_.norm.placement;
  const float drop = config_.dropout;
  Tensor y = residual_branch(tape, x, layer.norm1, placement, drop, attend);
  y = residual_branch(tape, y, layer.norm2, placement, drop, look_at_source);
  return residual_branch(tape, y, layer.norm3, placement, drop, mlp);
}

Tensor Transformer::decode(Tape& tape, const Tensor& target, const Tensor* memory,
                           const Tensor& lengths, TransformerCache* cache) const {
  Tensor x = embed(tape, target, *target_table_, target_position_, cache ? cache->length() : 0);
  for (size_t i = 0; i < decoder_.size(); ++i) {
    x = decoder_layer(tape, i, x, memory, lengths, cache);
  }
  return decoder_norm_(tape, x);
}

Tensor Transformer::logits(Tape& tape, const Texts& source, const Tensor& target) const {
  const Tensor memory = encode(tape, source);
  return tied_logits(tape, decode(tape, target, &memory, source.lengths, nullptr), *target_table_);
}

Tensor Transformer::loss(Tape& tape, const Texts& source, const Tensor& target,
                         const Tensor& labels, float smoothing) const {
  const Tensor memory = encode(tape, source);
  return tied_head(tape, decode(tape, target, &memory, source.lengths, nullptr), *target_table_,
                   labels, LossOptions{.smoothing = smoothing, .ignores = true});
}

void Transformer::read(Tape& tape, const Texts& source, TransformerCache& cache) const {
  require(source.tokens.shape == Shape({cache.texts_, cache.source_tokens_}), "a cache for ",
          cache.texts_, " texts of ", cache.source_tokens_, " tokens, not for ",
          source.tokens.shape.text());
  const Tensor memory = encode(tape, source);
  for (size_t i = 0; i < decoder_.size(); ++i) {
    const Tensor key_value = decoder_[i].key_value(tape, memory);
    copy_on_device(tape.device(), cache.sources_[i].data(), key_value.data, cache.source_bytes_);
  }
  copy_on_device(tape.device(), cache.lengths_.data(), source.lengths.data,
                 size_t(cache.texts_) * sizeof(int32_t));
  cache.length_ = 0;
}

Tensor Transformer::next(Tape& tape, const Tensor& tokens, TransformerCache& cache) const {
  const int64_t translations = cache.texts_ * cache.beams_;
  require(tokens.size() == translations, translations, " translations need a token each, not ",
          tokens.size());
  const Tensor lengths{{cache.texts_}, DType::i32, cache.lengths_.data(), nullptr};
  const Tensor x = decode(tape, tokens.reshaped({translations, 1}), nullptr, lengths, &cache);
  ++cache.length_;
  return tied_logits(tape, x.reshaped({translations, x.channels()}), *target_table_);
}

// Of every layer: keys and values of the source, packed; keys, then values of the translations,
// each (texts * beams, capacity, C).
TransformerCache::TransformerCache(const TransformerConfig& c, Device device, DType dtype,
                                   int64_t texts, int64_t beams, int64_t source_tokens,
                                   int64_t tokens)
    : device_(device),
      dtype_(dtype),
      texts_(texts),
      beams_(beams),
      source_tokens_(source_tokens),
      capacity_(tokens),
      width_(c.width),
      source_bytes_(size_t(texts * source_tokens * 2 * c.width) * size_of(dtype)),
      written_bytes_(size_t(texts * beams * tokens * 2 * c.width) * size_of(dtype)),
      lengths_(device, size_t(texts) * sizeof(int32_t)) {
  for (int i = 0; i < c.depth; ++i) {
    sources_.emplace_back(device, source_bytes_);
    written_.emplace_back(device, written_bytes_);
    if (beams > 1) spare_.emplace_back(device, written_bytes_);
  }
}

KeyValueCache TransformerCache::written(int layer) const {
  char* const keys = static_cast<char*>(written_[size_t(layer)].data());
  return {keys, keys + written_bytes_ / 2, capacity_, length_};
}

Tensor TransformerCache::source(int layer) const {
  return {{texts_, source_tokens_, 2 * width_}, dtype_, sources_[size_t(layer)].data(), nullptr};
}

void TransformerCache::reorder(const std::vector<int32_t>& parents) {
  const size_t translations = size_t(texts_ * beams_), row = written_bytes_ / 2 / translations;
  require(parents.size() == translations, translations, " translations need a parent each, not ",
          parents.size());
  const size_t used = size_t(length_ * width_) * size_of(dtype_);
  for (size_t layer = 0; beams_ > 1 && layer < written_.size(); ++layer) {
    const auto* const from = static_cast<const char*>(written_[layer].data());
    auto* const to = static_cast<char*>(spare_[layer].data());
    for (size_t n = 0; n < 2 * translations; ++n) {  // keys, then values
      const size_t parent = size_t(parents[n % translations]) + n / translations * translations;
      copy_on_device(device_, to + n * row, from + parent * row, used);
    }
    std::swap(written_[layer], spare_[layer]);
  }
}

}  // namespace dyt
