// The options that say which model: a preset's name, and what to change in it.
#pragma once
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>

#include "models/model_spec.h"

namespace dyt {

// Like CLI::Range, which lets what is not a number pass.
inline CLI::Validator between(double low, double high) {
  const CLI::Range range(low, high);
  const CLI::Validator number(
      [](std::string& text) {
        return std::isnan(std::strtod(text.c_str(), nullptr)) ? "not a number" : "";
      },
      "");
  return (range & number).description(range.get_description());
}

// MODEL (required), --width, --depth, ... , --norm, --alpha0 ...
void add_model_options(CLI::App& to, ModelSpec& spec);

}  // namespace dyt
