#include "training/progress.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <utility>

namespace dyt {

ProgressLine::ProgressLine(std::string what, bool quiet)
    : what_(std::move(what)), quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() {
  if (width_) std::fprintf(stderr, "\n");
}

void ProgressLine::operator()(const Progress& p) {
  if (quiet_) return;
  const auto now = std::chrono::steady_clock::now();
  const int64_t tenth = p.step * 10 / p.steps;
  const bool last = p.step == p.steps;
  if (terminal_ ? now < next_ && !last : tenth == last_tenth_) return;
  next_ = now + std::chrono::milliseconds(200);
  last_tenth_ = tenth;
  char unseen[48] = "";
  if (p.last && p.last->test_accuracy >= 0) {
    std::snprintf(unseen, sizeof unseen, "  accuracy %.1f %%", 100 * p.last->test_accuracy);
  } else if (p.last) {
    std::snprintf(unseen, sizeof unseen, "  validation %.3f", p.last->test_loss);
  }
  const long left = std::lround(p.seconds_left);
  char line[256];
  const int n =
      std::snprintf(line, sizeof line, "%s  step %lld/%lld  loss %.3f%s  %.0f %s/s  %ld:%02ld left",
                    what_.c_str(), static_cast<long long>(p.step), static_cast<long long>(p.steps),
                    p.loss, unseen, p.samples_per_second, p.samples, left / 60, left % 60);
  if (!terminal_) {
    std::fprintf(stderr, "%s\n", line);
    return;
  }
  const size_t length = size_t(n) < sizeof line ? size_t(n) : sizeof line - 1;
  std::fprintf(stderr, "\r%s%*s", line, length < width_ ? int(width_ - length) : 0, "");
  width_ = length;
  std::fflush(stderr);
}

}  // namespace dyt
