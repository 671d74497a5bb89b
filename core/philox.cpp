#include "core/philox.h"

#include <cmath>
#include <numbers>

namespace dyt {

// Box and Muller, "A Note on the Generation of Random Normal Deviates" (1958): with u, v uniform,
// sqrt(-2 ln u) cos(2 pi v) is normal. Its twin with the sine is dropped, so that every call spends
// two numbers and the sequence keeps no hidden half. u is in (0, 1]: the logarithm stays finite.
double RandomSequence::normal() {
  const double u = (next() + 1.0) * 0x1p-32, v = next() * 0x1p-32;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

}  // namespace dyt
