// Rounding to bf16 in the CPU's loops. Only .cpp files include this.
#pragma once
#include <cstdint>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "core/dtype.h"

namespace dyt::cpu {

// to = value, rounded. A bf16 that is assigned as a struct keeps a loop from being vectorised.
inline void put(bf16& to, float value) { to.bits = bf16(value).bits; }

inline constexpr int64_t at_once = 64;

// to[0..at_once) = from, rounded: by the processor's own instruction if it has one, which flushes
// what is below 1.2e-38 to zero.
inline void put_piece(bf16* to, const float* from) {
#if defined(__AVX512BF16__)
  for (int64_t i = 0; i < at_once; i += 32) {
    const __m512 low = _mm512_loadu_ps(from + i), high = _mm512_loadu_ps(from + i + 16);
    _mm512_storeu_si512(to + i, __m512i(_mm512_cvtne2ps_pbh(high, low)));
  }
#else
#pragma omp simd
  for (int64_t i = 0; i < at_once; ++i) put(to[i], from[i]);
#endif
}

// to[i] = value(i), rounded, for i < n. Each value is asked for once.
template <class F>
inline void put_row(bf16* to, int64_t n, F&& value) {
  int64_t i = 0;
  for (; i + at_once <= n; i += at_once) {
    float piece[at_once];
#pragma omp simd
    for (int64_t j = 0; j < at_once; ++j) piece[j] = value(i + j);
    put_piece(to + i, piece);
  }
#pragma omp simd
  for (int64_t j = i; j < n; ++j) put(to[j], value(j));
}

}  // namespace dyt::cpu
