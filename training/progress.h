// What a person sees while something trains: one line that is rewritten on a terminal; elsewhere
// (a file, a pipe) a plain line now and then.
#pragma once
#include <chrono>
#include <functional>
#include <string>

#include "training/trainer.h"

namespace dyt {

// The line itself. On a terminal it is rewritten a few times a second and cut to the terminal's
// width; elsewhere it is printed whenever another tenth of the work is done, if that took seconds.
class StatusLine {
 public:
  StatusLine();
  ~StatusLine();  // ends the line
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  // share: of the work that is done, 0 to 1. The text is asked for only if it is shown.
  void show(double share, const std::function<std::string()>& text);

 private:
  bool terminal_;
  std::chrono::steady_clock::time_point next_;
  int last_tenth_ = 0;
  size_t width_ = 0;  // of the line on the terminal now, in bytes
};

// The line of one training run.
class ProgressLine {
 public:
  // `what` is printed in front: "train".
  explicit ProgressLine(std::string what);
  void operator()(const Progress& progress);

 private:
  std::string what_;
  StatusLine line_;
};

std::string time_left(double seconds);  // "40 s", "3 min", "2 h 05 min"

}  // namespace dyt
