// Attention on the CPU with AVX512-BF16: attention_cpu.h's loops, whose products take pairs.
//
// vdpbf16ps adds to each of 16 f32 sums the two products of a pair of bf16 with another pair. So
// the numbers that a product sums over lie in pairs, 32 bits each, on both sides:
//
//   in rows      (rows, C / 2)  a pair is two neighbours in a row     the left factor of x w'
//   of rows      (rows / 2, C)  a pair is one column of two rows      the right factor of p v
//   transposed   (C / 2, rows)  "in rows", transposed                 the right factor of q k'
//
// Where a pair is incomplete, its second number is 0; what else lies beyond the wanted rows and
// columns is finite and meets zeros on the other side, or is ignored.
//
// With AMX, a tile of 16 rows of 16 pairs is multiplied at once. What lies in or of rows is such
// tiles as it is; only a left factor that was made transposed is turned first.
#include "layers/attention_bf16_cpu.h"

#include "core/amx.h"
#include "core/bf16_pairs.h"
#include "core/error.h"

#if defined(DYT_BF16_PAIRS)

namespace dyt {
namespace {

using namespace attention_cpu;
using namespace pairs;

int64_t half(int64_t n) { return (n + 1) / 2; }

// --- Into pairs ---------------------------------------------------------------------------------

// 16 pairs (a_i, b_i)
__m512i pairs_of(__m512 a, __m512 b) { return interleaved(round_32(a, b)); }

// to (rows, ld) in rows; C <= 2 ld, a multiple of 32
void pack_in_rows(Pair* to, int64_t ld, const float* from, int64_t stride, int64_t rows,
                  int64_t C) {
  for (int64_t t = 0; t < rows; ++t, from += stride, to += ld) {
    for (int64_t c = 0; c < 2 * ld; c += 32) {
      const __m512 low = load_up_to(from + c, C - c), high = load_up_to(from + c + 16, C - c - 16);
      _mm512_storeu_si512(to + c / 2, round_32(low, high));
    }
  }
}

// to (half(rows), ld) of rows; C <= ld, a multiple of 16
void pack_of_rows(Pair* to, int64_t ld, const float* from, int64_t stride, int64_t rows,
                  int64_t C) {
  for (int64_t t = 0; t < rows; t += 2, from += 2 * stride, to += ld) {
    for (int64_t c = 0; c < ld; c += 16) {
      const __m512 second =
          t + 1 < rows ? load_up_to(from + stride + c, C - c) : _mm512_setzero_ps();
      _mm512_storeu_si512(to + c, pairs_of(load_up_to(from + c, C - c), second));
    }
  }
}

// Rows of pairs [n, pad(n)) of x become zeros: products may go so far.
void finish_pairs(Pair* x, int64_t ld, int64_t n) {
  std::fill(x + n * ld, x + pad<float>(n) * ld, 0);
}

// to[j * to_ld + i] = from[i * from_ld + j] for i, j < 16
void transpose_16(Pair* to, int64_t to_ld, const Pair* from, int64_t from_ld) {
  __m512i x[16];
  for (int i = 0; i < 16; ++i) x[i] = _mm512_loadu_si512(from + i * from_ld);
  transpose(x);
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * to_ld, x[i]);
}

// to (C / 2, query_tile) transposed, from up to query_tile rows; `rows` is memory for as many rows
// of ld pairs.
void pack_transposed(Pair* to, Pair* rows, int64_t ld, const float* from, int64_t stride,
                     int64_t queries, int64_t C) {
  pack_in_rows(rows, ld, from, stride, queries, C);
  std::fill(rows + queries * ld, rows + (queries + 15) / 16 * 16 * ld, 0);
  for (int64_t i = 0; i < queries; i += 16) {
    for (int64_t j = 0; j < ld; j += 16) {
      transpose_16(to + j * query_tile + i, query_tile, rows + i * ld + j, ld);
    }
  }
}

// --- Products -----------------------------------------------------------------------------------

// C (4, 16 V) = A B, or += with `add`: row r of A starts at a[r], its pairs `step` apart.
template <int V, bool add>
void product_tile(float* c, int64_t ldc, const Pair* const (&a)[tile_rows], int64_t step,
                  const Pair* b, int64_t ldb, int64_t pairs) {
  __m512 sums[tile_rows][V];
  for (int r = 0; r < tile_rows; ++r) {
    for (int v = 0; v < V; ++v) {
      sums[r][v] = add ? _mm512_loadu_ps(c + r * ldc + 16 * v) : _mm512_setzero_ps();
    }
  }
  for (int64_t k = 0; k < pairs; ++k) {
    __m512bh b_k[V];
    for (int v = 0; v < V; ++v) b_k[v] = __m512bh(_mm512_loadu_si512(b + k * ldb + 16 * v));
    for (int r = 0; r < tile_rows; ++r) {
      const __m512bh a_k = __m512bh(_mm512_set1_epi32(a[r][k * step]));
      for (int v = 0; v < V; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], a_k, b_k[v]);
    }
  }
  for (int r = 0; r < tile_rows; ++r) {
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(c + r * ldc + 16 * v, sums[r][v]);
  }
}

// C (M, N) = A B, or += with `add`; A (M, 2 pairs), pair (m, k) at a[m * row + k * step]; B of
// `pairs` rows of pairs. There is room for M and N rounded up to 16, and C's rows beyond M get what
// A's rows there give.
template <bool add, int V = tile_registers>
void product_by_vectors(float* c, int64_t ldc, int64_t M, int64_t N, int64_t pairs, const Pair* a,
                        int64_t row, int64_t step, const Pair* b, int64_t ldb) {
  int64_t n = 0;
  for (; n + 16 * V <= pad<float>(N); n += 16 * V) {
    for (int64_t m = 0; m < M; m += tile_rows) {
      const Pair* rows[tile_rows];
      for (int r = 0; r < tile_rows; ++r) rows[r] = a + (m + r) * row;
      product_tile<V, add>(c + m * ldc + n, ldc, rows, step, b + n, ldb, pairs);
    }
  }
  if constexpr (V > 1) {
    if (n < N)
      product_by_vectors<add, V / 2>(c + n, ldc, M, N - n, pairs, a, row, step, b + n, ldb);
  }
}

// The same for A in rows, with a sum over pad(pairs) pairs: beyond `pairs`, the pairs of one factor
// are zeros and those of the other one finite.
template <bool add>
void product_by_amx(float* c, int64_t ldc, int64_t M, int64_t N, int64_t pairs, const Pair* a,
                    int64_t row, const Pair* b, int64_t ldb) {
  constexpr int64_t bytes = sizeof(Pair), side = amx::side;
  const int64_t steps = pad<float>(pairs) / side;
  for (int64_t m = 0; m < M; m += 2 * side) {
    for (int64_t n = 0; n < N; n += 2 * side) {
      const amx::Tiles left{a + m * row, row * bytes, side * bytes, side * row * bytes};
      const amx::Tiles right{b + n, ldb * bytes, side * ldb * bytes, side * bytes};
      amx::with_tiles(M - m, N - n, [&](auto R, auto C) {
        const amx::Sums sums{c + m * ldc + n, ldc};
        amx::multiply<R(), C()>(sums, add ? &sums : nullptr, left, right, steps);
      });
    }
  }
}

// How the products of a head are made.
class Unit {
 public:
  // turned: memory for pad(M) pad(pairs) pairs of an A that doesn't lie in rows
  explicit Unit(Pair* turned) : turned_(turned) {}
  template <bool add>
  void product(float* c, int64_t ldc, int64_t M, int64_t N, int64_t pairs, const Pair* a,
               int64_t row, int64_t step, const Pair* b, int64_t ldb) const {
    if (!amx_) return product_by_vectors<add>(c, ldc, M, N, pairs, a, row, step, b, ldb);
    if (step == 1) return product_by_amx<add>(c, ldc, M, N, pairs, a, row, b, ldb);
    const int64_t ld = pad<float>(pairs);
    for (int64_t k = 0; k < pairs; k += 16) {
      for (int64_t m = 0; m < M; m += 16) {
        transpose_16(turned_ + m * ld + k, ld, a + k * step + m, step);
      }
    }
    product_by_amx<add>(c, ldc, M, N, pairs, turned_, ld, b, ldb);
  }

 private:
  Pair* turned_;
  amx::Unit amx_;
};

// --- Softmax over the columns of s (keys, query_tile) -------------------------------------------

// Rows 2 k and 2 k + 1 of x as pairs; there may be no second one.
void pair_rows(Pair* to, const float* x, int64_t k, int64_t keys) {
  const float* const first = x + 2 * k * query_tile;
  pack_of_rows(to + k * query_tile, query_tile, first, query_tile,
               std::min<int64_t>(2, keys - 2 * k), query_tile);
}

// s becomes p = exp(scale s - lse), dp becomes ds = scale p (dp - delta). p and ds in rows, 2 pairs
// to a query_tile / 2; ds of rows as well.
void backward_pairs(Pair* p_in_rows, Pair* ds_in_rows, Pair* ds_of_rows, const float* s,
                    const float* ds, int64_t keys) {
  pack_in_rows(p_in_rows, query_tile / 2, s, query_tile, keys, query_tile);
  pack_in_rows(ds_in_rows, query_tile / 2, ds, query_tile, keys, query_tile);
  for (int64_t k = 0; k < half(keys); ++k) pair_rows(ds_of_rows, ds, k, keys);
}

}  // namespace

void attention_forward_bf16_cpu(Heads<float> y, float* lse, Heads<const float> q,
                                Heads<const float> k, Heads<const float> v,
                                const AttentionShape& shape) {
  const int64_t B = shape.B, T_q = shape.T_q, H = shape.H, D = shape.D;
  const int64_t Tp = pad<float>(shape.T_k), Dp = pad<float>(D), ld = pad<float>(half(D));
#pragma omp parallel for schedule(static)
  for (int64_t pair = 0; pair < B * H; ++pair) {
    const int64_t b = pair / H, h = pair % H, kv = h / shape.group();
    const int length = shape.length_of(b);
    Scratch<float> scratch(Tp * (ld + Dp + 3 * query_tile) + query_tile * (2 * ld + Dp));
    const auto take = [&](int64_t n) { return reinterpret_cast<Pair*>(scratch.take(n)); };
    Pair* const k_rows = take(Tp * ld);   // (length, D) in rows
    Pair* const v_pairs = take(Tp * Dp);  // (length, D) of rows
    Pair* const p = take(Tp * query_tile);
    const Unit unit(take(Tp * query_tile));
    Pair* const q_rows = take(query_tile * ld);
    Pair* const q_t = take(query_tile * ld);  // (D, query_tile), of rows
    float* const s = scratch.take(Tp * query_tile);
    float* const out = scratch.take(query_tile * Dp);
    float max[query_tile], sum[query_tile];
    pack_in_rows(k_rows, ld, k.head(b, kv, D), k.row, length, D);
    pack_of_rows(v_pairs, Dp, v.head(b, kv, D), v.row, length, D);
    finish_pairs(v_pairs, Dp, half(length));
    for (int64_t first = 0; first < T_q; first += query_tile) {
      const int64_t queries = std::min(query_tile, T_q - first);
      const int64_t keys = shape.keys_of(int(first + queries) - 1, length);  // of the last one
      pack_transposed(q_t, q_rows, ld, q.head(b, h, D) + first * q.row, q.row, queries, D);
      unit.product<false>(s, query_tile, keys, queries, half(D), k_rows, ld, 1, q_t, query_tile);
      hide_future(s, first, queries, length, shape);
      softmax(s, max, sum, keys, queries, float(shape.scale));
      for (int64_t key = 0; key < half(keys); ++key) pair_rows(p, s, key, keys);
      finish_pairs(p, query_tile, half(keys));
      unit.product<false>(out, Dp, queries, D, half(keys), p, 1, query_tile, v_pairs, Dp);
      for (int64_t i = 0; i < queries; ++i) {
        lse[pair * T_q + first + i] = float(shape.scale) * max[i] + std::log(sum[i]);
        float* const y_i = y.head(b, h, D) + (first + i) * y.row;
        const float inverse = 1 / sum[i];
#pragma omp simd
        for (int64_t d = 0; d < D; ++d) y_i[d] = inverse * out[i * Dp + d];
      }
    }
  }
}

void attention_backward_bf16_cpu(Heads<float> dq, Heads<float> dk, Heads<float> dv, bool add_q,
                                 bool add_kv, Heads<const float> dy, const float* lse,
                                 Heads<const float> q, Heads<const float> k, Heads<const float> v,
                                 const AttentionShape& shape) {
  const int64_t B = shape.B, T_q = shape.T_q, T_k = shape.T_k, H = shape.H, KV = shape.KV;
  const int64_t D = shape.D, Tp = pad<float>(T_k), Dp = pad<float>(D), ld = pad<float>(half(D));
  const int64_t group = shape.group();
#pragma omp parallel for schedule(static)
  for (int64_t pair = 0; pair < B * KV; ++pair) {
    const int64_t b = pair / KV, kv = pair % KV;
    const int length = shape.length_of(b);
    Scratch<float> scratch(Tp * (2 * ld + 3 * Dp + 6 * query_tile) +
                           query_tile * (3 * ld + 3 * Dp));
    const auto take = [&](int64_t n) { return reinterpret_cast<Pair*>(scratch.take(n)); };
    Pair* const k_rows = take(Tp * ld);  // (length, D) in rows
    Pair* const v_rows = take(Tp * ld);
    Pair* const k_pairs = take(Tp * Dp);         // (length, D) of rows
    Pair* const p_rows = take(Tp * query_tile);  // (length, query_tile) in rows
    Pair* const ds_rows = take(Tp * query_tile);
    Pair* const ds_pairs = take(Tp * query_tile);  // (length, query_tile) of rows
    const Unit unit(take(Tp * query_tile));
    Pair* const rows = take(query_tile * ld);
    Pair* const q_t = take(query_tile * ld);  // (D, query_tile) of rows
    Pair* const dy_t = take(query_tile * ld);
    Pair* const q_pairs = take(query_tile * Dp);  // (query_tile, D) of rows
    Pair* const dy_pairs = take(query_tile * Dp);
    float* const dk_rows = scratch.take(Tp * Dp);
    float* const dv_rows = scratch.take(Tp * Dp);
    float* const s = scratch.take(Tp * query_tile);  // (length, query_tile)
    float* const ds = scratch.take(Tp * query_tile);
    float* const dq_rows = scratch.take(query_tile * Dp);
    float lse_tile[query_tile] = {};
    pack_in_rows(k_rows, ld, k.head(b, kv, D), k.row, length, D);
    pack_in_rows(v_rows, ld, v.head(b, kv, D), v.row, length, D);
    pack_of_rows(k_pairs, Dp, k.head(b, kv, D), k.row, length, D);
    finish_pairs(k_pairs, Dp, half(length));
    std::fill(s, s + Tp * query_tile, 0.0f);  // what lies beyond the last queries is to be finite
    std::fill(ds, ds + Tp * query_tile, 0.0f);
    std::fill(dk_rows, dk_rows + T_k * Dp, 0.0f);
    std::fill(dv_rows, dv_rows + T_k * Dp, 0.0f);
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
      for (int64_t first = 0; first < T_q; first += query_tile) {
        const int64_t queries = std::min(query_tile, T_q - first);
        const int64_t keys = shape.keys_of(int(first + queries) - 1, length);  // of the last one
        const float* const q_first = q.head(b, h, D) + first * q.row;
        const float* const dy_first = dy.head(b, h, D) + first * dy.row;
        pack_of_rows(q_pairs, Dp, q_first, q.row, queries, D);
        pack_of_rows(dy_pairs, Dp, dy_first, dy.row, queries, D);
        finish_pairs(q_pairs, Dp, half(queries));
        finish_pairs(dy_pairs, Dp, half(queries));
        pack_transposed(q_t, rows, ld, q_first, q.row, queries, D);
        pack_transposed(dy_t, rows, ld, dy_first, dy.row, queries, D);
        std::copy_n(lse + (b * H + h) * T_q + first, queries, lse_tile);
        std::fill(lse_tile + queries, lse_tile + query_tile, 0.0f);  // and not the last tile's
        unit.product<false>(s, query_tile, keys, queries, half(D), k_rows, ld, 1, q_t, query_tile);
        unit.product<false>(ds, query_tile, keys, queries, half(D), v_rows, ld, 1, dy_t,
                            query_tile);
        hide_future(s, first, queries, length, shape);
        softmax_backward(s, ds, lse_tile, keys, queries, float(shape.scale));
        backward_pairs(p_rows, ds_rows, ds_pairs, s, ds, keys);
        finish_pairs(ds_pairs, query_tile, half(keys));
        finish_pairs(p_rows, query_tile / 2, keys);  // what these rows add to dk and dv
        finish_pairs(ds_rows, query_tile / 2, keys);
        unit.product<true>(dv_rows, Dp, keys, D, half(queries), p_rows, query_tile / 2, 1, dy_pairs,
                           Dp);
        unit.product<true>(dk_rows, Dp, keys, D, half(queries), ds_rows, query_tile / 2, 1, q_pairs,
                           Dp);
        unit.product<false>(dq_rows, Dp, queries, D, half(keys), ds_pairs, 1, query_tile, k_pairs,
                            Dp);
        write_rows(dq.head(b, h, D) + first * dq.row, dq.row, add_q, dq_rows, queries, D);
      }
    }
    // A product's last tile of rows reached into the padding, which gets nothing.
    std::fill(dk_rows + length * Dp, dk_rows + T_k * Dp, 0.0f);
    std::fill(dv_rows + length * Dp, dv_rows + T_k * Dp, 0.0f);
    write_rows(dk.head(b, kv, D), dk.row, add_kv, dk_rows, T_k, D);
    write_rows(dv.head(b, kv, D), dv.row, add_kv, dv_rows, T_k, D);
  }
}

}  // namespace dyt

#else

namespace dyt {

void attention_forward_bf16_cpu(Heads<float>, float*, Heads<const float>, Heads<const float>,
                                Heads<const float>, const AttentionShape&) {
  fail("built for a processor without AVX512-BF16");
}
void attention_backward_bf16_cpu(Heads<float>, Heads<float>, Heads<float>, bool, bool,
                                 Heads<const float>, const float*, Heads<const float>,
                                 Heads<const float>, Heads<const float>, const AttentionShape&) {
  fail("built for a processor without AVX512-BF16");
}

}  // namespace dyt

#endif
