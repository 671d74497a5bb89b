// Attention on the CPU: the loops that layers/attention.cu explains and calls.
//
// A thread takes one head of one sample at a time and keeps what it needs of it in its own scratch:
// keys and values packed for the products, and a strip of scores, query_tile queries wide and all
// keys long (a T x T matrix is never made). The five products then run over panels that lie in the
// first- or second-level cache, a small tile of the result at a time in registers.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>

#include "core/cpu_math.h"
#include "core/dtype.h"

namespace dyt {

// The sizes of one attention. Queries are the last T_q of T_k tokens: with `causal`, query t sees
// keys 0 .. t + T_k - T_q. Head h of the queries reads head h / (H / KV) of the keys and values.
struct AttentionShape {
  int64_t B, T_q, T_k, H, KV, D;
  bool causal;
  double scale;  // of the scores: 1 / sqrt(D)

  HOST_DEVICE int64_t group() const { return H / KV; }  // query heads per key head
  HOST_DEVICE int64_t keys_of(int64_t query) const { return causal ? query + T_k - T_q + 1 : T_k; }
};

// The rows of a head: token t of head h of sample b is data + b * sample + t * row + h * D. So the
// packed qkv is read in place, and separate q, k, v or a cache of keys and values can be as well.
template <class T>
struct Heads {
  T* data;
  int64_t sample, row;

  HOST_DEVICE T* head(int64_t b, int64_t h, int64_t D) const { return data + b * sample + h * D; }
};

namespace cpu {

// --- Small products ------------------------------------------------------------------------------
// Scratch matrices have rows of a multiple of `lanes` numbers, so whole tiles are computed always;
// what lies beyond the columns wanted is finite and ignored.

template <class T>
inline constexpr int lanes = 64 / sizeof(T);  // numbers in a cache line, or in an AVX-512 register

template <class T>
int64_t pad(int64_t n) {
  return (n + lanes<T> - 1) / lanes<T> * lanes<T>;
}

inline constexpr int tile_rows = 4;  // 4 x 4 registers of sums, or 4 x 2 where there are only 16
#if defined(__AVX512F__)
inline constexpr int tile_vectors = 4;
#else
inline constexpr int tile_vectors = 1;
#endif

// C (tile_rows, N) = A B, or += with `add`. Row r of A starts at a[r], its elements `step` apart.
template <int N, bool add, class T>
void product_tile(T* c, int64_t ldc, const T* const (&a)[tile_rows], int64_t step, const T* b,
                  int64_t ldb, int64_t K) {
  T sums[tile_rows][N] = {};
  for (int64_t k = 0; k < K; ++k) {
#pragma GCC unroll 4
    for (int r = 0; r < tile_rows; ++r) {
      const T a_rk = a[r][k * step];
#pragma omp simd simdlen(lanes<T>)
      for (int n = 0; n < N; ++n) sums[r][n] += a_rk * b[k * ldb + n];
    }
  }
  for (int r = 0; r < tile_rows; ++r) {
#pragma omp simd simdlen(lanes<T>)
    for (int n = 0; n < N; ++n) c[r * ldc + n] = (add ? c[r * ldc + n] : T(0)) + sums[r][n];
  }
}

// C (M, N) = A B, or += with `add`; B (K, N). Element (m, k) of A is a[m * row + k * step], so A may
// be stored either way. C has room for M rounded up to tile_rows, B and C for N rounded up to lanes.
template <bool add, class T>
void product(T* c, int64_t ldc, int64_t M, int64_t N, int64_t K, const T* a, int64_t row,
             int64_t step, const T* b, int64_t ldb) {
  constexpr int wide = tile_vectors * lanes<T>, narrow = lanes<T>;
  for (int64_t n = 0; n < N;) {
    const bool fits = n + wide <= pad<T>(N);
    for (int64_t m = 0; m < M; m += tile_rows) {
      const T* rows[tile_rows];  // beyond M: the last one again
      for (int r = 0; r < tile_rows; ++r) rows[r] = a + std::min(m + r, M - 1) * row;
      T* tile = c + m * ldc + n;
      if (fits) {
        product_tile<wide, add>(tile, ldc, rows, step, b + n, ldb, K);
      } else {
        product_tile<narrow, add>(tile, ldc, rows, step, b + n, ldb, K);
      }
    }
    n += fits ? wide : narrow;
  }
}

// to (rows, pad(D)) and to (D, ld): a head's rows, and the same transposed.
template <class T>
void pack_rows(T* to, const T* from, int64_t stride, int64_t rows, int64_t D) {
  for (int64_t t = 0; t < rows; ++t) {
    std::copy_n(from + t * stride, D, to + t * pad<T>(D));
    std::fill(to + t * pad<T>(D) + D, to + (t + 1) * pad<T>(D), T(0));
  }
}
template <class T>
void pack_transposed(T* to, int64_t ld, const T* from, int64_t stride, int64_t rows, int64_t D) {
  for (int64_t d = 0; d < D; ++d) {
    for (int64_t t = 0; t < rows; ++t) to[d * ld + t] = from[t * stride + d];
    std::fill(to + d * ld + rows, to + (d + 1) * ld, T(0));
  }
}

// This thread's own memory, kept for the next call and handed out in pieces.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    if (count > capacity) memory.reset(new (std::align_val_t(64)) T[size_t(count)]), capacity = count;
    next_ = memory.get();
  }
  T* take(int64_t count) {  // 64-byte aligned if all counts are multiples of lanes
    next_ += count;
    return next_ - count;
  }

 private:
  struct Free {
    void operator()(T* p) const { operator delete[](p, std::align_val_t(64)); }
  };
  static thread_local inline std::unique_ptr<T[], Free> memory;
  static thread_local inline int64_t capacity = 0;
  T* next_;
};

// --- Attention -----------------------------------------------------------------------------------

inline constexpr int64_t query_tile = 64;  // a multiple of tile_rows

// s (keys) becomes exp(scale s - max), in [keys, end) 0. Returns the sum; lse: the log of the sum of
// exp(scale s).
template <class T>
T softmax_row(T* s, int64_t keys, int64_t end, T scale, T* lse) {
  T max = s[0], sum = 0;
#pragma omp simd reduction(max : max)
  for (int64_t j = 0; j < keys; ++j) max = s[j] > max ? s[j] : max;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < keys; ++j) {
    s[j] = cpu::exp(scale * (s[j] - max));
    sum += s[j];
  }
  std::fill(s + keys, s + end, T(0));
  *lse = scale * max + std::log(sum);
  return sum;
}

// Scores s and dp = dy v' become probabilities p (in s) and ds (in dp); in [keys, end) both 0.
template <class T>
void softmax_row_backward(T* s, T* dp, int64_t keys, int64_t end, T scale, T lse, T delta) {
#pragma omp simd
  for (int64_t j = 0; j < keys; ++j) {
    s[j] = cpu::exp(scale * s[j] - lse);
    dp[j] = scale * s[j] * (dp[j] - delta);
  }
  std::fill(s + keys, s + end, T(0));
  std::fill(dp + keys, dp + end, T(0));
}

// to = from, or += with `add`, row by row of D numbers; `from` is packed.
template <class T>
void write_rows(T* to, int64_t stride, bool add, const T* from, int64_t rows, int64_t D) {
  for (int64_t t = 0; t < rows; ++t) {
    T* const row = to + t * stride;
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) row[d] = (add ? row[d] : T(0)) + from[t * pad<T>(D) + d];
  }
}

template <class T>
T dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace cpu

// y (B, T_q, H, D) and lse (B, H, T_q) from q, k, v.
template <class T>
void attention_forward_cpu(Heads<T> y, T* lse, Heads<const T> q, Heads<const T> k,
                           Heads<const T> v, const AttentionShape& shape) {
  using namespace cpu;
  const auto [B, T_q, T_k, H, KV, D, causal, scale] = shape;
  const int64_t Tp = pad<T>(T_k), Dp = pad<T>(D);
#pragma omp parallel for schedule(dynamic)
  for (int64_t pair = 0; pair < B * H; ++pair) {
    const int64_t b = pair / H, h = pair % H, kv = h / shape.group();
    Scratch<T> scratch(D * Tp + T_k * Dp + query_tile * (Tp + Dp));
    T* const k_t = scratch.take(D * Tp);          // (D, T_k)
    T* const v_rows = scratch.take(T_k * Dp);     // (T_k, D)
    T* const p = scratch.take(query_tile * Tp);   // scores, then probabilities (query_tile, T_k)
    T* const out = scratch.take(query_tile * Dp);
    pack_transposed(k_t, Tp, k.head(b, kv, D), k.row, T_k, D);
    pack_rows(v_rows, v.head(b, kv, D), v.row, T_k, D);
    for (int64_t first = 0; first < T_q; first += query_tile) {
      const int64_t queries = std::min(query_tile, T_q - first);
      const int64_t keys = shape.keys_of(first + queries - 1);  // of the tile's last query
      const T* q_rows = q.head(b, h, D) + first * q.row;
      T sums[query_tile];
      product<false>(p, Tp, queries, keys, D, q_rows, q.row, 1, k_t, Tp);
      for (int64_t i = 0; i < queries; ++i) {
        sums[i] = softmax_row(p + i * Tp, shape.keys_of(first + i), keys, T(scale),
                              lse + pair * T_q + first + i);
      }
      product<false>(out, Dp, queries, D, keys, p, Tp, 1, v_rows, Dp);
      for (int64_t i = 0; i < queries; ++i) {
        T* const row = y.head(b, h, D) + (first + i) * y.row;
        const T inverse = 1 / sums[i];
#pragma omp simd
        for (int64_t d = 0; d < D; ++d) row[d] = inverse * out[i * Dp + d];
      }
    }
  }
}


// dq, dk, dv from dy; added to what is there if `add`. lse (B, H, T_q).
template <class T>
void attention_backward_cpu(Heads<T> dq, Heads<T> dk, Heads<T> dv, bool add, Heads<const T> dy,
                            Heads<const T> y, const T* lse, Heads<const T> q, Heads<const T> k,
                            Heads<const T> v, const AttentionShape& shape) {
  using namespace cpu;
  const auto [B, T_q, T_k, H, KV, D, causal, scale] = shape;
  const int64_t Tp = pad<T>(T_k), Dp = pad<T>(D), group = shape.group();
#pragma omp parallel for schedule(dynamic)
  for (int64_t pair = 0; pair < B * KV; ++pair) {
    const int64_t b = pair / KV, kv = pair % KV;
    Scratch<T> scratch(2 * D * Tp + 3 * Tp * Dp + query_tile * (2 * Tp + 3 * Dp));
    T* const k_t = scratch.take(D * Tp);  // (D, T_k)
    T* const v_t = scratch.take(D * Tp);
    T* const k_rows = scratch.take(Tp * Dp);  // (T_k, D)
    T* const dk_rows = scratch.take(Tp * Dp);
    T* const dv_rows = scratch.take(Tp * Dp);
    T* const p = scratch.take(query_tile * Tp);  // (query_tile, T_k)
    T* const ds = scratch.take(query_tile * Tp);
    T* const q_rows = scratch.take(query_tile * Dp);  // (query_tile, D)
    T* const dy_rows = scratch.take(query_tile * Dp);
    T* const dq_rows = scratch.take(query_tile * Dp);
    pack_transposed(k_t, Tp, k.head(b, kv, D), k.row, T_k, D);
    pack_transposed(v_t, Tp, v.head(b, kv, D), v.row, T_k, D);
    pack_rows(k_rows, k.head(b, kv, D), k.row, T_k, D);
    std::fill(dk_rows, dk_rows + T_k * Dp, T(0));
    std::fill(dv_rows, dv_rows + T_k * Dp, T(0));
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
      for (int64_t first = 0; first < T_q; first += query_tile) {
        const int64_t queries = std::min(query_tile, T_q - first);
        const int64_t keys = shape.keys_of(first + queries - 1);  // of the tile's last query
        const T* const y_first = y.head(b, h, D) + first * y.row;
        pack_rows(q_rows, q.head(b, h, D) + first * q.row, q.row, queries, D);
        pack_rows(dy_rows, dy.head(b, h, D) + first * dy.row, dy.row, queries, D);
        product<false>(p, Tp, queries, keys, D, q_rows, Dp, 1, k_t, Tp);
        product<false>(ds, Tp, queries, keys, D, dy_rows, Dp, 1, v_t, Tp);
        for (int64_t i = 0; i < queries; ++i) {
          const T delta = dot(dy_rows + i * Dp, y_first + i * y.row, D);
          softmax_row_backward(p + i * Tp, ds + i * Tp, shape.keys_of(first + i), keys, T(scale),
                               lse[(b * H + h) * T_q + first + i], delta);
        }
        product<true>(dv_rows, Dp, keys, D, queries, p, 1, Tp, dy_rows, Dp);
        product<true>(dk_rows, Dp, keys, D, queries, ds, 1, Tp, q_rows, Dp);
        product<false>(dq_rows, Dp, queries, D, keys, ds, Tp, 1, k_rows, Dp);
        write_rows(dq.head(b, h, D) + first * dq.row, dq.row, add, dq_rows, queries, D);
      }
    }
    write_rows(dk.head(b, kv, D), dk.row, add, dk_rows, T_k, D);
    write_rows(dv.head(b, kv, D), dv.row, add, dv_rows, T_k, D);
  }
}

}  // namespace dyt
