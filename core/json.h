// Reading JSON that somebody else may have written.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"

namespace dyt {

// JSON is a tree, and who walks through it, nlohmann's own dump() among them, calls itself for each
// level: a file of a million brackets would overflow the stack. None of ours has ten levels. Throws
// nlohmann's errors, and Error for more than 64 levels.
template <class Json = nlohmann::json>
Json parse_json(const std::string& text) {
  return Json::parse(text, [](int depth, typename Json::parse_event_t, Json&) {
    require(depth <= 64, "its JSON is nested too deeply");
    return true;
  });
}

}  // namespace dyt
