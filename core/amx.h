// AMX, the tile units of Intel's processors since Sapphire Rapids: a 16 x 16 tile of f32 sums gets
// the products of 16 rows and 16 columns of 16 pairs of bf16 (core/bf16_pairs.h) by one
// instruction, in 16 cycles. For .cpp files that have other code for processors without it.
#pragma once
#include "core/bf16_pairs.h"

#if defined(DYT_BF16_PAIRS) && defined(__AMX_BF16__) && defined(__linux__)
#define DYT_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(DYT_BF16_PAIRS)
#include <type_traits>

namespace dyt::amx {

inline constexpr int64_t side = 16;  // rows and columns of a tile

// For tests: false, and code takes the other way although there is AMX.
inline bool wanted = true;

inline bool available() {
#if defined(DYT_AMX)
  // Linux gives a process the 8 KiB of tiles on demand.
  constexpr int request = 0x1023, tile_data = 18;
  static const bool granted = syscall(SYS_arch_prctl, request, tile_data) == 0;
  return granted && wanted;
#else
  return false;
#endif
}

// Tiles in memory: bytes from one row to the next, from one step along the sums (16 pairs) to the
// next, and from one tile of rows (or columns) to the next.
struct Tiles {
  const void* data;
  int64_t row, step, tile;
};

#if defined(DYT_AMX)
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {side, side, side, side, side, side, side, side};
};
inline constexpr TileShapes whole_tiles;  // no local variable: g++ 12 sees 8 bytes of it read
#endif

// A thread's AMX, if there is one: its tiles are all 16 rows of 64 bytes until this goes.
class Unit {
 public:
  Unit() {
#if defined(DYT_AMX)
    if (there_) _tile_loadconfig(&whole_tiles);
#endif
  }
  ~Unit() {
#if defined(DYT_AMX)
    if (there_) _tile_release();
#endif
  }
  Unit(const Unit&) = delete;
  Unit& operator=(const Unit&) = delete;
  explicit operator bool() const { return there_; }

 private:
  const bool there_ = available();
};

// Calls body(R, N) with the tiles, 1 or 2, that so many rows and columns need, as constants.
template <class Body>
inline void with_tiles(int64_t rows, int64_t columns, Body&& body) {
  using One = std::integral_constant<int, 1>;
  using Two = std::integral_constant<int, 2>;
  if (rows > side) return columns > side ? body(Two{}, Two{}) : body(Two{}, One{});
  columns > side ? body(One{}, Two{}) : body(One{}, One{});
}

// C (16 R, 16 N) = the product, or += with `add`; rows of C are `ldc` numbers apart. In a tile of
// the left factor, a row has 16 pairs along the sum; in one of the right factor, the pairs of 16
// columns. Only where there is a Unit.
template <int R, int N>
inline void multiply([[maybe_unused]] float* c, [[maybe_unused]] int64_t ldc,
                     [[maybe_unused]] bool add, [[maybe_unused]] const Tiles& left,
                     [[maybe_unused]] const Tiles& right, [[maybe_unused]] int64_t steps) {
#if defined(DYT_AMX)
  const int64_t c_row = ldc * int64_t(sizeof(float));
  float *const c1 = c + side, *const c2 = c + side * ldc, *const c3 = c2 + side;
  asm volatile("" ::: "memory");  // g++ doesn't know that a tile's load reads memory
  if (add) {
    _tile_loadd(0, c, c_row);
    if constexpr (N > 1) _tile_loadd(1, c1, c_row);
    if constexpr (R > 1) _tile_loadd(2, c2, c_row);
    if constexpr (R > 1 && N > 1) _tile_loadd(3, c3, c_row);
  } else {
    _tile_zero(0);
    if constexpr (N > 1) _tile_zero(1);
    if constexpr (R > 1) _tile_zero(2);
    if constexpr (R > 1 && N > 1) _tile_zero(3);
  }
  const char *a = static_cast<const char*>(left.data), *b = static_cast<const char*>(right.data);
  for (int64_t s = 0; s < steps; ++s, a += left.step, b += right.step) {
    _tile_loadd(4, a, left.row);
    if constexpr (R > 1) _tile_loadd(5, a + left.tile, left.row);
    _tile_loadd(6, b, right.row);
    if constexpr (N > 1) _tile_loadd(7, b + right.tile, right.row);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (N > 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (R > 1) _tile_dpbf16ps(2, 5, 6);
    if constexpr (R > 1 && N > 1) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_row);
  if constexpr (N > 1) _tile_stored(1, c1, c_row);
  if constexpr (R > 1) _tile_stored(2, c2, c_row);
  if constexpr (R > 1 && N > 1) _tile_stored(3, c3, c_row);
#endif
}

}  // namespace dyt::amx

#endif
