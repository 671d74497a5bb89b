#include "core/rounding.h"

#include "core/bf16_cpu.h"

namespace dyt {

void round_to_bf16(bf16* to, const float* from, int64_t n) {
  cpu::put_all(to, n, [=](int64_t i) { return from[i]; });
}

void widen(float* to, const bf16* from, int64_t n) {
  cpu::put_all(to, n, [=](int64_t i) { return float(from[i]); });
}

void add(bf16* to, const bf16* from, int64_t n) {
  cpu::put_all(to, n, [=](int64_t i) { return float(to[i]) + float(from[i]); });
}

void add(bf16* to, const float* from, int64_t n) {
  cpu::put_all(to, n, [=](int64_t i) { return float(to[i]) + from[i]; });
}

void add(float* to, const bf16* from, int64_t n) {
  cpu::put_all(to, n, [=](int64_t i) { return to[i] + float(from[i]); });
}

void add(float* to, const float* from, int64_t n) {
  cpu::put_all(to, n, [=](int64_t i) { return to[i] + from[i]; });
}

}  // namespace dyt
