// Attention on the CPU: the loops that layers/attention.cu explains and calls.
//
// A thread takes one head of one sample at a time, and of it query_tile queries at a time, with all
// their keys. Scores are kept transposed, s (T_k, query_tile): a column per query. So the maximum
// and the sum over a query's keys, which on a GPU need exchanges between threads, are here the same
// operation on every column, 16 columns to a register; and nothing is ever T x T.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>

#include "core/cpu_math.h"
#include "core/dtype.h"

namespace dyt {

// The sizes of one attention. The queries are the last T_q of T_k tokens: with `causal`, query t
// sees keys 0 .. t + T_k - T_q. Head h of the queries reads head h / (H / KV) of keys and values.
// With `lengths`, only the first lengths[b] keys of sample b exist; the others are padding.
struct AttentionShape {
  int64_t B;
  int T_q, T_k, H, KV, D;
  bool causal;
  double scale;                      // of the scores: 1 / sqrt(D)
  const int32_t* lengths = nullptr;  // (B), 1 .. T_k each, on the device; null: T_k everywhere

  HOST_DEVICE int group() const { return H / KV; }  // query heads per key head
  // Keys of sample b that exist. Read it once per sample: it is in memory.
  HOST_DEVICE int length_of(int64_t b) const {
    return lengths && lengths[b] < T_k ? lengths[b] : T_k;
  }
  // Keys that a query sees in a sample of this length: the first so many.
  HOST_DEVICE int keys_of(int query, int length) const {
    const int past = query + T_k - T_q + 1;
    return causal && past < length ? past : length;
  }
};

// The rows of a head: token t of head h of sample b is data + b * sample + t * row + h * D. So the
// packed qkv is read in place, and separate q, k, v or a cache of keys and values can be as well.
template <class T>
struct Heads {
  T* data;
  int64_t sample, row;

  HOST_DEVICE T* head(int64_t b, int64_t h, int64_t D) const { return data + b * sample + h * D; }
};

namespace attention_cpu {

// --- Small products -----------------------------------------------------------------------------
// Matrices in scratch memory have rows of a multiple of `lanes` numbers, and whole tiles of them
// are computed: what lies beyond the wanted columns is finite and ignored.

template <class T>
inline constexpr int lanes = 64 / sizeof(T);  // numbers in a cache line, or in an AVX-512 register

template <class T>
int64_t pad(int64_t n) {
  return (n + lanes<T> - 1) / lanes<T> * lanes<T>;
}

// A register of numbers, and how many of them in a row a tile has. g++ takes wider vectors than the
// processor has, too, but then keeps them in memory.
#if defined(__AVX512F__)
inline constexpr int register_bytes = 64, tile_registers = 4;  // 4 x 4 of 32 registers hold sums
#elif defined(__AVX__)
inline constexpr int register_bytes = 32, tile_registers = 2;  // 4 x 2 of 16
#else
inline constexpr int register_bytes = 16, tile_registers = 4;  // 4 x 4 of 32, or of SSE's 16
#endif
inline constexpr int tile_rows = 4;

template <class T>
struct Register {
  typedef T type __attribute__((vector_size(register_bytes), aligned(sizeof(T)), may_alias));
  static constexpr int lanes = register_bytes / sizeof(T);
};

// Keeps the compiler from loading x again at every use: a load takes as long as the multiplication
// it feeds. (T is named, not deduced: clang deduces a type that is aligned as its size asks.)
template <class T>
inline void in_register([[maybe_unused]] typename Register<T>::type& x) {
#if defined(__AVX__)
  asm("" : "+v"(x));
#endif
}

// C (tile_rows, N) = A B, or += with `add`. Row r of A starts at a[r], its elements `step` apart.
template <int N, bool add, class T>
void product_tile(T* c, int64_t ldc, const T* const (&a)[tile_rows], int64_t step, const T* b,
                  int64_t ldb, int64_t K) {
  using Vector = typename Register<T>::type;
  constexpr int L = Register<T>::lanes, V = N / L;
  Vector sums[tile_rows][V] = {};
  for (int64_t k = 0; k < K; ++k) {
    const T a_k[tile_rows] = {a[0][k * step], a[1][k * step], a[2][k * step], a[3][k * step]};
    for (int v = 0; v < V; ++v) {
      Vector b_kv = *reinterpret_cast<const Vector*>(b + k * ldb + v * L);
      in_register<T>(b_kv);
      for (int r = 0; r < tile_rows; ++r) sums[r][v] += a_k[r] * b_kv;
    }
  }
  for (int r = 0; r < tile_rows; ++r) {
    for (int v = 0; v < V; ++v) {
      Vector& c_rv = *reinterpret_cast<Vector*>(c + r * ldc + v * L);
      c_rv = add ? c_rv + sums[r][v] : sums[r][v];
    }
  }
}

// C (M, N) = A B, or += with `add`; B (K, N). Element (m, k) of A is a[m * row + k * step], so A
// may be stored either way. C has room for M rounded up to tile_rows; B and C for N rounded up to
// lanes. The columns are covered by tiles of `width`, what is left by narrower ones.
template <bool add, class T, int width = tile_registers* Register<T>::lanes>
void product(T* c, int64_t ldc, int64_t M, int64_t N, int64_t K, const T* a, int64_t row,
             int64_t step, const T* b, int64_t ldb) {
  int64_t n = 0;
  for (; n + width <= pad<T>(N); n += width) {
    for (int64_t m = 0; m < M; m += tile_rows) {
      const T* rows[tile_rows];  // beyond M: the last one again
      for (int r = 0; r < tile_rows; ++r) rows[r] = a + std::min(m + r, M - 1) * row;
      product_tile<width, add>(c + m * ldc + n, ldc, rows, step, b + n, ldb, K);
    }
  }
  if constexpr (width > lanes<T>) {
    if (n < N) product<add, T, width / 2>(c + n, ldc, M, N - n, K, a, row, step, b + n, ldb);
  }
}

// to (rows, pad(D)) = from (rows, D), a head's rows as a product wants them on its right.
template <class T>
void pack_rows(T* to, const T* from, int64_t stride, int64_t rows, int64_t D) {
  using Vector = typename Register<T>::type;
  constexpr int L = Register<T>::lanes;
  for (int64_t t = 0; t < rows; ++t, from += stride, to += pad<T>(D)) {
    int64_t d = 0;
    for (; d + L <= D; d += L) {  // in registers: for so few numbers, a call to memcpy takes longer
      Vector x = *reinterpret_cast<const Vector*>(from + d);
      in_register<T>(x);
      *reinterpret_cast<Vector*>(to + d) = x;
    }
    for (; d < pad<T>(D); ++d) to[d] = d < D ? from[d] : T(0);
  }
}
// to (D, ld), its first `columns` columns: the same, transposed.
template <class T>
void pack_transposed(T* to, int64_t ld, int64_t columns, const T* from, int64_t stride,
                     int64_t rows, int64_t D) {
  int64_t d = 0;
  for (; d + 4 <= D; d += 4) {  // four at a time, for four consecutive numbers are one load
    T* const to_d = to + d * ld;
    for (int64_t t = 0; t < rows; ++t) {
      const T* const x = from + t * stride + d;
      to_d[t] = x[0];
      to_d[t + ld] = x[1];
      to_d[t + 2 * ld] = x[2];
      to_d[t + 3 * ld] = x[3];
    }
  }
  for (; d < D; ++d) {
    for (int64_t t = 0; t < rows; ++t) to[d * ld + t] = from[t * stride + d];
  }
  for (d = 0; d < D; ++d) std::fill(to + d * ld + rows, to + d * ld + columns, T(0));
}

// to = from, or += with `add`; `from` is packed, `to` a head's rows.
template <class T>
void write_rows(T* to, int64_t stride, bool add, const T* from, int64_t rows, int64_t D) {
  for (int64_t t = 0; t < rows; ++t, from += pad<T>(D), to += stride) {
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) to[d] = (add ? to[d] : T(0)) + from[d];
  }
}

// This thread's own memory, kept for the next call, and handed out in 64-byte aligned pieces.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    if (count > capacity_) {
      memory_.reset(new (std::align_val_t(64)) T[size_t(count)]);
      capacity_ = count;
    }
    next_ = memory_.get();
  }
  T* take(int64_t count) {  // a multiple of lanes
    next_ += count;
    return next_ - count;
  }

 private:
  struct Free {
    void operator()(T* p) const { operator delete[](p, std::align_val_t(64)); }
  };
  static thread_local inline std::unique_ptr<T[], Free> memory_;
  static thread_local inline int64_t capacity_ = 0;
  T* next_;
};

// --- Softmax over the columns of s (keys, query_tile), lanes columns at a time -----------------

inline constexpr int64_t query_tile = 64;

// The scores of keys that their query must not see become -infinity. Column i is query first + i.
template <class T>
void hide_future(T* s, int64_t first, int64_t queries, int length, const AttentionShape& shape) {
  if (!shape.causal) return;
  const int seen_by_all = shape.keys_of(int(first), length);
  for (int64_t key = seen_by_all; key < shape.keys_of(int(first + queries) - 1, length); ++key) {
    const int64_t blind = key - seen_by_all + 1;
    std::fill_n(s + key * query_tile, blind, -std::numeric_limits<T>::infinity());
  }
}

// s becomes exp(scale (s - max)), where max is the column's maximum; sum: the sums of the columns.
template <class T>
void softmax(T* s, T* max, T* sum, int64_t keys, int64_t queries, T scale) {
  constexpr int L = lanes<T>;
  for (int64_t first = 0; first < queries; first += L) {
    T highest[L], total[L] = {};
    std::fill_n(highest, L, -std::numeric_limits<T>::infinity());
    for (int64_t j = 0; j < keys; ++j) {
      const T* const s_j = s + j * query_tile + first;
#pragma omp simd simdlen(L)
      for (int i = 0; i < L; ++i) highest[i] = s_j[i] > highest[i] ? s_j[i] : highest[i];
    }
    for (int64_t j = 0; j < keys; ++j) {
      T* const s_j = s + j * query_tile + first;
#pragma omp simd simdlen(L)
      for (int i = 0; i < L; ++i) {
        s_j[i] = cpu::exp(scale * (s_j[i] - highest[i]));
        total[i] += s_j[i];
      }
    }
    std::copy_n(highest, L, max + first);
    std::copy_n(total, L, sum + first);
  }
}

// s becomes p = exp(scale s - lse), dp becomes ds = scale p (dp - delta), delta the sum of p dp.
template <class T>
void softmax_backward(T* s, T* dp, const T* lse, int64_t keys, int64_t queries, T scale) {
  constexpr int L = lanes<T>;
  for (int64_t first = 0; first < queries; first += L) {
    T delta[L] = {};
    for (int64_t j = 0; j < keys; ++j) {
      T* const s_j = s + j * query_tile + first;
      const T* const dp_j = dp + j * query_tile + first;
#pragma omp simd simdlen(L)
      for (int i = 0; i < L; ++i) {
        s_j[i] = cpu::exp(scale * s_j[i] - lse[first + i]);
        delta[i] += s_j[i] * dp_j[i];
      }
    }
    for (int64_t j = 0; j < keys; ++j) {
      const T* const p_j = s + j * query_tile + first;
      T* const dp_j = dp + j * query_tile + first;
#pragma omp simd simdlen(L)
      for (int i = 0; i < L; ++i) dp_j[i] = scale * p_j[i] * (dp_j[i] - delta[i]);
    }
  }
}

}  // namespace attention_cpu

// --- Attention ----------------------------------------------------------------------------------

// y (B, T_q, H, D) and lse (B, H, T_q) from q, k, v.
template <class T>
void attention_forward_cpu(Heads<T> y, T* lse, Heads<const T> q, Heads<const T> k, Heads<const T> v,
                           const AttentionShape& shape) {
  using namespace attention_cpu;
  const int64_t B = shape.B, T_q = shape.T_q, H = shape.H, D = shape.D;
  const int64_t Tp = pad<T>(shape.T_k), Dp = pad<T>(D);
#pragma omp parallel for schedule(static)
  for (int64_t pair = 0; pair < B * H; ++pair) {
    const int64_t b = pair / H, h = pair % H, kv = h / shape.group();
    const int length = shape.length_of(b);
    Scratch<T> scratch(Tp * Dp + query_tile * (Tp + 2 * Dp));
    T* const v_rows = scratch.take(Tp * Dp);  // (length, D)
    T* const s = scratch.take(Tp * query_tile);
    T* const q_t = scratch.take(Dp * query_tile);  // (D, query_tile)
    T* const out = scratch.take(query_tile * Dp);
    T max[query_tile], sum[query_tile];
    pack_rows(v_rows, v.head(b, kv, D), v.row, length, D);
    for (int64_t first = 0; first < T_q; first += query_tile) {
      const int64_t queries = std::min(query_tile, T_q - first);
      const int64_t keys = shape.keys_of(int(first + queries) - 1, length);  // of the last one
      pack_transposed(q_t, query_tile, pad<T>(queries), q.head(b, h, D) + first * q.row, q.row,
                      queries, D);
      product<false>(s, query_tile, keys, queries, D, k.head(b, kv, D), k.row, 1, q_t, query_tile);
      hide_future(s, first, queries, length, shape);
      softmax(s, max, sum, keys, queries, T(shape.scale));
      product<false>(out, Dp, queries, D, keys, s, 1, query_tile, v_rows, Dp);
      for (int64_t i = 0; i < queries; ++i) {
        lse[pair * T_q + first + i] = T(shape.scale) * max[i] + std::log(sum[i]);
        T* const y_i = y.head(b, h, D) + (first + i) * y.row;
        const T inverse = 1 / sum[i];
#pragma omp simd
        for (int64_t d = 0; d < D; ++d) y_i[d] = inverse * out[i * Dp + d];
      }
    }
  }
}

// dq, dk, dv from dy; dq is added to what is there if add_q, dk and dv if add_kv.
template <class T>
void attention_backward_cpu(Heads<T> dq, Heads<T> dk, Heads<T> dv, bool add_q, bool add_kv,
                            Heads<const T> dy, const T* lse, Heads<const T> q, Heads<const T> k,
                            Heads<const T> v, const AttentionShape& shape) {
  using namespace attention_cpu;
  const int64_t B = shape.B, T_q = shape.T_q, T_k = shape.T_k, H = shape.H, KV = shape.KV;
  const int64_t D = shape.D, Tp = pad<T>(T_k), Dp = pad<T>(D), group = shape.group();
#pragma omp parallel for schedule(static)
  for (int64_t pair = 0; pair < B * KV; ++pair) {
    const int64_t b = pair / KV, kv = pair % KV;
    const int length = shape.length_of(b);
    Scratch<T> scratch(3 * Tp * Dp + query_tile * (2 * Tp + 5 * Dp));
    T* const k_rows = scratch.take(Tp * Dp);  // (T_k, D)
    T* const dk_rows = scratch.take(Tp * Dp);
    T* const dv_rows = scratch.take(Tp * Dp);
    T* const s = scratch.take(Tp * query_tile);  // (T_k, query_tile)
    T* const ds = scratch.take(Tp * query_tile);
    T* const q_t = scratch.take(Dp * query_tile);  // (D, query_tile)
    T* const dy_t = scratch.take(Dp * query_tile);
    T* const q_rows = scratch.take(query_tile * Dp);  // (query_tile, D)
    T* const dy_rows = scratch.take(query_tile * Dp);
    T* const dq_rows = scratch.take(query_tile * Dp);
    T lse_tile[query_tile] = {};
    pack_rows(k_rows, k.head(b, kv, D), k.row, length, D);
    std::fill(dk_rows, dk_rows + T_k * Dp, T(0));
    std::fill(dv_rows, dv_rows + T_k * Dp, T(0));
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
      for (int64_t first = 0; first < T_q; first += query_tile) {
        const int64_t queries = std::min(query_tile, T_q - first), columns = pad<T>(queries);
        const int64_t keys = shape.keys_of(int(first + queries) - 1, length);  // of the last one
        const T* const q_first = q.head(b, h, D) + first * q.row;
        const T* const dy_first = dy.head(b, h, D) + first * dy.row;
        pack_rows(q_rows, q_first, q.row, queries, D);
        pack_rows(dy_rows, dy_first, dy.row, queries, D);
        pack_transposed(q_t, query_tile, columns, q_first, q.row, queries, D);
        pack_transposed(dy_t, query_tile, columns, dy_first, dy.row, queries, D);
        std::copy_n(lse + (b * H + h) * T_q + first, queries, lse_tile);
        product<false>(s, query_tile, keys, queries, D, k_rows, Dp, 1, q_t, query_tile);
        product<false>(ds, query_tile, keys, queries, D, v.head(b, kv, D), v.row, 1, dy_t,
                       query_tile);
        hide_future(s, first, queries, length, shape);
        softmax_backward(s, ds, lse_tile, keys, queries, T(shape.scale));
        product<true>(dv_rows, Dp, keys, D, queries, s, query_tile, 1, dy_rows, Dp);
        product<true>(dk_rows, Dp, keys, D, queries, ds, query_tile, 1, q_rows, Dp);
        product<false>(dq_rows, Dp, queries, D, keys, ds, 1, query_tile, k_rows, Dp);
        write_rows(dq.head(b, h, D) + first * dq.row, dq.row, add_q, dq_rows, queries, D);
      }
    }
    // A product's last tile of rows reached into the padding, which gets nothing.
    std::fill(dk_rows + length * Dp, dk_rows + T_k * Dp, T(0));
    std::fill(dv_rows + length * Dp, dv_rows + T_k * Dp, T(0));
    write_rows(dk.head(b, kv, D), dk.row, add_kv, dk_rows, T_k, D);
    write_rows(dv.head(b, kv, D), dv.row, add_kv, dv_rows, T_k, D);
  }
}

}  // namespace dyt
