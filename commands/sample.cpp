#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands/commands.h"
#include "commands/saved_model.h"
#include "training/language.h"

namespace dyt {
namespace {

struct SampleCommand {
  std::string weights, prompt = "\n", device = "auto";
  std::vector<int32_t> tokens;
  SampleOptions options;
  bool average = false, no_cache = false;
};

void sample(SampleCommand& c) {
  const SavedModel saved = load_saved_model(c.weights, c.average, parse_device(c.device));
  const GPT* model = saved.model->language();
  require(model != nullptr, c.weights, " holds ", saved.model->spec().preset,
          ", which classifies images; dyt predict asks it");
  const auto data = saved.metadata.find("dyt.data");
  const bool bytes =
      data == saved.metadata.end() || data->second.find("words") == std::string::npos;
  std::vector<int32_t> prompt = c.tokens;
  if (prompt.empty()) {
    require(bytes, c.weights,
            " reads words, not bytes: give the numbers of a prompt with --tokens");
    require(!c.prompt.empty(), "the prompt is empty: the model needs a byte to go on from");
    for (const char byte : c.prompt) prompt.push_back(int32_t(static_cast<unsigned char>(byte)));
  }
  for (const int32_t token : prompt) {
    require(token >= 0 && token < model->config().vocabulary, "token ", token,
            " is not in the vocabulary of ", model->config().vocabulary);
  }
  c.options.cache = !c.no_cache;
  const auto write = [bytes](int32_t token) {
    if (bytes) {
      std::cout << char(token);
    } else {
      std::cout << token << ' ';
    }
  };
  bool begun = false;
  generate(*model, *saved.parameters, prompt, c.options, [&](int32_t token) {
    if (!begun) std::for_each(prompt.begin(), prompt.end(), write);
    begun = true;
    write(token);
    std::cout << std::flush;
  });
  std::cout << std::endl;
}

}  // namespace

void add_sample(CLI::App& app) {
  const auto c = std::make_shared<SampleCommand>();
  CLI::App* to = app.add_subcommand("sample", "write text with a trained language model");
  to->add_option("CHECKPOINT", c->weights, "what dyt train gpt --save wrote")->required();
  CLI::Option* const prompt =
      to->add_option("--prompt", c->prompt, "text to go on from (default: a line's end)");
  to->add_option("--tokens", c->tokens, "the same as numbers of tokens")
      ->delimiter(',')
      ->excludes(prompt);
  to->add_option("--length", c->options.tokens, "tokens to write")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  to->add_option("--temperature", c->options.temperature, "below 1: safer; 0: always the likeliest")
      ->check(between(0, 100))
      ->capture_default_str();
  to->add_option("--top-k", c->options.top_k, "choose among the k likeliest only; 0: among all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  to->add_option("--seed", c->options.seed, "of the choices")
      ->check(CLI::NonNegativeNumber.description(""))
      ->capture_default_str();
  to->add_flag("--ema", c->average, "with the averaged weights");
  to->add_flag("--no-cache", c->no_cache, "read everything again for every token");
  add_device_option(*to, c->device);
  to->callback([c] { sample(*c); });
}

}  // namespace dyt
