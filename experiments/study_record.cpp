// A run's record as JSON.
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "experiments/study.h"

namespace dyt {
namespace {

using Json = nlohmann::ordered_json;

constexpr int format_version = 1;

// JSON has no NaN and no infinity: they are written as words. Finite numbers are written with the
// fewest digits that give the same number back (17 at most).
Json json_of(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

double number_in(const Json& json) {
  if (json.is_number()) return json;
  const std::string word = json;
  if (word == "nan") return std::nan("");
  require(word == "inf" || word == "-inf", "'", word, "' is no number");
  const double infinity = std::numeric_limits<double>::infinity();
  return word == "inf" ? infinity : -infinity;
}

}  // namespace

std::string to_json(const RunRecord& run, const std::string& settings) {
  Json json = {{"format", format_version}, {"arm", run.arm},
               {"seed", run.seed},         {"settings", settings},
               {"commit", run.commit},     {"date", run.date},
               {"seconds", run.seconds},   {"parameters", run.parameters},
               {"samples", run.samples},   {"diverged_at", run.diverged_at}};
  json["numbers"] = Json::object();
  for (const auto& [name, value] : run.numbers) json["numbers"][name] = json_of(value);
  json["curve"] = json["lists"] = Json::array();
  for (const CurvePoint& p : run.curve) {
    json["curve"].push_back(Json::array({p.step, p.metric, json_of(p.value)}));
  }
  for (const auto& [name, values] : run.lists) {
    Json list = Json::array();
    for (const double value : values) list.push_back(json_of(value));
    json["lists"].push_back({{"name", name}, {"values", list}});
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

RunRecord run_from_json(const std::string& text, std::string& settings) try {
  const Json json = parse_json<Json>(text);
  require(json.at("format") == format_version, "its format is ", json.at("format").dump(),
          ", and this program reads ", format_version);
  RunRecord run;
  run.arm = json.at("arm"), run.seed = json.at("seed");
  settings = json.at("settings");
  run.commit = json.at("commit"), run.date = json.at("date"), run.seconds = json.at("seconds");
  run.parameters = json.at("parameters"), run.samples = json.at("samples");
  run.diverged_at = json.at("diverged_at");
  for (const auto& [name, value] : json.at("numbers").items()) {
    run.numbers[name] = number_in(value);
  }
  for (const Json& p : json.at("curve")) {
    run.curve.push_back({.arm = run.arm,
                         .seed = run.seed,
                         .step = p.at(0),
                         .metric = p.at(1),
                         .value = number_in(p.at(2))});
  }
  for (const Json& list : json.at("lists")) {
    auto& [name, values] = run.lists.emplace_back(list.at("name"), std::vector<double>{});
    for (const Json& value : list.at("values")) values.push_back(number_in(value));
  }
  return run;
} catch (const nlohmann::json::exception& error) {
  fail(error.what());
}

}  // namespace dyt
