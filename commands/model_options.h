// The options that say which model: a preset's name, and what to change in it.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <string>

#include "models/model_spec.h"

namespace dyt {

// CLI::Range lets NaN pass, of which no comparison is true.
inline CLI::Validator between(double low, double high) {
  const std::string range = CLI::Range(low, high).get_description();
  return CLI::Validator(
      [=](std::string& text) {
        const double value = std::strtod(text.c_str(), nullptr);
        return value >= low && value <= high ? "" : text + " is not a " + range;
      },
      range);
}

// MODEL (required), --width, --depth, ... , --norm, --alpha0 ...
void add_model_options(CLI::App& to, ModelSpec& spec);

}  // namespace dyt
