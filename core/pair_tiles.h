// Factors of a matrix product in the order in which AMX and AVX512-BF16 multiply them; for
// core/pair_product.cpp, which explains it.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/bf16_pairs.h"
#include "core/dtype.h"

#if defined(DYT_BF16_PAIRS)

namespace dyt::pairs {

inline constexpr int64_t side = 16, depth = 32;  // of a tile: rows or columns, and numbers along k

struct Tile {
  Pair pairs[side][side];
};

inline int64_t tiles(int64_t n) { return (n + side - 1) / side; }
inline int64_t steps_of(int64_t k) { return (k + depth - 1) / depth; }

// A factor: `size` rows of C if it is the left one, columns if it is the right one. Number (i, l)
// is at data[i * stride + l] if `along_k`, else at data[l * stride + i].
struct Factor {
  const void* data;
  DType type;
  int64_t size, k;
  bool along_k;
  int64_t stride;
  int digits = 1;  // 3: f32 that is not to be rounded

  int64_t bytes() const { return type == DType::bf16 ? 2 : 4; }  // of a number
  const void* at(int64_t i, int64_t l) const {
    return static_cast<const char*>(data) + (along_k ? i * stride + l : l * stride + i) * bytes();
  }
};

// x[i] = 16 pairs of neighbours of row i
template <class T>
void read_rows(__m512i (&x)[side], const T* from, int64_t stride, int64_t rows, int64_t columns) {
  if (rows >= side && columns >= depth) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < side; ++i) x[i] = read_32(from + i * stride);
    return;
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < side; ++i) {
    const T* row = from + i * stride;
    x[i] = join(load_up_to(row, i < rows ? columns : 0),
                load_up_to(row + side, i < rows ? columns - side : 0));
  }
}

// x[i] = 16 pairs out of rows 2 i and 2 i + 1
template <class T>
void read_pairs(__m512i (&x)[side], const T* from, int64_t stride, int64_t rows, int64_t columns) {
  if (rows >= depth && columns >= side) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < side; ++i, from += 2 * stride) {
      x[i] = interleaved(join(load_up_to(from, side), load_up_to(from + stride, side)));
    }
    return;
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < side; ++i, from += 2 * stride) {
    x[i] = interleaved(join(load_up_to(from, 2 * i < rows ? columns : 0),
                            load_up_to(from + stride, 2 * i + 1 < rows ? columns : 0)));
  }
}

enum class Side { left, right };

// One tile: rows or columns from i0 on, k from k0 on.
template <class T>
void pack_tile(Tile& to, Side where, const Factor& f, int64_t i0, int64_t k0) {
  __m512i x[side];
  const T* data = static_cast<const T*>(f.at(i0, k0));
  if (f.along_k) {
    read_rows(x, data, f.stride, f.size - i0, f.k - k0);
  } else {
    read_pairs(x, data, f.stride, f.k - k0, f.size - i0);
  }
  if (f.along_k != (where == Side::left)) transpose(x);
#pragma GCC unroll 16
  for (int64_t i = 0; i < side; ++i) _mm512_store_si512(to.pairs[i], x[i]);
}

// x = digits[0] + digits[1] + digits[2], each with the 8 bits of a bf16, in the upper half of its
// 32 bits; the first is x rounded to bf16, the second what is left, rounded, and so on.
inline void split(__m512i (&digits)[3], __m512 x) {
  const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32(int(0xffff0000));
  const auto round = [&](__m512 v) {
    return _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(v), half), upper);
  };
  digits[0] = round(x);
  const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(digits[0]));
  digits[1] = round(rest);
  digits[2] = _mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(digits[1])));
}

// The upper halves of 16 numbers, and of 16 more.
inline __m512i upper_halves(__m512i low, __m512i high) {
  const __m512i odd =
      _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                       25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  return _mm512_permutex2var_epi16(low, odd, high);
}

// Row i of the tiles of the digits. For the left side, `first` and `second` are the row's first and
// second 16 numbers; for the right side, those of its pairs.
template <Side where>
void store_digits(Tile* to, int64_t i, __m512 first, __m512 second) {
  __m512i a[3], b[3];
  split(a, first);
  split(b, second);
  for (int d = 0; d < 3; ++d) {
    const __m512i pairs = where == Side::left ? upper_halves(a[d], b[d])
                                              : _mm512_mask_blend_epi16(
                                                    0xaaaaaaaa, _mm512_srli_epi32(a[d], 16), b[d]);
    _mm512_store_si512(to[d].pairs[i], pairs);
  }
}

// The tiles of the digits, one after another. read(row, column) gives 16 numbers of f, from where
// the tiles begin.
template <Side where, bool along_k, class Read>
void pack_digits(Tile* to, Read&& read) {
  if constexpr (along_k && where == Side::left) {
    for (int64_t i = 0; i < side; ++i) store_digits<where>(to, i, read(i, 0), read(i, side));
  } else if constexpr (!along_k && where == Side::right) {
    for (int64_t i = 0; i < side; ++i) {
      store_digits<where>(to, i, read(2 * i, 0), read(2 * i + 1, 0));
    }
  } else {
    alignas(64) float turned[2][side][side];  // turned[h]: k from 16 h on, across f's rows
    for (int64_t h = 0; h < 2; ++h) {
      __m512i x[side];
#pragma GCC unroll 16
      for (int64_t i = 0; i < side; ++i) {
        x[i] = _mm512_castps_si512(along_k ? read(i, h * side) : read(h * side + i, 0));
      }
      transpose(x);
#pragma GCC unroll 16
      for (int64_t i = 0; i < side; ++i) _mm512_store_si512(turned[h][i], x[i]);
    }
    const auto row = [&](int64_t h, int64_t i) { return _mm512_load_ps(turned[h][i]); };
    for (int64_t i = 0; i < side; ++i) {
      if constexpr (where == Side::left) {
        store_digits<where>(to, i, row(0, i), row(1, i));
      } else {
        store_digits<where>(to, i, row(i / 8, i % 8 * 2), row(i / 8, i % 8 * 2 + 1));
      }
    }
  }
}

template <Side where, bool along_k>
void pack_digits(Tile* to, const Factor& f, int64_t i0, int64_t k0) {
  const int64_t size = f.size - i0, k = f.k - k0, stride = f.stride;
  const int64_t rows = along_k ? size : k, columns = along_k ? k : size;
  const float* const data = static_cast<const float*>(f.at(i0, k0));
  if (rows >= (along_k ? side : depth) && columns >= (along_k ? depth : side)) {
    return pack_digits<where, along_k>(to, [=](int64_t row, int64_t column) {
      return _mm512_loadu_ps(data + row * stride + column);
    });
  }
  pack_digits<where, along_k>(to, [=](int64_t row, int64_t column) {
    return load_up_to(data + row * stride + column, row < rows ? columns - column : 0);
  });
}

inline void pack_digits(Tile* to, Side where, const Factor& f, int64_t i0, int64_t k0) {
  if (where == Side::left) {
    return f.along_k ? pack_digits<Side::left, true>(to, f, i0, k0)
                     : pack_digits<Side::left, false>(to, f, i0, k0);
  }
  f.along_k ? pack_digits<Side::right, true>(to, f, i0, k0)
            : pack_digits<Side::right, false>(to, f, i0, k0);
}

// Tiles i and steps s of k in the order in which they lie in memory, `piece` at a time: what packs
// a factor, in pieces for all threads.
inline constexpr int64_t piece = 8;
inline int64_t pieces_of(const Factor& f, int64_t steps) {
  const int64_t rows = f.along_k ? tiles(f.size) : steps;
  const int64_t columns = f.along_k ? steps : tiles(f.size);
  return rows * ((columns + piece - 1) / piece);
}

inline void pack_piece(Tile* to, Side where, const Factor& f, int64_t k0, int64_t steps,
                       int64_t which) {
  const int64_t columns = f.along_k ? steps : tiles(f.size);
  const int64_t pieces = (columns + piece - 1) / piece;
  const int64_t row = which / pieces, begin = which % pieces * piece;
  for (int64_t column = begin; column < std::min(columns, begin + piece); ++column) {
    const int64_t i = f.along_k ? row : column, s = f.along_k ? column : row;
    Tile* const place = to + (i * steps + s) * f.digits;
    if (f.digits == 3) {
      pack_digits(place, where, f, i * side, k0 + s * depth);
    } else if (f.type == DType::bf16) {
      pack_tile<bf16>(*place, where, f, i * side, k0 + s * depth);
    } else {
      pack_tile<float>(*place, where, f, i * side, k0 + s * depth);
    }
  }
}

}  // namespace dyt::pairs

#endif
