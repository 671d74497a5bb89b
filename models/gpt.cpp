#include "models/gpt.h"

#include <cmath>
#include <tuple>

#include "layers/losses.h"
#include "layers/mlp.h"
#include "models/branch.h"
#include "models/presets.h"

namespace dyt {
namespace {

// Rows of logits' weight in memory come in whole tiles of the products.
constexpr int64_t head_tile = 128;

std::string layer_name(const GPTConfig& c, int i) {
  return (c.style == GPTStyle::gpt2 ? "transformer.h." : "model.layers.") + std::to_string(i) + ".";
}

}  // namespace

int GPTConfig::hidden_width() const {
  if (hidden) return hidden;
  return style == GPTStyle::gpt2 ? 4 * width : (8 * width / 3 + 31) / 32 * 32;
}

bool GPTConfig::scales_embedding() const {
  return embedding_scale.value_or(style == GPTStyle::llama && has_alpha(norm.kind));
}

std::pair<float, float> tuned_alpha0(int width) {
  if (width < 1536) return {1.0f, 1.0f};
  if (width < 3072) return {1.0f, 0.5f};
  if (width < 6144) return {0.8f, 0.2f};
  return {0.2f, 0.05f};
}

GPT::GPT(const GPTConfig& c, Parameters& parameters) : config_(c) {
  require(c.vocabulary > 0 && c.context > 0 && c.width > 0 && c.depth > 0 && c.heads > 0 &&
              c.hidden >= 0 && c.kv_heads >= 0,
          "a GPT needs a positive vocabulary (", c.vocabulary, "), context (", c.context,
          "), width (", c.width, "), depth (", c.depth, ") and number of heads (", c.heads, ")");
  require(c.width % c.heads == 0, "heads (", c.heads, ") must divide the width (", c.width, ")");
  require(c.kv_heads == 0 || c.heads % c.kv_heads == 0, "key and value heads (", c.kv_heads,
          ") must divide the heads (", c.heads, ")");
  require(c.head_width() >= 16 && c.head_width() <= 128 && c.head_width() % 2 == 0,
          "heads of an even width of 16 to 128 are supported, not ", c.head_width(), " (width ",
          c.width, " / ", c.heads, " heads)");
  require(c.dropout >= 0 && c.dropout < 1, "dropout must be in [0, 1), not ", c.dropout);
  require(c.norm.kind != NormKind::batchnorm && c.norm.kind != NormKind::groupnorm,
          name_of(c.norm.kind),
          " takes its statistics over all tokens of a text: in a language model, "
          "a token would see those that follow it");
  require(c.alpha0_attention >= 0, "alpha0 before attention must be positive, not ",
          c.alpha0_attention);
  if (c.style == GPTStyle::gpt2) {
    declare_gpt2(parameters);
  } else {
    declare_llama(parameters);
  }
  const std::string last = c.style == GPTStyle::gpt2 ? "transformer.ln_f" : "model.norm";
  // Post-LN's last block ends in a norm; one more is Pre-LN's (arXiv 2002.04745, section 3).
  const bool pre = c.norm.placement == Placement::pre;
  norm_ =
      Norm(parameters, last, c.width, pre ? norm_spec(false) : NormSpec{.kind = NormKind::none});
  Parameter& head =
      c.tied ? parameters.find(token_->name)
             : parameters.add("lm_head.weight", {c.vocabulary, c.width}, Init::gaussian(0.02));
  head.stored_rows = (c.vocabulary + head_tile - 1) / head_tile * head_tile;
  head_ = &head;
}

NormSpec GPT::norm_spec(bool before_attention) const {
  NormSpec spec = config_.norm;
  spec.bias = config_.style == GPTStyle::gpt2;
  if (before_attention && config_.alpha0_attention > 0) spec.alpha0 = config_.alpha0_attention;
  return spec;
}

// Weights start with a standard deviation of 0.02; those that write into the residual stream with
// less, so that the sum over the layers keeps its size (GPT-2, section 2.3).
void GPT::declare_gpt2(Parameters& parameters) {
  const GPTConfig& c = config_;
  const int64_t C = c.width, hidden = c.hidden_width();
  const Init weight = Init::gaussian(0.02), zeros = Init::zeros();
  const Init residual = Init::gaussian(0.02 / std::sqrt(2.0 * c.depth));
  token_ = &parameters.add("transformer.wte.weight", {c.vocabulary, C}, weight);
  position_ = &parameters.add("transformer.wpe.weight", {c.context, C}, weight, false);
  if (c.scales_embedding()) {
    scale_ = &parameters.add("transformer.embed_scale", {1}, Init::fill(std::sqrt(double(C))));
  }
  for (int i = 0; i < c.depth; ++i) {
    const std::string name = layer_name(c, i);
    Block& b = blocks_.emplace_back();
    b.norm1 = Norm(parameters, name + "ln_1", C, norm_spec(true));
    b.qkv_weight = &parameters.add(name + "attn.c_attn.weight", {c.qkv_width(), C}, weight);
    b.qkv_bias = &parameters.add(name + "attn.c_attn.bias", {c.qkv_width()}, zeros);
    b.proj_weight = &parameters.add(name + "attn.c_proj.weight", {C, C}, residual);
    b.proj_bias = &parameters.add(name + "attn.c_proj.bias", {C}, zeros);
    b.norm2 = Norm(parameters, name + "ln_2", C, norm_spec(false));
    b.in_weight = &parameters.add(name + "mlp.c_fc.weight", {hidden, C}, weight);
    b.in_bias = &parameters.add(name + "mlp.c_fc.bias", {hidden}, zeros);
    b.out_weight = &parameters.add(name + "mlp.c_proj.weight", {C, hidden}, residual);
    b.out_bias = &parameters.add(name + "mlp.c_proj.bias", {C}, zeros);
  }
}

void GPT::declare_llama(Parameters& parameters) {
  const GPTConfig& c = config_;
  const int64_t C = c.width, hidden = c.hidden_width();
  const Init weight = Init::gaussian(0.02);
  token_ = &parameters.add("model.embed_tokens.weight", {c.vocabulary, C}, weight);
  if (c.scales_embedding()) {
    scale_ = &parameters.add("model.embed_scale", {1}, Init::fill(std::sqrt(double(C))));
  }
  for (int i = 0; i < c.depth; ++i) {
    const std::string name = layer_name(c, i);
    Block& b = blocks_.emplace_back();
    b.norm1 = Norm(parameters, name + "input_layernorm", C, norm_spec(true));
    b.qkv_weight = &parameters.add(name + "self_attn.qkv_proj.weight", {c.qkv_width(), C}, weight);
    b.proj_weight = &parameters.add(name + "self_attn.o_proj.weight", {C, C}, weight);
    b.norm2 = Norm(parameters, name + "post_attention_layernorm", C, norm_spec(false));
    b.in_weight = &parameters.add(name + "mlp.gate_up_proj.weight", {2 * hidden, C}, weight);
    b.out_weight = &parameters.add(name + "mlp.down_proj.weight", {C, hidden}, weight);
  }
}

// f(x), or residual + f(x)
Tensor GPT::attention_branch(Tape& tape, int i, const Tensor& x, const Tensor* residual,
                             GPTCache* cache) const {
  const Block& b = blocks_[size_t(i)];
  const AttentionOptions heads{config_.heads, config_.kv_heads, config_.causal};
  Tensor qkv = linear(tape, x, *b.qkv_weight, b.qkv_bias);
  if (config_.style == GPTStyle::llama) {
    qkv = rope(tape, qkv, heads, config_.rope_theta, cache ? cache->length() : 0);
  }
  const Tensor y =
      cache ? attention_with_cache(tape, qkv, heads, cache->layer(i)) : attention(tape, qkv, heads);
  return linear(tape, y, *b.proj_weight, b.proj_bias, residual);
}

Tensor GPT::mlp_branch(Tape& tape, int i, const Tensor& x, const Tensor* residual) const {
  const Block& b = blocks_[size_t(i)];
  if (config_.style == GPTStyle::gpt2) {
    return mlp(tape, x, {b.in_weight, b.in_bias, b.out_weight, b.out_bias}, Gelu::tanh, residual);
  }
  const Tensor hidden = swiglu(tape, linear(tape, x, *b.in_weight, nullptr));
  return linear(tape, hidden, *b.out_weight, b.out_bias, residual);
}

Tensor GPT::block_forward(Tape& tape, int i, const Tensor& x, GPTCache* cache) const {
  const Block& b = blocks_[size_t(i)];
  const Placement placement = config_.norm.placement;
  const auto attention = [&](const Tensor& input, const Tensor* residual) {
    return attention_branch(tape, i, input, residual, cache);
  };
  const auto mlp = [&](const Tensor& input, const Tensor* residual) {
    return mlp_branch(tape, i, input, residual);
  };
  const Tensor y = residual_branch(tape, x, b.norm1, placement, config_.dropout, attention);
  return residual_branch(tape, y, b.norm2, placement, config_.dropout, mlp);
}

Tensor GPT::hidden(Tape& tape, const Tensor& tokens, GPTCache* cache) const {
  const int64_t past = cache ? cache->length() : 0;
  require(tokens.shape.rank() == 2, "tokens are (B, T), not ", tokens.shape.text());
  require(past + tokens.shape[1] <= config_.context, "a text of ", past + tokens.shape[1],
          " tokens is longer than the model's context of ", config_.context);
  Tensor x = token_embedding(tape, tokens, *token_, position_, scale_, past);
  x = dropout(tape, x, config_.dropout);
  for (int i = 0; i < config_.depth; ++i) x = block_forward(tape, i, x, cache);
  return norm_(tape, x);
}

Tensor GPT::logits(Tape& tape, const Tensor& tokens) const {
  return tied_logits(tape, hidden(tape, tokens, nullptr), *head_);
}

Tensor GPT::loss(Tape& tape, const Tensor& tokens, const Tensor& labels) const {
  return tied_head(tape, hidden(tape, tokens, nullptr), *head_, labels,
                   LossOptions{.ignores = !config_.causal});
}

Tensor GPT::next(Tape& tape, const Tensor& tokens, GPTCache& cache) const {
  require(config_.causal, "a model that sees the whole text, as BERT, can't write on from its end");
  const Tensor x = hidden(tape, tokens, &cache);
  cache.length_ += tokens.shape[1];
  return tied_logits(tape, take_token(tape, x, x.shape[1] - 1), *head_);
}

// Every layer has its keys, then its values, each (B, context, kv_heads D).
GPTCache::GPTCache(const GPTConfig& c, Device device, DType dtype, int64_t batch)
    : capacity_(c.context),
      bytes_(size_t(batch * c.context) * size_t(c.qkv_width() - c.width) / 2 * size_of(dtype)),
      memory_(device, 2 * size_t(c.depth) * bytes_) {}

KeyValueCache GPTCache::layer(int i) const {
  char* const keys = static_cast<char*>(memory_.data()) + 2 * size_t(i) * bytes_;
  return {keys, keys + bytes_, capacity_, length_};
}

// --- Presets -------------------------------------------------------------------------------------

namespace {

GPTConfig gpt2(int width, int depth, int heads) {
  return {.vocabulary = 50257, .context = 1024, .width = width, .depth = depth, .heads = heads};
}

GPTConfig llama(int width, int depth, int heads, int hidden) {
  return {.style = GPTStyle::llama,
          .vocabulary = 32000,
          .context = 1024,
          .width = width,
          .depth = depth,
          .heads = heads,
          .hidden = hidden,
          .tied = false,
          .norm = {.kind = NormKind::rmsnorm, .epsilon = 1e-6f}};
}

GPTConfig llama_char() {
  GPTConfig c = llama(192, 6, 6, 512);
  c.vocabulary = 256;
  c.context = 128;
  c.tied = true;
  return c;
}

const std::vector<Preset<GPTConfig>>& presets() {
  static const std::vector<Preset<GPTConfig>> all = [] {
    std::vector<Preset<GPTConfig>> list = {{"gpt_char", {}},
                                           {"bert_char", {.vocabulary = 257, .causal = false}},
                                           {"gpt2_124m", gpt2(768, 12, 12)},
                                           {"gpt2_355m", gpt2(1024, 24, 16)},
                                           {"gpt2_774m", gpt2(1280, 36, 20)},
                                           {"gpt2_1.5b", gpt2(1600, 48, 25)},
                                           {"llama_char", llama_char()},
                                           {"llama_60m", llama(512, 8, 8, 1376)},
                                           {"llama_130m", llama(768, 12, 12, 2048)},
                                           {"llama_350m", llama(1024, 24, 16, 2736)}};
    for (Preset<GPTConfig>& p : list) {
      std::tie(p.config.alpha0_attention, p.config.norm.alpha0) = tuned_alpha0(p.config.width);
    }
    return list;
  }();
  return all;
}

}  // namespace

const std::vector<std::string>& gpt_presets() {
  static const std::vector<std::string> names = names_of(presets());
  return names;
}

GPTConfig gpt_preset(const std::string& name) {
  return find_preset(presets(), name, "language model");
}

}  // namespace dyt
