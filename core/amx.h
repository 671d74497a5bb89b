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

// 16 R x 16 N sums in memory, `row` numbers from one row to the next; a row of 0 is one row for
// all.
struct Sums {
  float* data;
  int64_t row;
};

#if defined(DYT_AMX)
template <int R, int N>
inline void load_sums(const Sums& from) {
  const float *const c = from.data, *const below = c + side * from.row;
  const int64_t row = from.row * int64_t(sizeof(float));
  _tile_loadd(0, c, row);
  if constexpr (N > 1) _tile_loadd(1, c + side, row);
  if constexpr (R > 1) _tile_loadd(2, below, row);
  if constexpr (R > 1 && N > 1) _tile_loadd(3, below + side, row);
}

template <int R, int N>
inline void zero_sums() {
  _tile_zero(0);
  if constexpr (N > 1) _tile_zero(1);
  if constexpr (R > 1) _tile_zero(2);
  if constexpr (R > 1 && N > 1) _tile_zero(3);
}

template <int R, int N>
inline void store_sums(const Sums& to) {
  float *const c = to.data, *const below = c + side * to.row;
  const int64_t row = to.row * int64_t(sizeof(float));
  _tile_stored(0, c, row);
  if constexpr (N > 1) _tile_stored(1, c + side, row);
  if constexpr (R > 1) _tile_stored(2, below, row);
  if constexpr (R > 1 && N > 1) _tile_stored(3, below + side, row);
}

template <int R>
inline void load_left(const char* tile, const Tiles& left) {
  _tile_loadd(4, tile, left.row);
  if constexpr (R > 1) _tile_loadd(5, tile + left.tile, left.row);
}

template <int N>
inline void load_right(const char* tile, const Tiles& right) {
  _tile_loadd(6, tile, right.row);
  if constexpr (N > 1) _tile_loadd(7, tile + right.tile, right.row);
}

template <int R, int N>
inline void add_products() {
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (N > 1) _tile_dpbf16ps(1, 4, 7);
  if constexpr (R > 1) _tile_dpbf16ps(2, 5, 6);
  if constexpr (R > 1 && N > 1) _tile_dpbf16ps(3, 5, 7);
}

// Sums = those at `start`, or zeros if it is null, and what add_step(a, b) adds to them for the
// tiles of each step; written to `to`.
template <int R, int N, class AddStep>
inline void add_steps(const Sums& to, const Sums* start, const Tiles& left, const Tiles& right,
                      int64_t steps, AddStep&& add_step) {
  asm volatile("" ::: "memory");  // g++ doesn't know that a tile's load reads memory
  start ? load_sums<R, N>(*start) : zero_sums<R, N>();
  const char *a = static_cast<const char*>(left.data), *b = static_cast<const char*>(right.data);
  for (int64_t s = 0; s < steps; ++s, a += left.step, b += right.step) add_step(a, b);
  store_sums<R, N>(to);
}
#endif

// Sums (16 R, 16 N) = those at `start`, or zeros if it is null, + the product, written to `to`. In
// a tile of the left factor, a row has 16 pairs along the sum; in one of the right factor, the
// pairs of 16 columns. Only where there is a Unit.
template <int R, int N>
inline void multiply([[maybe_unused]] const Sums& to, [[maybe_unused]] const Sums* start,
                     [[maybe_unused]] const Tiles& left, [[maybe_unused]] const Tiles& right,
                     [[maybe_unused]] int64_t steps) {
#if defined(DYT_AMX)
  add_steps<R, N>(to, start, left, right, steps, [&](const char* a, const char* b) {
    load_left<R>(a, left);
    load_right<N>(b, right);
    add_products<R, N>();
  });
#endif
}

// The same of f32, each number in three digits: at a tile's place, one tile of each of them.
//
// Long multiplication, in base 256. x = x1 + x2 + x3, each digit a bf16 and 2^-8 of the one before
// it, or less; then
//
//   x y = x1 y1 + (x1 y2 + x2 y1) + (x1 y3 + x2 y2 + x3 y1) + less than 2^-23 of x y
//
// (G. Henry, P. Tang, A. Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
// Higher-Precision Computations", 2019). The sums of 32 products are made before they are added to
// what is there, so six such additions round less than 32 do when each product is added by itself.
template <int R, int N>
inline void multiply_digits([[maybe_unused]] const Sums& to, [[maybe_unused]] const Sums* start,
                            [[maybe_unused]] const Tiles& left, [[maybe_unused]] const Tiles& right,
                            [[maybe_unused]] int64_t steps) {
#if defined(DYT_AMX)
  constexpr int64_t tile = 1024;  // bytes
  add_steps<R, N>(to, start, left, right, steps, [&](const char* a, const char* b) {
    // x1 y3, x1 y2, x2 y2, x2 y1, x3 y1, x1 y1: one side's tiles stay from each to the next.
    load_left<R>(a, left);
    load_right<N>(b + 2 * tile, right);
    add_products<R, N>();
    load_right<N>(b + tile, right);
    add_products<R, N>();
    load_left<R>(a + tile, left);
    add_products<R, N>();
    load_right<N>(b, right);
    add_products<R, N>();
    load_left<R>(a + 2 * tile, left);
    add_products<R, N>();
    load_left<R>(a, left);
    add_products<R, N>();
  });
#endif
}

}  // namespace dyt::amx

#endif
