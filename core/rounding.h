// Whole tensors on the CPU: from f32 to bf16 and back, and sums of the two.
#pragma once
#include <cstdint>
#include <type_traits>
#include <vector>

#include "core/dtype.h"

namespace dyt {

void round_to_bf16(bf16* to, const float* from, int64_t n);  // to[0..n) = from, rounded
void widen(float* to, const bf16* from, int64_t n);          // to[0..n) = from

// to[0..n) += from: f32 and bf16, either to either, summed in f32; f64 to f64.
template <class To, class From>
void add(To* to, const From* from, int64_t n);

// One row, by one thread.
void round_row(bf16* to, const float* from, int64_t n);
void widen_row(float* to, const bf16* from, int64_t n);  // to: room for n rounded up to 16

// A row of numbers, at most `most`, for a loop in f32 or f64 on the CPU: itself, or of bf16 a copy
// in f32.
template <class T>
class WorkingRow {
 public:
  using A = Acc<T>;
  static constexpr bool copies = !std::is_same_v<T, A>;
  explicit WorkingRow(int64_t most) : memory_(copies ? size_t((most + 15) / 16 * 16) : 0) {}
  const A* read(const T* row, int64_t n) { return open(const_cast<T*>(row), n, true); }
  // To be written, and closed after that; with `read`, what is there is to be read first.
  A* open(T* row, int64_t n, bool read) {
    if constexpr (copies) {
      if (read) widen_row(memory_.data(), row, n);
      return memory_.data();
    } else {
      return row;
    }
  }
  void close(T* row, int64_t n) const {
    if constexpr (copies) round_row(row, memory_.data(), n);
  }

 private:
  std::vector<A> memory_;
};

}  // namespace dyt
