// results.json: a report without its curves and its plots' data.
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "experiments/report.h"

namespace dyt {
namespace {

using Json = nlohmann::ordered_json;  // keeps the order we write in

constexpr int format_version = 1;

Outcome outcome_named(const std::string& name) {
  for (const Outcome o : {Outcome::reproduced, Outcome::not_reproduced, Outcome::inconclusive}) {
    if (name == name_of(o)) return o;
  }
  fail("there is no verdict '", name, "'");
}

Json json_of(const Table& table) {
  return {
      {"title", table.title}, {"header", table.header}, {"rows", table.rows}, {"note", table.note}};
}

}  // namespace

std::string to_json(const Report& report) {
  const Json results = Json::parse(report.results, nullptr, /*allow_exceptions=*/false);
  require(results.is_object(), "the results of experiment ", report.number,
          " must be a JSON object, but they are: ", report.results);
  Json json = {{"format", format_version},
               {"number", report.number},
               {"title", report.title},
               {"source", report.source},
               {"claim", report.claim},
               {"paper", report.paper},
               {"ours", report.ours},
               {"verdict",
                {{"outcome", name_of(report.verdict.outcome)},
                 {"rule", report.verdict.rule},
                 {"because", report.verdict.because}}}};
  json["results"] = results;
  json["tables"] = json["plots"] = json["notes"] = json["settings"] = Json::array();
  for (const Table& table : report.tables) json["tables"].push_back(json_of(table));
  for (const Plot& plot : report.plots) {
    json["plots"].push_back(
        {{"name", plot.name}, {"title", plot.title}, {"caption", plot.caption}});
  }
  for (const std::string& note : report.notes) json["notes"].push_back(note);
  for (const auto& [name, value] : report.settings) {
    json["settings"].push_back({{"name", name}, {"value", value}});
  }
  json["machine"] = {{"cpu", report.machine.cpu},
                     {"cores", report.machine.cores},
                     {"memory_gib", std::round(report.machine.memory_gib * 10) / 10},
                     {"device", report.machine.device}};
  json["commit"] = report.commit;
  json["date"] = report.date;
  json["seconds"] = std::round(report.seconds * 100) / 100;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Report report_from_json(const std::string& text) try {
  const Json json = parse_json<Json>(text);
  require(json.at("format") == format_version, "its format is ", json.at("format").dump(),
          ", and this program reads ", format_version);
  Report report;
  report.number = json.at("number");
  for (const auto& [key, field] : {std::pair{"title", &report.title},
                                   {"source", &report.source},
                                   {"claim", &report.claim},
                                   {"paper", &report.paper},
                                   {"ours", &report.ours},
                                   {"commit", &report.commit},
                                   {"date", &report.date}}) {
    *field = json.at(key);
  }
  const Json& verdict = json.at("verdict");
  report.verdict = {.outcome = outcome_named(verdict.at("outcome")),
                    .rule = verdict.at("rule"),
                    .because = verdict.at("because")};
  report.results = json.at("results").dump();
  for (const Json& table : json.at("tables")) {
    report.tables.push_back({.title = table.at("title"),
                             .header = table.at("header"),
                             .rows = table.at("rows"),
                             .note = table.at("note")});
  }
  for (const Json& plot : json.at("plots")) {
    Plot& p = report.plots.emplace_back();
    p.name = plot.at("name"), p.title = plot.at("title"), p.caption = plot.at("caption");
    require(p.name.find('/') == p.name.npos, "a plot's name must not have a '/'");
  }
  for (const Json& note : json.at("notes")) report.notes.push_back(note);
  for (const Json& setting : json.at("settings")) {
    report.settings.emplace_back(setting.at("name"), setting.at("value"));
  }
  const Json& machine = json.at("machine");
  report.machine = {.cpu = machine.at("cpu"),
                    .cores = machine.at("cores"),
                    .memory_gib = machine.at("memory_gib"),
                    .device = machine.at("device")};
  report.seconds = json.at("seconds");
  return report;
} catch (const nlohmann::json::exception& error) {
  fail(error.what());
}

}  // namespace dyt
