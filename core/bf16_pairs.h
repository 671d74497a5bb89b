// Pairs of bf16, what AVX512-BF16 and AMX multiply: one instruction adds to each of its f32 sums
// the two products of a pair with another pair. For .cpp files of code for such processors.
#pragma once
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define DYT_BF16_PAIRS

#if !defined(__clang__)
// g++ 12 warns of what its own intrinsics leave undefined on purpose (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

#include "core/dtype.h"

namespace dyt::pairs {

using Pair = int32_t;  // two bf16, the first in the lower half

inline __m512i round_32(__m512 low, __m512 high) { return __m512i(_mm512_cvtne2ps_pbh(high, low)); }

// For 16 pairs (a_i, b_i) out of a_0 .. a_15, b_0 .. b_15.
inline __m512i interleaved(__m512i a_then_b) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, a_then_b);
}

// The first n of 16.
inline __mmask16 first(int64_t n) {
  return n >= 16 ? 0xffff : n <= 0 ? 0 : __mmask16((1u << n) - 1);
}

// The wanted ones of 16 numbers, zeros for the others.
inline __m512 load(const float* x, __mmask16 wanted) { return _mm512_maskz_loadu_ps(wanted, x); }
inline __m256i load(const bf16* x, __mmask16 wanted) { return _mm256_maskz_loadu_epi16(wanted, x); }

// The first n of x, zeros behind.
inline __m512 load_up_to(const float* x, int64_t n) {
  return n >= 16 ? _mm512_loadu_ps(x) : load(x, first(n));
}
inline __m256i load_up_to(const bf16* x, int64_t n) {
  return n >= 16 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)) : load(x, first(n));
}

// 16 bf16 in f32
inline __m512 widened(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// 32 bf16: 16 of `low` and 16 of `high`.
inline __m512i join(__m512 low, __m512 high) { return round_32(low, high); }
inline __m512i join(__m256i low, __m256i high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

inline __m512i read_32(const float* x) {
  return round_32(_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16));
}
inline __m512i read_32(const bf16* x) { return _mm512_loadu_si512(x); }

// A matrix of 16 x 16 numbers of 32 bits, row i in x[i], becomes its transpose.
inline void transpose(__m512i (&x)[16]) {
  __m512i y[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {  // 2 x 2 within each 128 bits
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4) {  // 4 x 4
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {  // blocks of 128 bits
    y[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
    y[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
    y[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
    y[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
    x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd);
    x[i + 4] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0x88);
    x[i + 12] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0xdd);
  }
}

}  // namespace dyt::pairs

#endif
