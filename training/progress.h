// What a person sees while something trains: one line that is rewritten on a terminal; elsewhere
// (a file, a pipe) a plain line now and then.
#pragma once
#include <chrono>
#include <string>

#include "training/trainer.h"

namespace dyt {

class ProgressLine {
 public:
  // `what` is printed in front: "03 vit dyt, seed 1".
  explicit ProgressLine(std::string what, bool quiet = false);
  ~ProgressLine();
  void operator()(const Progress& progress);

 private:
  std::string what_;
  bool quiet_, terminal_;
  std::chrono::steady_clock::time_point next_;
  int64_t last_tenth_ = 0;
  size_t width_ = 0;  // of the line on the terminal now
};

}  // namespace dyt
