#include "core/rounding.h"

#include "core/bf16_cpu.h"
#include "core/bf16_pairs.h"

namespace dyt {

void round_to_bf16(bf16* to, const float* from, int64_t n) {
  cpu::put_all(to, n, [=](int64_t i) { return from[i]; });
}

void widen(float* to, const bf16* from, int64_t n) {
  cpu::put_all(to, n, [=](int64_t i) { return float(from[i]); });
}

void round_row(bf16* to, const float* from, int64_t n) {
  int64_t i = 0;
  for (; i + cpu::at_once <= n; i += cpu::at_once) cpu::put_piece(to + i, from + i);
  cpu::put_part(to + i, from + i, n - i);
}

void widen_row(float* to, const bf16* from, int64_t n) {
  int64_t i = 0;
#if defined(DYT_BF16_PAIRS)  // whole vectors, so that a loop's loads don't span several stores
  for (; i < n; i += 16)
    _mm512_storeu_ps(to + i, pairs::widened(pairs::load_up_to(from + i, n - i)));
#endif
#pragma omp simd
  for (int64_t j = i; j < n; ++j) to[j] = float(from[j]);
}

template <class To, class From>
void add(To* to, const From* from, int64_t n) {
  using A = Acc<To>;
  cpu::put_all(to, n, [=](int64_t i) { return A(to[i]) + A(from[i]); });
}
template void add(bf16*, const bf16*, int64_t);
template void add(bf16*, const float*, int64_t);
template void add(float*, const bf16*, int64_t);
template void add(float*, const float*, int64_t);
template void add(double*, const double*, int64_t);

}  // namespace dyt
