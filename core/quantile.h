// The middle of some measurements.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

namespace dyt {

// The value below which this share of them lies, between neighbours in proportion; at least one.
inline double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double at = share * double(values.size() - 1);
  const size_t i = std::min(size_t(at), values.size() - 1), j = std::min(i + 1, values.size() - 1);
  return values[i] + (at - double(i)) * (values[j] - values[i]);
}
inline double median(const std::vector<double>& values) { return quantile(values, 0.5); }

}  // namespace dyt
