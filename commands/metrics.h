// What a training run leaves behind: metrics.jsonl and curves.svg.
#pragma once
#include <filesystem>
#include <optional>
#include <span>

#include "training/trainer.h"

namespace dyt {

// Keeps FILE up to date while a run goes on: one line of JSON per evaluation, none at first.
// Written anew each time, under another name first, so that it is whole at any moment and right
// after a resume.
class MetricsLog {
 public:
  explicit MetricsLog(std::filesystem::path file) : file_(std::move(file)) {}
  void operator()(std::span<const Evaluation> curve);

 private:
  std::filesystem::path file_;
  std::optional<size_t> written_;
};

// Training and test loss, and the accuracy if there is one, as loss.svg and accuracy.svg in
// `folder`, where an earlier run's are removed. Returns what was written; nothing without gnuplot,
// which is said on standard error.
std::vector<std::filesystem::path> write_curves(std::span<const Evaluation> curve,
                                                const std::string& title,
                                                const std::filesystem::path& folder);

}  // namespace dyt
