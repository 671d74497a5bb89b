// Random numbers on a device, and a matrix product of them: what bench/ works on.
#pragma once
#include <array>
#include <cstdint>

#include "core/device.h"
#include "core/matmul.h"

namespace dyt {

// N(0, 1), a million of them over and over. Never zeros: a GPU computes faster with those.
void fill_random(Device device, DType dtype, void* data, int64_t count);
void fill_random_indices(Device device, int32_t* data, int64_t count, int64_t below);

// Several sets of random numbers in one piece of memory, so that each can be another's turn away
// from the cache.
class RandomSets {
 public:
  RandomSets(Device device, DType dtype, int64_t count, int sets)
      : bytes_((size_t(count) * size_of(dtype) + 255) / 256 * 256),
        memory_(device, bytes_ * size_t(sets)) {
    for (int i = 0; i < sets; ++i) fill_random(device, dtype, at(i), count);
  }
  void* at(int set) const { return static_cast<char*>(memory_.data()) + bytes_ * size_t(set); }

 private:
  size_t bytes_;
  Buffer memory_;
};

// c = op(a) op(b), all in one number type; sizes {m, n, k}.
void product(Device device, DType dtype, Op op_a, Op op_b, std::array<int64_t, 3> sizes,
             const void* a, const void* b, void* c);

}  // namespace dyt
