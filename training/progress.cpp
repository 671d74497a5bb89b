#include "training/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace dyt {

StatusLine::StatusLine()
    : terminal_(isatty(STDERR_FILENO) == 1),
      next_(std::chrono::steady_clock::now() + std::chrono::milliseconds(terminal_ ? 0 : 2000)) {}

StatusLine::~StatusLine() {
  if (width_) std::fprintf(stderr, "\n");
}

void StatusLine::show(double share, const std::function<std::string()>& text) {
  const auto now = std::chrono::steady_clock::now();
  const int tenth = int(share * 10 + 1e-9);
  const bool last = share >= 1;
  if (terminal_ ? now < next_ && !last : now < next_ || tenth == last_tenth_) return;
  next_ = now + std::chrono::milliseconds(terminal_ ? 200 : 2000);
  last_tenth_ = tenth;
  std::string line = text();
  if (!terminal_) {
    std::fprintf(stderr, "%s\n", line.c_str());
    return;
  }
  winsize window{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1) {
    line = line.substr(0, size_t(window.ws_col - 1));  // a line that wraps can't be rewritten
  }
  const size_t length = line.size();
  if (length < width_) line.append(width_ - length, ' ');
  std::fprintf(stderr, "\r%s", line.c_str());
  width_ = length;
  std::fflush(stderr);
}

ProgressLine::ProgressLine(std::string what) : what_(std::move(what)) {}

void ProgressLine::operator()(const Progress& p) {
  line_.show(double(p.step) / double(p.steps), [&] {
    char unseen[48] = "";
    if (p.last && p.last->test_accuracy >= 0) {
      std::snprintf(unseen, sizeof unseen, "  accuracy %.1f %%", 100 * p.last->test_accuracy);
    } else if (p.last) {
      std::snprintf(unseen, sizeof unseen, "  validation %.3f", p.last->test_loss);
    }
    char line[256];
    std::snprintf(line, sizeof line, "%s  step %lld/%lld  loss %.3f%s  %.0f %s/s  %s left",
                  what_.c_str(), static_cast<long long>(p.step), static_cast<long long>(p.steps),
                  p.loss, unseen, p.samples_per_second, p.samples,
                  time_left(p.seconds_left).c_str());
    return std::string(line);
  });
}

std::string time_left(double seconds) {
  const long s = std::lround(std::max(seconds, 0.0)), minutes = (s + 30) / 60;
  char text[32];
  if (s < 90) {
    std::snprintf(text, sizeof text, "%ld s", s);
  } else if (minutes < 100) {
    std::snprintf(text, sizeof text, "%ld min", minutes);
  } else {
    std::snprintf(text, sizeof text, "%ld h %02ld min", minutes / 60, minutes % 60);
  }
  return text;
}

}  // namespace dyt
