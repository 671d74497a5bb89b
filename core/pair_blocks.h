// Blocks of a matrix product by the processor's units for bf16, and their way into C; for
// core/pair_product.cpp, which explains it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "core/amx.h"
#include "core/pair_tiles.h"
#include "core/product.h"

#if defined(DYT_BF16_PAIRS)

namespace dyt::pairs {

using amx::Tiles;

inline constexpr int64_t block = 2 * side;  // rows and columns of a block of C

// --- A block of C --------------------------------------------------------------------------------

struct BlockSums {
  float rows[block][block];
  amx::Sums all() { return {rows[0], block}; }
};

// What amx::multiply does, over k numbers.
template <int R, int N>
void multiply_by_vectors(const amx::Sums& to, const amx::Sums* start, const Tiles& left,
                         const Tiles& right, int64_t k) {
  const int64_t steps = steps_of(k), pairs = (k + 1) / 2;
  constexpr int rows = 8;  // at once: rows * N sums stay in registers
  for (int64_t i0 = 0; i0 < R * side; i0 += rows) {
    const char* a =
        static_cast<const char*>(left.data) + i0 / side * left.tile + i0 % side * left.row;
    __m512 sum[rows][N];
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < N; ++j) {
        sum[i][j] = start ? _mm512_loadu_ps(start->data + (i0 + i) * start->row + j * side)
                          : _mm512_setzero_ps();
      }
    }
    for (int64_t s = 0; s < steps; ++s) {
      for (int64_t l = 0; l < std::min(side, pairs - s * side); ++l) {
        __m512bh b[N];
        for (int j = 0; j < N; ++j) {
          b[j] = __m512bh(_mm512_load_si512(static_cast<const char*>(right.data) + j * right.tile +
                                            s * right.step + l * right.row));
        }
        for (int i = 0; i < rows; ++i) {
          Pair pair;
          __builtin_memcpy(&pair, a + i * left.row + s * left.step + l * int64_t(sizeof pair),
                           sizeof pair);
          const __m512bh a_i = __m512bh(_mm512_set1_epi32(pair));
          for (int j = 0; j < N; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], a_i, b[j]);
        }
      }
    }
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < N; ++j) {
        _mm512_storeu_ps(to.data + (i0 + i) * to.row + j * side, sum[i][j]);
      }
    }
  }
}

// A block of the product of `left` and `right`, added to the sums at `start` unless it is null.
struct BlockProduct {
  int64_t rows, columns, k;
  int digits;
  Tiles left, right;
};

inline void multiply(const amx::Unit& unit, const amx::Sums& to, const amx::Sums* start,
                     const BlockProduct& p) {
  amx::with_tiles(p.rows, p.columns, [&](auto R, auto N) {
    if (!unit) return multiply_by_vectors<R(), N()>(to, start, p.left, p.right, p.k);
    const int64_t steps = steps_of(p.k);
    p.digits == 3 ? amx::multiply_digits<R(), N()>(to, start, p.left, p.right, steps)
                  : amx::multiply<R(), N()>(to, start, p.left, p.right, steps);
  });
}

// --- Into C --------------------------------------------------------------------------------------

inline __m512 in_f32(__m512 x) { return x; }
inline __m512 in_f32(__m256i x) { return widened(x); }

inline void store(float* x, __mmask16 wanted, __m512 value) {
  _mm512_mask_storeu_ps(x, wanted, value);
}
inline void store(bf16* x, __mmask16 wanted, __m512 value) {
  _mm256_mask_storeu_epi16(x, wanted, __m256i(_mm512_cvtneps_pbh(value)));
}

template <class T>
void prefetch_to_write(const T* x, int64_t n) {
  const auto* bytes = reinterpret_cast<const char*>(x);
  for (int64_t i = 0; i < n * int64_t(sizeof(T)); i += 64) __builtin_prefetch(bytes + i, 1);
}

// What becomes of a row's sums in C, (m, n).
template <class T>
void finish_row(const Product& p, T* c, int64_t i, int64_t j, int64_t columns, const float* sums) {
  for (int64_t done = 0; done < columns; done += side, j += side, sums += side) {
    const __mmask16 wanted = first(columns - done);
    const int64_t at = i * p.n + j;
    __m512 value = _mm512_load_ps(sums);
    if (p.add) value = _mm512_add_ps(value, in_f32(load(c + at, wanted)));
    if (p.bias) value = _mm512_add_ps(value, load(p.bias + j, wanted));
    if (p.residual) value = _mm512_add_ps(value, load(p.residual + at, wanted));
    store(c + at, wanted, value);
  }
}

// Rows [i0, i0 + rows) and columns [j0, j0 + columns) of the left times the right factor, of which
// C is the transpose if `turned`.
struct Piece {
  int64_t i0, rows, j0, columns;
};

// Asks for a block of C (m, n), which is going to be written.
template <class T>
void prefetch_block(T* c, int64_t n, bool turned, Piece at) {
  if (turned) std::swap(at.i0, at.j0), std::swap(at.rows, at.columns);
  for (int64_t r = 0; r < at.rows; ++r) {
    prefetch_to_write(c + (at.i0 + r) * n + at.j0, at.columns);
  }
}

inline void transpose_sums(BlockSums& to, const BlockSums& from) {
  for (int64_t i = 0; i < block; i += side) {
    for (int64_t j = 0; j < block; j += side) {
      __m512i x[side];
#pragma GCC unroll 16
      for (int64_t r = 0; r < side; ++r) x[r] = _mm512_load_si512(&from.rows[i + r][j]);
      transpose(x);
#pragma GCC unroll 16
      for (int64_t r = 0; r < side; ++r) _mm512_store_si512(&to.rows[j + r][i], x[r]);
    }
  }
}

inline void add_sums(BlockSums& to, const BlockSums& from) {
  for (int64_t i = 0; i < block; ++i) {
#pragma omp simd
    for (int64_t j = 0; j < block; ++j) to.rows[i][j] += from.rows[i][j];
  }
}

// Calls body(block) for the blocks of a piece of C, row by row.
template <class Body>
void for_each_block(const Piece& piece, Body&& body) {
  for (int64_t i = 0; i < piece.rows; i += block) {
    for (int64_t j = 0; j < piece.columns; j += block) {
      body(Piece{piece.i0 + i, std::min(block, piece.rows - i), piece.j0 + j,
                 std::min(block, piece.columns - j)});
    }
  }
}

template <class T>
void finish_block(const Product& p, bool turned, T* c, const Piece& at, const BlockSums& sums) {
  if (!turned) {
    for (int64_t r = 0; r < at.rows; ++r) {
      finish_row(p, c, at.i0 + r, at.j0, at.columns, sums.rows[r]);
    }
    return;
  }
  alignas(64) BlockSums columns;
  transpose_sums(columns, sums);
  for (int64_t r = 0; r < at.columns; ++r) {
    finish_row(p, c, at.j0 + r, at.i0, at.rows, columns.rows[r]);
  }
}

// What a thread does with blocks of C. A block whose sums need more than to be written is finished
// while the next one is being multiplied: its numbers come out of the unit late.
template <class T>
class Blocks {
 public:
  Blocks(const amx::Unit& unit, const Product& p, bool turned, T* c)
      : unit_(unit), p_(p), turned_(turned), c_(c) {}
  ~Blocks() { finish(); }
  Blocks(const Blocks&) = delete;
  Blocks& operator=(const Blocks&) = delete;

  void compute(const Piece& at, const BlockProduct& product) {
    prefetch_block(c_, p_.n, turned_, at);
    if constexpr (std::is_same_v<T, float>) {
      const bool whole = at.rows % side == 0 && at.columns % side == 0;
      if (whole && !turned_ && !p_.add && !p_.residual) {
        const amx::Sums to{c_ + at.i0 * p_.n + at.j0, p_.n};
        if (!p_.bias) return multiply(unit_, to, nullptr, product);
        const amx::Sums bias{const_cast<float*>(p_.bias) + at.j0, 0};
        return multiply(unit_, to, &bias, product);
      }
    }
    multiply(unit_, sums_[next_].all(), nullptr, product);
    finish();
    waiting_ = at;
    next_ = 1 - next_;
  }

 private:
  void finish() {
    if (waiting_.rows > 0) finish_block(p_, turned_, c_, waiting_, sums_[1 - next_]);
    waiting_.rows = 0;
  }

  const amx::Unit& unit_;
  const Product& p_;
  const bool turned_;
  T* const c_;
  alignas(64) BlockSums sums_[2];
  Piece waiting_{};
  int next_ = 0;
};

}  // namespace dyt::pairs

#endif
