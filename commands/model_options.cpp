#include "commands/model_options.h"

#include <cmath>
#include <cstdlib>
#include <type_traits>

#include "commands/commands.h"

namespace dyt {
namespace {

// How a field of ModelSpec is spelled on the command line.
struct Words {
  const char *field, *options, *help;
};
const Words words[] = {
    {"image_size", "--image-size", "pixels of a side"},
    {"classes", "--classes", "to tell apart"},
    {"channels", "--channels", "of an image"},
    {"patch", "--patch", "pixels of a side; ViT, ConvNeXt (of its stem)"},
    {"class_token", "--class-token,!--no-class-token", "ViT: what the head reads"},
    {"drop_path", "--drop-path", "stochastic depth of the last block; not of VGG"},
    {"width", "--width", "channels; of the first stage, where there are stages"},
    {"depth", "--depth", "blocks; ViT and language models"},
    {"heads", "--heads", "of attention; must divide the width"},
    {"kv_heads", "--kv-heads", "of keys and values, which several queries share"},
    {"hidden", "--hidden", "width of the feed-forward layers; VGG: of its head"},
    {"vocabulary", "--vocab", "tokens there are"},
    {"context", "--context", "tokens of the longest text"},
    {"tied", "--tied,!--untied", "the head's matrix is the token embedding"},
    {"dropout", "--dropout", "language models"},
    {"norm", "--norm", "what normalises"},
    {"placement", "--norm-placement", "before or after a residual branch; not of ConvNets"},
    {"epsilon", "--epsilon", "of a norm with statistics"},
    {"alpha0", "--alpha0", "where DyT's alpha starts; auto: at 1 / std of its first input"},
    {"alpha0_attention", "--alpha0-attention", "the same, before attention; language models"},
    {"learn_alpha", "--learn-alpha,!--no-learn-alpha", "no: alpha is 1"},
    {"frozen", "--frozen,!--no-frozen", "batchnorm: training takes the running statistics"},
};

const Words& words_of(const std::string& field) {
  for (const Words& w : words) {
    if (field == w.field) return w;
  }
  fail("no words for the option ", field);
}

bool is_positive(const std::string& text) {  // as a float, and nothing else
  char* end = nullptr;
  const float number = std::strtof(text.c_str(), &end);
  return *end == '\0' && std::isnormal(number) && number > 0;
}
CLI::Validator positive() {
  return {
      [](std::string& text) { return is_positive(text) ? "" : text + " is not a positive number"; },
      "POSITIVE"};
}

// An option for each type of field. A value that can't be of that type, or can't be at all, is bad
// usage.
CLI::Option* add(CLI::App& to, const Words& w, std::optional<int>& value) {
  return to.add_option(w.options, value, w.help)->check(CLI::Range(1, 1 << 30).description(""));
}

CLI::Option* add(CLI::App& to, const Words& w, std::optional<float>& value) {
  CLI::Option* option = to.add_option(w.options, value, w.help);
  const std::string field = w.field;
  if (field == "drop_path" || field == "dropout") return option->check(between(0, 0.999));
  return option->check(positive());
}

CLI::Option* add(CLI::App& to, const Words& w, std::optional<Alpha0>& value) {
  const auto parse = [&value](const std::string& text) {
    value = text == "auto" ? Alpha0::measured() : Alpha0(std::strtof(text.c_str(), nullptr));
  };
  const auto wrong = [](std::string& text) {
    return text == "auto" || is_positive(text) ? "" : text + " is neither positive nor auto";
  };
  return to.add_option_function<std::string>(w.options, parse, w.help)
      ->check(CLI::Validator(wrong, ""));
}

CLI::Option* add(CLI::App& to, const Words& w, std::optional<bool>& value) {
  return to.add_flag_function(
      w.options, [&value](int64_t n) { value = n > 0; }, w.help);
}

CLI::Option* add(CLI::App& to, const Words& w, std::optional<NormKind>& value) {
  const auto parse = [&value](const std::string& name) { value = parse_norm(name); };
  return to.add_option_function<std::string>(w.options, parse, w.help)
      ->check(CLI::IsMember(norm_names()));
}

CLI::Option* add(CLI::App& to, const Words& w, std::optional<Placement>& value) {
  const auto parse = [&value](const std::string& name) { value = parse_placement(name); };
  return to.add_option_function<std::string>(w.options, parse, w.help)
      ->check(CLI::IsMember({"pre", "post"}));
}

}  // namespace

void add_model_options(CLI::App& to, ModelSpec& spec) {
  to.add_option("MODEL", spec.preset,
                "vit, convnext, resnet, vgg, gpt, llama, bert, or a preset such as vit_ti4")
      ->required();
  visit_fields(spec, [&](const char* field, auto& value) {
    add(to, words_of(field), value)->group("What to change in the preset");
  });
}

}  // namespace dyt
