#include "models/model_spec.h"

#include <charconv>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/json.h"

namespace dyt {
namespace {

using nlohmann::json;

json stored(NormKind kind) { return name_of(kind); }
json stored(Placement placement) { return name_of(placement); }
// 0.1f as 0.1, not as 0.10000000149011612: the shortest number that is read as this one.
json stored(float value) {
  char digits[32];
  *std::to_chars(digits, digits + sizeof digits - 1, value).ptr = 0;
  return std::strtod(digits, nullptr);
}
json stored(const Alpha0& alpha0) { return alpha0.automatic ? json("auto") : stored(alpha0.value); }
template <class Value>
json stored(Value value) {
  return value;
}

[[noreturn]] void refuse(const char* key, const json& value, const char* needed) {
  fail("a model's \"", key, "\" must be ", needed, ", not ", value.dump());
}

int read(const char* key, const json& value, int) {
  const bool fits = value.is_number_integer() && value >= std::numeric_limits<int>::min() &&
                    value <= std::numeric_limits<int>::max();
  if (!fits) refuse(key, value, "a whole number below 2^31");
  return value.get<int>();
}

float read(const char* key, const json& value, float) {
  if (!value.is_number()) refuse(key, value, "a number");
  return value.get<float>();
}

Alpha0 read(const char* key, const json& value, Alpha0) {
  if (value == "auto") return Alpha0::measured();
  if (!value.is_number()) refuse(key, value, "a number or \"auto\"");
  return value.get<float>();
}

bool read(const char* key, const json& value, bool) {
  if (!value.is_boolean()) refuse(key, value, "true or false");
  return value.get<bool>();
}

std::string read(const char* key, const json& value, const std::string&) {
  if (!value.is_string()) refuse(key, value, "a name");
  return value.get<std::string>();
}

NormKind read(const char* key, const json& value, NormKind) {
  return parse_norm(read(key, value, std::string()));
}

Placement read(const char* key, const json& value, Placement) {
  return parse_placement(read(key, value, std::string()));
}

}  // namespace

std::string to_json(const ModelSpec& spec) {
  nlohmann::ordered_json object;
  object["preset"] = spec.preset;
  visit_fields(spec, [&](const char* name, const auto& field) {
    if (field) object[name] = stored(*field);
  });
  return object.dump();
}

ModelSpec model_spec_from_json(const std::string& text) {
  json object;
  try {
    object = parse_json(text);
  } catch (const json::exception&) {  // it stays null
  }
  require(object.is_object(), "a model is described by a JSON object such as ",
          R"({"preset": "vit_micro", "width": 96}, not by )", text.substr(0, 120));
  require(object.contains("preset"),
          "a model's description has no \"preset\": ", text.substr(0, 120));
  ModelSpec spec;
  spec.preset = read("preset", object["preset"], spec.preset);
  object.erase("preset");
  visit_fields(spec, [&](const char* name, auto& field) {
    const auto found = object.find(name);
    if (found == object.end()) return;
    field = read(name, *found, typename std::decay_t<decltype(field)>::value_type());
    object.erase(found);
  });
  require(object.empty(), "a model's description has the unknown key \"",
          object.empty() ? "" : object.begin().key(), "\"");
  return spec;
}

}  // namespace dyt
