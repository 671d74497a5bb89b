// Errors a student can act on: what was wrong, the value, what would be right.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace dyt {

// Thrown for every failure below main; main prints the sentence on one line and exits 1.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws Error with the arguments written one after the other, as to a stream.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream sentence;
  (sentence << ... << parts);
  throw Error(sentence.str());
}

// fail(parts...) unless the condition holds.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) fail(parts...);
}

}  // namespace dyt
