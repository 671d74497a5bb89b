// The commands of dyt, one file each: add_NAME declares the command's options to the command line,
// and what to call when it was given. What they work on lives in the folders below.
#pragma once
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/error.h"

namespace dyt {

void add_list(CLI::App& app);
void add_info(CLI::App& app);
void add_run(CLI::App& app);
void add_report(CLI::App& app);
void add_train(CLI::App& app);
void add_sample(CLI::App& app);
void add_predict(CLI::App& app);
void add_export(CLI::App& app);
void add_bench(CLI::App& app);
void add_forward(CLI::App& app);
void add_backward(CLI::App& app);

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

// Error if two options or arguments name the same file, of which at least one is to be written.
// Empty ones weren't given.
inline void require_two_files(const std::string& a, const std::string& b) {
  std::error_code ignored;
  const bool given = !a.empty() && !b.empty();
  require(!given || (a != b && !std::filesystem::equivalent(a, b, ignored)), a,
          " can't be two files at once, of which one would be written over the other");
}

// --device auto | cpu | cuda | emulated
void add_device_option(CLI::App& to, std::string& value);

}  // namespace dyt
