#include "experiments/run_settings.h"

#include <array>
#include <charconv>
#include <optional>
#include <vector>

#include "datasets/fingerprint.h"

namespace dyt {
namespace {

std::string text_of(const std::string& value) { return value; }
template <class T>
requires std::is_arithmetic_v<T> std::string text_of(T value) {
  char digits[32];  // the fewest digits that say which number it is
  if constexpr (std::is_same_v<T, bool>) {
    return value ? "yes" : "no";
  } else {
    return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
  }
}
template <class T>
std::string text_of(const std::optional<T>& value) {
  return value ? text_of(*value) : "-";
}
template <class T>
std::string list_of(const T& values) {
  std::string text = "[";
  for (const auto& value : values) text += (text.size() > 1 ? " " : "") + text_of(value);
  return text + "]";
}
std::string text_of(const std::vector<int>& values) { return list_of(values); }
std::string text_of(const std::array<int, 4>& values) { return list_of(values); }

// "what: name value, name value": Written("vit")("width", 96)("depth", 4).text
struct Written {
  std::string text;
  explicit Written(const char* what) : text(std::string(what) + ":") {}
  template <class T>
  Written& operator()(const char* name, const T& value) {
    if (text.back() != ':') text += ',';
    text += std::string(" ") + name + " " + text_of(value);
    return *this;
  }
};

std::string settings_of(const AdamWOptions& options) {
  const auto& [beta1, beta2, epsilon, weight_decay, max_norm] = options;
  return Written("(adamw")("beta1", beta1)("beta2", beta2)("epsilon", epsilon)(
             "weight_decay", weight_decay)("max_norm", max_norm)
             .text +
         ")";
}

std::string settings_of(const SgdOptions& options) {
  const auto& [momentum, weight_decay] = options;
  return Written("(sgd")("momentum", momentum)("weight_decay", weight_decay).text + ")";
}

}  // namespace

std::string settings_of(const NormSpec& spec) {
  const auto& [kind, placement, epsilon, alpha0, calibrate, learn_alpha, bias, groups, frozen,
               unfused] = spec;
  return Written("(norm")("kind", std::string(name_of(kind)))(
             "placement", std::string(name_of(placement)))("epsilon", epsilon)("alpha0", alpha0)(
             "calibrate", calibrate)("learn_alpha", learn_alpha)("bias", bias)("groups", groups)(
             "frozen", frozen)("unfused", unfused)
             .text +
         ")";
}

std::string settings_of(const ViTConfig& config) {
  const auto& [image_size, patch_size, channels, classes, width, depth, heads, mlp_ratio,
               class_token, pool, drop_path, norm, norm_free] = config;
  return Written("vit")("image_size", image_size)("patch_size", patch_size)("channels", channels)(
             "classes", classes)("width", width)("depth", depth)("heads", heads)(
             "mlp_ratio", mlp_ratio)("class_token", class_token)("pool", int(pool))(
             "drop_path", drop_path)("norm", settings_of(norm))("norm_free", int(norm_free))
      .text;
}

std::string settings_of(const ConvNeXtConfig& config) {
  const auto& [image_size, patch_size, channels, classes, depths, widths, first_halves, conv_mlp,
               layer_scale, drop_path, norm] = config;
  return Written("convnext")("image_size", image_size)("patch_size", patch_size)(
             "channels", channels)("classes", classes)("depths", depths)("widths", widths)(
             "first_halves", first_halves)("conv_mlp", conv_mlp)("layer_scale", layer_scale)(
             "drop_path", drop_path)("norm", settings_of(norm))
      .text;
}

std::string settings_of(const ResNetConfig& config) {
  const auto& [image_size, channels, classes, large_stem, stem_width, bottleneck, depths, widths,
               drop_path, norm] = config;
  return Written("resnet")("image_size", image_size)("channels", channels)("classes", classes)(
             "large_stem", large_stem)("stem_width", stem_width)("bottleneck", bottleneck)(
             "depths", depths)("widths", widths)("drop_path", drop_path)("norm", settings_of(norm))
      .text;
}

std::string settings_of(const VGGConfig& config) {
  const auto& [image_size, channels, classes, features, hidden, norm] = config;
  return Written("vgg")("image_size", image_size)("channels", channels)("classes", classes)(
             "features", features)("hidden", hidden)("norm", settings_of(norm))
      .text;
}

std::string settings_of(const GPTConfig& config) {
  const auto& [style, vocabulary, context, width, depth, heads, kv_heads, hidden, tied, dropout,
               rope_theta, norm, alpha0_attention, embedding_scale, causal] = config;
  return Written("gpt")("style", int(style))("vocabulary", vocabulary)("context", context)(
             "width", width)("depth", depth)("heads", heads)("kv_heads", kv_heads)(
             "hidden", hidden)("tied", tied)("dropout", dropout)("rope_theta", rope_theta)(
             "norm", settings_of(norm))("alpha0_attention", alpha0_attention)(
             "embedding_scale", embedding_scale)("causal", causal)
      .text;
}

std::string settings_of(const TransformerConfig& config) {
  const auto& [vocabulary, source_vocabulary, context, width, depth, heads, hidden, gelu,
               learned_positions, dropout, norm] = config;
  return Written("transformer")("vocabulary", vocabulary)("source_vocabulary", source_vocabulary)(
             "context", context)("width", width)("depth", depth)("heads", heads)("hidden", hidden)(
             "gelu", gelu)("learned_positions", learned_positions)("dropout", dropout)(
             "norm", settings_of(norm))
      .text;
}

std::string settings_of(const Augment& augment) {
  const auto& [flip, crop_padding, resized_crop, min_area, max_area, min_aspect, max_aspect,
               rand_augment, magnitude, magnitude_std, color_jitter, erase] = augment;
  return Written("(augment")("flip", flip)("crop_padding", crop_padding)(
             "resized_crop", resized_crop)("min_area", min_area)("max_area", max_area)(
             "min_aspect", min_aspect)("max_aspect", max_aspect)("rand_augment", rand_augment)(
             "magnitude", magnitude)("magnitude_std", magnitude_std)("color_jitter", color_jitter)(
             "erase", erase)
             .text +
         ")";
}

std::string settings_of(const TrainOptions& options) {
  // Not part of the result: how batches are made, graphs, checkpoints, who looks on.
  const auto& [steps, batch, accumulate, lr, lr_floor, warmup, inverse_sqrt_from, adamw, sgd,
               label_smoothing, augment, mix, strict, workers, graphs, ema_decay, seed,
               evaluate_every, evaluate_windows, diverged_above, checkpoint, after_step] = options;
  const auto& [mixup, cutmix, switch_probability] = mix;
  return Written("training")("steps", steps)("batch", batch)("accumulate", accumulate)("lr", lr)(
             "lr_floor", lr_floor)("warmup", warmup)(
             "optimizer", sgd ? settings_of(*sgd) : settings_of(adamw))("label_smoothing",
                                                                        label_smoothing)(
             "augment", augment ? settings_of(*augment) : std::string("none"))("mixup", mixup)(
             "cutmix", cutmix)("switch_probability", switch_probability)("ema_decay", ema_decay)(
             "evaluate_every", evaluate_every)("evaluate_windows", evaluate_windows)(
             "diverged_above", diverged_above)
             .text +
         (inverse_sqrt_from ? ", inverse_sqrt_from " + text_of(inverse_sqrt_from) : "");
}

std::string settings_of(const ImageSplits& data) {
  return Written("data")("name", data.train.name)("train", data.train.size())(
             "test", data.test.size())("fingerprints", fingerprint(data.train))(
             "and", fingerprint(data.test))
      .text;
}

std::string settings_of(const TextDataset& text) {
  return Written("data")("name", text.name)("train", text.train.size())("val", text.val.size())(
             "vocabulary", text.vocabulary)("fingerprints", fingerprint(text.train))(
             "and", fingerprint(text.val))
      .text;
}

std::string settings_of(const TranslationTask& task) {
  const auto& [name, words, train, val, test] = task;
  const auto add = [](uint64_t hash, const auto& values) {
    return fingerprint(values.data(), values.size() * sizeof values[0], hash);
  };
  const auto print = [&](const std::vector<TokenPair>& pairs) {
    uint64_t hash = 0;
    for (const TokenPair& pair : pairs) hash = add(add(hash, pair.source), pair.target);
    return hash;
  };
  uint64_t tests = 0;
  for (const SentencePair& pair : test) tests = add(add(tests, pair.source), pair.target);
  return Written("data")("name", name)("train", train.size())("val", val.size())(
             "test", test.size())("vocabulary", words.vocabulary())("fingerprints", print(train))(
             "and", print(val))("and", tests)
      .text;
}

}  // namespace dyt
