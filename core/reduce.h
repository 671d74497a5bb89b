// Deterministic sums. A sum over rows is done in two stages whose shape depends on the sizes only:
// parts of the rows are summed independently, in a fixed order each; then the parts are added up in
// a fixed order. So the bits of a gradient don't depend on the number of threads or on their
// timing.
#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>

namespace dyt {

// Cuts [0, rows) into at most 64 parts and calls body(part, begin, end) for each, in parallel.
template <class Body>
void for_each_part(int64_t rows, Body&& body, int64_t most = 64) {
  const int64_t parts = std::min(most, rows);
#pragma omp parallel for schedule(static)
  for (int64_t part = 0; part < parts; ++part) {
    body(part, rows * part / parts, rows * (part + 1) / parts);
  }
}

// sums[0..n) += the column sums over `rows` of what body(begin, end, partial) adds to its
// partial[n]. A part has at least 16 rows, or adding the parts up would take as long.
template <class T, class Body>
void sum_over_rows(T* sums, int64_t n, int64_t rows, Body&& body) {
  const int64_t parts = std::clamp<int64_t>(rows / 16, 1, 64);
  const auto partials = std::make_unique_for_overwrite<T[]>(size_t(parts * n));
  for_each_part(
      rows,
      [&](int64_t part, int64_t begin, int64_t end) {
        T* const partial = partials.get() + part * n;
        std::fill_n(partial, n, T(0));
        body(begin, end, partial);
      },
      parts);
  for (int64_t part = 0; part < std::min(parts, rows); ++part) {
    for (int64_t i = 0; i < n; ++i) sums[i] += partials[size_t(part * n + i)];
  }
}

// The second stage on the GPU: sums[i] += the sum over parts of partials[part * stride + i], i < n.
struct PartialSums {
  float* sums;  // null: nobody wants them
  const float* partials;
  int64_t parts, n, stride;
};
// Up to four of them with one launch: what one kernel leaves, of several parameters.
void add_partials_gpu(std::initializer_list<PartialSums> all);
inline void add_partials_gpu(float* sums, const float* partials, int64_t parts, int64_t n) {
  add_partials_gpu({{sums, partials, parts, n, n}});
}

// Into how many row parts the first stage is cut when each part covers `columns` blocks: enough for
// `blocks` of them, by default enough to fill a large GPU, and at least `rows_per_part` rows each.
inline int64_t row_parts(int64_t rows, int64_t columns, int64_t rows_per_part,
                         int64_t blocks = 1024) {
  const int64_t wanted = std::max<int64_t>(1, blocks / columns);
  return std::clamp<int64_t>((rows + rows_per_part - 1) / rows_per_part, 1, wanted);
}

}  // namespace dyt
