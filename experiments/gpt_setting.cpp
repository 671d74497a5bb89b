#include "experiments/gpt_setting.h"

#include <algorithm>
#include <tuple>

namespace dyt {

GPTSetting small_gpt(const Options& options, int64_t grammar_bytes) {
  GPTSetting setting{.model = {.context = 128, .width = 64, .depth = 3, .heads = 2},
                     .train = language_defaults(),
                     .text = {},
                     .seeds = 3};
  TrainOptions& train = setting.train;
  switch (options.size) {
    case Size::smoke:
      setting.model = {.context = 32, .width = 32, .depth = 2, .heads = 2};
      train.batch = 8;
      train.steps = 12, train.warmup = 3, train.evaluate_every = 6;
      setting.seeds = 2;
      break;
    case Size::small:
      train.batch = 16;
      train.lr = 8e-3, train.lr_floor = 8e-4;
      train.steps = 1200, train.warmup = 100, train.evaluate_every = 100;
      break;
    case Size::full:
      setting.model = gpt_preset("gpt_char");
      train.batch = 64;
      train.steps = 5000, train.warmup = 250, train.evaluate_every = 250;
      setting.seeds = 5;
      break;
  }
  if (options.seeds > 0) setting.seeds = options.seeds;
  std::string spec = options.text;
  if (spec == "grammar") {
    const int64_t read = train.steps * train.batch * setting.model.context;
    const bool chosen = grammar_bytes > 0 && options.size == Size::small;
    spec += ":" + std::to_string(chosen ? grammar_bytes : std::max<int64_t>(20000, read));
  }
  setting.text = load_text(spec);
  setting.model.vocabulary = setting.text.vocabulary;
  return setting;
}

GPTConfig llama_of(const GPTSetting& setting) {
  GPTConfig config = setting.model;
  config.style = GPTStyle::llama;
  config.norm = {.kind = NormKind::rmsnorm, .epsilon = 1e-6f};
  config.tied = false;
  return config;
}

GPTConfig with_squashing(GPTConfig config, NormKind kind) {
  config.norm.kind = kind;
  config.embedding_scale = true;
  std::tie(config.alpha0_attention, config.norm.alpha0) = tuned_alpha0(config.width);
  return config;
}

GPTConfig with_calibrated_squashing(GPTConfig config, NormKind kind) {
  config = with_squashing(config, kind);
  config.norm.calibrate = auto_calibration;
  return config;
}

}  // namespace dyt
