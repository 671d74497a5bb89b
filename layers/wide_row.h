// Walking along the rows of a matrix x (rows, C) on the CPU, where what belongs to a channel is the
// same in every row.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace dyt {

// A row of few channels is too short for a vector loop. Rows lie one behind the other, so several
// of them are one wide row, and what belongs to channel c belongs to the numbers c, c + C, c + 2 C
// ... of it. This many rows:
inline int64_t rows_in_wide_row(int64_t C) { return C >= 128 ? 1 : (127 + C) / C; }

// wide[i] = value(i % C) for all i of a wide row.
template <class T, class Value>
void repeat_over_wide_row(std::vector<T>& wide, int64_t C, Value&& value) {
  wide.resize(size_t(rows_in_wide_row(C) * C));
  for (int64_t c = 0; c < C; ++c) wide[size_t(c)] = value(c);
  for (size_t i = size_t(C); i < wide.size(); ++i) wide[i] = wide[i - size_t(C)];
}

// Calls body(first, n) for each wide row of x (rows, C): n numbers, the first is x[first]. Only the
// last one is shorter than the others.
template <class Body>
void for_each_wide_row(int64_t rows, int64_t C, Body&& body) {
  const int64_t width = rows_in_wide_row(C) * C;
  for (int64_t first = 0; first < rows * C; first += width) {
    body(first, std::min(width, rows * C - first));
  }
}

// The sum over a wide row's numbers of channel c.
template <class T>
T sum_of_channel(const std::vector<T>& wide, int64_t c, int64_t C) {
  T sum = 0;
  for (size_t i = size_t(c); i < wide.size(); i += size_t(C)) sum += wide[i];
  return sum;
}

}  // namespace dyt
