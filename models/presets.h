// Configurations by name, which every family of models has.
#pragma once
#include <string>
#include <vector>

#include "core/error.h"

namespace dyt {

template <class Config>
struct Preset {
  std::string name;
  Config config;
};

template <class Config>
std::vector<std::string> names_of(const std::vector<Preset<Config>>& presets) {
  std::vector<std::string> names;
  for (const Preset<Config>& p : presets) names.push_back(p.name);
  return names;
}

// Error listing them all for any other name; `what` is what it would be the name of.
template <class Config>
Config find_preset(const std::vector<Preset<Config>>& presets, const std::string& name,
                   const char* what = "model") {
  std::string known;
  for (const Preset<Config>& p : presets) {
    if (name == p.name) return p.config;
    known += (known.empty() ? "" : ", ") + p.name;
  }
  fail("unknown ", what, " '", name, "'; choose one of ", known);
}

}  // namespace dyt
