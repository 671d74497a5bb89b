// Seconds since some fixed moment, by a clock that nobody sets back.
#pragma once
#include <chrono>

namespace dyt {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace dyt
