// Philox 4x32-10, the counter-based random number generator of Salmon, Moraes, Dror and Shaw,
// "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).
//
// A counter-based generator is a pure function (key, counter) -> 128 random bits: there is no state
// to share between threads, any number can be computed by itself, and the CPU, the GPU and the
// emulator all see the same numbers. We spend the key on the seed and the counter on "which
// number": (index, stream), where the stream names the consumer, e.g. a training step and an op in
// it.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace dyt {

struct Random4 {
  uint32_t x[4];
};

// The 64-bit product of two 32-bit numbers.
HOST_DEVICE inline uint64_t wide_product(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  // Of uint64_t(a) * b with a constant a, nvcc makes a product of 64-bit numbers: one more
  // addition, of 0.
  uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
#else
  return uint64_t(a) * b;
#endif
}

// Ten rounds of multiply-and-mix of a 128-bit counter under a 64-bit key.
HOST_DEVICE inline Random4 philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  uint32_t c0 = uint32_t(counter_low), c1 = uint32_t(counter_low >> 32);
  uint32_t c2 = uint32_t(counter_high), c3 = uint32_t(counter_high >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = wide_product(0xD2511F53u, c0), p1 = wide_product(0xCD9E8D57u, c2);
    const uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0, n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1), c3 = uint32_t(p0), c0 = n0, c2 = n2;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;  // golden ratio, sqrt(3) - 1: the Weyl key schedule
  }
  return {{c0, c1, c2, c3}};
}

// 24 random bits as a float in [0, 1): exact in f32, so equal on every device.
HOST_DEVICE inline float uniform01(uint32_t bits) { return float(bits >> 8) * 0x1p-24f; }

// Which random numbers an op draws: a seed and a stream. `uniform(i)` is the i-th of the stream.
// A kernel that is recorded once and repeated (core/graph.h) finds its arguments unchanged, so what
// is different every time lies in the device's memory: *later, if given, is added to the stream.
struct RandomStream {
  uint64_t seed = 0, stream = 0;
  const uint64_t* later = nullptr;
  HOST_DEVICE Random4 bits(uint64_t index) const { return philox(seed, index, settled().stream); }
  // The same without `later`: for a thread that draws more than once.
  HOST_DEVICE RandomStream settled() const { return {seed, stream + (later ? *later : 0)}; }
  HOST_DEVICE float uniform(uint64_t index) const { return uniform01(bits(index).x[0]); }
};

// A sequential reader of one stream for host code (data generation, shuffling, initial values).
class RandomSequence {
 public:
  RandomSequence(uint64_t seed, uint64_t stream) : source_{seed, stream} {}
  uint32_t next() {
    if (used_ == 4) block_ = source_.bits(index_++), used_ = 0;
    return block_.x[used_++];
  }
  float uniform() { return uniform01(next()); }  // [0, 1)
  float uniform(float low, float high) { return low + (high - low) * uniform(); }
  uint32_t below(uint32_t n) { return uint32_t((uint64_t(next()) * n) >> 32); }  // {0 .. n-1}
  double normal();  // mean 0, variance 1 (Box-Muller)

 private:
  RandomStream source_;
  Random4 block_{};
  uint64_t index_ = 0;
  int used_ = 4;
};

}  // namespace dyt
