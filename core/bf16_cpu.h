// Rounding to bf16 in the CPU's loops. With nvcc, which doesn't know every compiler's headers of
// vector instructions, .cu files see only what is there for f32 and f64: loops that they share with
// bf16 are templates, made for bf16 in a .cpp file (layers/activations_bf16.cpp).
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#if defined(__AVX512BF16__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

#include "core/dtype.h"

namespace dyt::cpu {

// to[i] = value(i) for i < n; rounded, if it holds bf16 (below).
template <class T, class F>
inline void put_row(T* to, int64_t n, F&& value) {
  static_assert(!std::is_same_v<T, bf16>, "loops for bf16 are made in .cpp files");
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = value(i);
}

#if !defined(__CUDACC__)

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

// The first n < at_once of them. Eight at a time: a load that is wider than the stores before it
// waits for them.
inline void put_part(bf16* to, const float* from, int64_t n) {
  int64_t i = 0;
#if defined(__AVX512BF16__) && defined(__AVX512VL__)
  for (; i + 8 <= n; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     __m128i(_mm256_cvtneps_pbh(_mm256_loadu_ps(from + i))));
  }
#endif
#pragma omp simd
  for (int64_t j = i; j < n; ++j) put(to[j], from[j]);
}

// to[i] = value(i), rounded, for i < n. Each value is asked for once.
template <class F>
inline void put_row(bf16* to, int64_t n, F&& value) {
  float piece[at_once];
  int64_t i = 0;
  for (; i + at_once <= n; i += at_once) {
#pragma omp simd
    for (int64_t j = 0; j < at_once; ++j) piece[j] = value(i + j);
    put_piece(to + i, piece);
  }
  if (i == n) return;
#pragma omp simd
  for (int64_t j = 0; j < n - i; ++j) piece[j] = value(i + j);
  put_part(to + i, piece, n - i);
}

#endif

// Calls body(first, count) for pieces of n numbers, in parallel: small enough that what is written
// of a piece is still in the first-level cache when it is read again.
template <class Body>
inline void for_each_piece(int64_t n, Body&& body) {
  constexpr int64_t piece = 2048;
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < n; first += piece) body(first, std::min(piece, n - first));
}

// to[i] = value(i) for i < n, in parallel.
template <class T, class F>
inline void put_all(T* to, int64_t n, F value) {
  for_each_piece(n, [=](int64_t first, int64_t count) {
    put_row(to + first, count, [=](int64_t i) { return value(first + i); });
  });
}

}  // namespace dyt::cpu
