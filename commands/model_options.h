// The options that say which model: a preset's name, and what to change in it.
#pragma once
#include <CLI/CLI.hpp>

#include "models/model_spec.h"

namespace dyt {

// MODEL (required), --width, --depth, ... , --norm, --alpha0 ...
void add_model_options(CLI::App& to, ModelSpec& spec);

}  // namespace dyt
