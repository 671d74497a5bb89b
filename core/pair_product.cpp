// Matrix products in bf16 on the CPU.
//
// (1) What the processor offers. C is cut into blocks of 32 x 32, and a step adds to a block the
//     product of 32 x 32 numbers of A and as many of B. Both units take the numbers that a sum runs
//     over in pairs of 32 bits, and let 16 pairs be 64 bytes:
//
//       left    a tile of A: 16 rows, in each row 16 pairs of neighbours (32 numbers along k)
//       right   a tile of B: 16 rows of pairs, in each row the pairs of 16 columns: the first of a
//               pair from row 2 k of B, the second from row 2 k + 1
//
//     AMX multiplies two tiles in one instruction (16 x 16 x 32 products, 16 cycles) and holds
//     eight of them: four of C, two of A, two of B. AVX512-BF16 multiplies a pair of A with a row
//     of a tile of B (16 x 2 products).
//
// (2) What has to be rearranged. A whose rows run along k is a row of left tiles as it lies in
//     memory. Everything else is copied, with zeros beyond its edges: a matrix stored along k into
//     left tiles row by row; one stored across k into right tiles by interleaving two rows; and
//     from the one to the other kind of tile by transposing 16 x 16 pairs, 64 instructions.
//
//       forward    y  = x w'     w (n, k) f32: rounded, and transposed
//       backward   dx = dy w     w (k, n) f32: rounded, and interleaved
//       gradient   dw = dy' x    x: interleaved; dy: interleaved, and transposed. If dy is the
//                                larger one, we compute dw' = x' dy: then x is.
//
// (3) Who does what. With many rows, as forward and backward, all threads pack the weight, and then
//     each has rows of C. Otherwise what one thread packs no other reads, as bringing it from one
//     core's cache to another's would take longer than multiplying it: a thread has a piece of C,
//     or a part of the sum, and the parts are added up at the end. How a sum is cut depends on the
//     shape alone, so C has the same bits for any number of threads.
//
// (4) Cost. A product of 256 x 160 x 640 takes 52 million operations, 10 microseconds of two cores
//     with AMX: less than it takes to round the weight, transpose it and write C. oneDNN, which
//     multiplies with the same instructions, makes passes of their own of these;
//     docs/performance.md compares. Larger weights are left to it.
//
// Both units take numbers below 1.2e-38 as zero.
#include "core/pair_product.h"

#include <algorithm>

#include "core/amx.h"
#include "core/bf16_pairs.h"
#include "core/error.h"

#if defined(DYT_BF16_PAIRS)

#include <omp.h>

namespace dyt {
namespace {

using namespace pairs;
using amx::Tiles;

constexpr int64_t side = 16, depth = 32;  // of a tile: rows or columns, and numbers along k
constexpr int64_t block = 2 * side;       // rows and columns of a block of C

struct Tile {
  Pair pairs[side][side];
};

int64_t tiles(int64_t n) { return (n + side - 1) / side; }
int64_t steps_of(int64_t k) { return (k + depth - 1) / depth; }

// --- Memory --------------------------------------------------------------------------------------

// Tiles that are needed only during a product: kept, and grown when one needs more.
Tile* memory_for(int which, int64_t tiles) {
  static Buffer buffers[2];
  Buffer& buffer = buffers[which];
  const size_t bytes = size_t(tiles) * sizeof(Tile) + 64;
  if (buffer.bytes() < bytes) buffer = Buffer(Device::cpu, bytes);
  const auto place = reinterpret_cast<uintptr_t>(buffer.data());
  return reinterpret_cast<Tile*>((place + 63) / 64 * 64);
}

// --- Into tiles ----------------------------------------------------------------------------------

// A factor: `size` rows of C if it is the left one, columns if it is the right one. Number (i, l)
// is at data[i * stride + l] if `along_k`, else at data[l * stride + i].
struct Factor {
  const void* data;
  DType type;
  int64_t size, k;
  bool along_k;
  int64_t stride;
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
  const T* data = static_cast<const T*>(f.data);
  if (f.along_k) {
    read_rows(x, data + i0 * f.stride + k0, f.stride, f.size - i0, f.k - k0);
  } else {
    read_pairs(x, data + k0 * f.stride + i0, f.stride, f.k - k0, f.size - i0);
  }
  if (f.along_k != (where == Side::left)) transpose(x);
#pragma GCC unroll 16
  for (int64_t i = 0; i < side; ++i) _mm512_store_si512(to.pairs[i], x[i]);
}

// Tiles i and steps s of k in the order in which they lie in memory, `piece` at a time: what packs
// a factor, in pieces for all threads.
constexpr int64_t piece = 8;
int64_t pieces_of(const Factor& f, int64_t steps) {
  const int64_t rows = f.along_k ? tiles(f.size) : steps;
  const int64_t columns = f.along_k ? steps : tiles(f.size);
  return rows * ((columns + piece - 1) / piece);
}

void pack_piece(Tile* to, Side where, const Factor& f, int64_t k0, int64_t steps, int64_t which) {
  const int64_t columns = f.along_k ? steps : tiles(f.size);
  const int64_t pieces = (columns + piece - 1) / piece;
  const int64_t row = which / pieces, begin = which % pieces * piece;
  for (int64_t column = begin; column < std::min(columns, begin + piece); ++column) {
    const int64_t i = f.along_k ? row : column, s = f.along_k ? column : row;
    if (f.type == DType::bf16) {
      pack_tile<bf16>(to[i * steps + s], where, f, i * side, k0 + s * depth);
    } else {
      pack_tile<float>(to[i * steps + s], where, f, i * side, k0 + s * depth);
    }
  }
}

// --- A block of C --------------------------------------------------------------------------------

struct Sums {
  float rows[block][block];
};

// sums = the block's product, or += with `add`: R tiles of rows by N tiles of columns, over k
// numbers. Tile (j, s) of the right factor is right[j * steps_of(k) + s].
template <int R, int N>
void multiply_by_vectors(Sums& sums, bool add, const Tiles& left, const Tile* right, int64_t k) {
  const int64_t steps = steps_of(k), pairs = (k + 1) / 2;
  constexpr int rows = 8;  // at once: rows * N sums stay in registers
  for (int64_t i0 = 0; i0 < R * side; i0 += rows) {
    const char* a =
        static_cast<const char*>(left.data) + i0 / side * left.tile + i0 % side * left.row;
    __m512 sum[rows][N];
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < N; ++j) {
        sum[i][j] = add ? _mm512_load_ps(&sums.rows[i0 + i][j * side]) : _mm512_setzero_ps();
      }
    }
    for (int64_t s = 0; s < steps; ++s) {
      for (int64_t l = 0; l < std::min(side, pairs - s * side); ++l) {
        __m512bh b[N];
        for (int j = 0; j < N; ++j) {
          b[j] = __m512bh(_mm512_load_si512(right[j * steps + s].pairs[l]));
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
      for (int j = 0; j < N; ++j) _mm512_store_ps(&sums.rows[i0 + i][j * side], sum[i][j]);
    }
  }
}

// With `add`, to what sums has; by AMX, if the thread has it.
void multiply(const amx::Unit& unit, Sums& sums, bool add, const Tiles& left, const Tile* right,
              int64_t k, int64_t rows, int64_t columns) {
  constexpr int64_t bytes = sizeof(Tile);
  const int64_t steps = steps_of(k);
  amx::with_tiles(rows, columns, [&](auto R, auto N) {
    if (!unit) return multiply_by_vectors<R(), N()>(sums, add, left, right, k);
    const Tiles tiles{right, bytes / side, bytes, steps * bytes};
    amx::multiply<R(), N()>(sums.rows[0], block, add, left, tiles, steps);
  });
}

// --- Into C --------------------------------------------------------------------------------------

__m512 in_f32(__m512 x) { return x; }
__m512 in_f32(__m256i x) { return widened(x); }

void store(float* x, __mmask16 wanted, __m512 value) { _mm512_mask_storeu_ps(x, wanted, value); }
void store(bf16* x, __mmask16 wanted, __m512 value) {
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

void transpose_sums(Sums& to, const Sums& from) {
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

void add_sums(Sums& to, const Sums& from) {
  for (int64_t i = 0; i < block; ++i) {
#pragma omp simd
    for (int64_t j = 0; j < block; ++j) to.rows[i][j] += from.rows[i][j];
  }
}

// --- The product ---------------------------------------------------------------------------------

// C = left * right, or its transpose.
struct Plan {
  Factor left, right;
  bool turned = false;    // C' = B' A' instead of C = A B
  bool in_place = false;  // A's rows are tiles as they lie
  bool by_rows = false;   // compute_by_rows
  int64_t parts = 1;      // of k, in compute_by_pieces
};

// Numbers along k that a thread packs at a time if it packs both factors: a block's tiles then stay
// in the first-level cache.
constexpr int64_t chunk = 256;

Plan plan_of(const Product& p, const void* a, const void* b) {
  const bool a_along = p.op_a == Op::none, b_along = p.op_b == Op::transpose;
  Plan plan{{a, p.a, p.m, p.k, a_along, a_along ? p.k : p.m},
            {b, p.b, p.n, p.k, b_along, b_along ? p.k : p.n}};
  plan.by_rows = p.op_a == Op::none && p.m >= p.n;
  plan.in_place = p.a == DType::bf16 && p.op_a == Op::none && p.m % side == 0 && p.k % depth == 0;
  if (p.op_a == Op::transpose && p.op_b == Op::none) {
    // Turned, fewer tiles of the left factor are transposed, but all of C is.
    plan.turned = side * (p.m - p.n) * steps_of(p.k) > p.m * p.n && !p.bias && !p.residual;
    if (plan.turned) std::swap(plan.left, plan.right);
    // Each part has a C of its own; writing and adding them should cost less than packing.
    const int64_t most = std::min(p.k * (p.m + p.n) / (8 * p.m * p.n), p.k / chunk);
    while (plan.parts < 16 && 2 * plan.parts <= most) plan.parts *= 2;
  }
  return plan;
}

template <class T>
void finish_block(const Product& p, const Plan& plan, T* c, int64_t i0, int64_t j0, int64_t rows,
                  int64_t columns, const Sums& sums) {
  if (!plan.turned) {
    for (int64_t r = 0; r < rows; ++r) finish_row(p, c, i0 + r, j0, columns, sums.rows[r]);
    return;
  }
  alignas(64) Sums turned;
  transpose_sums(turned, sums);
  for (int64_t r = 0; r < columns; ++r) finish_row(p, c, j0 + r, i0, rows, turned.rows[r]);
}

template <class T>
void prefetch_block(const Product& p, const Plan& plan, const T* c, int64_t i0, int64_t j0,
                    int64_t rows, int64_t columns) {
  if (plan.turned) std::swap(i0, j0), std::swap(rows, columns);
  for (int64_t r = 0; r < rows; ++r) prefetch_to_write(c + (i0 + r) * p.n + j0, columns);
}

// Rows of tiles where A lies.
Tiles rows_in_place(const Factor& left, int64_t i0) {
  const int64_t row = left.k * int64_t(sizeof(bf16));
  return {static_cast<const char*>(left.data) + i0 * row, row, depth * int64_t(sizeof(bf16)),
          side * row};
}

// Rows of packed tiles, the first of them at `tiles`.
Tiles packed(const Tile* tiles, int64_t steps) {
  constexpr int64_t bytes = sizeof(Tile);
  return {reinterpret_cast<const char*>(tiles), bytes / side, bytes, steps * bytes};
}

void pack(Tile* to, Side where, const Factor& f, int64_t k0, int64_t steps) {
  const int64_t pieces = pieces_of(f, steps);
  for (int64_t t = 0; t < pieces; ++t) pack_piece(to, where, f, k0, steps, t);
}

// Rows or columns [begin, begin + n) of a factor.
Factor part_of(const Factor& f, int64_t begin, int64_t n) {
  const int64_t bytes = f.type == DType::bf16 ? 2 : 4;
  Factor part = f;
  part.data = static_cast<const char*>(f.data) + begin * bytes * (f.along_k ? f.stride : 1);
  part.size = n;
  return part;
}

// Many rows: the right factor is packed by all threads; then each multiplies rows of the left one.
template <class T>
void compute_by_rows(const Product& p, const Plan& plan, T* c) {
  const int64_t steps = steps_of(p.k), blocks = (p.m + block - 1) / block;
  const int64_t pieces = pieces_of(plan.right, steps);
  Tile* const right = memory_for(0, tiles(p.n) * steps);
  Tile* const left = memory_for(1, plan.in_place ? 0 : 2 * steps * omp_get_max_threads());
#pragma omp parallel
  {
    const amx::Unit unit;
    Tile* const own = left + 2 * steps * omp_get_thread_num();
    alignas(64) Sums sums;
#pragma omp for schedule(static)
    for (int64_t t = 0; t < pieces; ++t) pack_piece(right, Side::right, plan.right, 0, steps, t);
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t i0 = i * block, rows = std::min(block, p.m - i0);
      if (!plan.in_place) pack(own, Side::left, part_of(plan.left, i0, rows), 0, steps);
      const Tiles from = plan.in_place ? rows_in_place(plan.left, i0) : packed(own, steps);
      for (int64_t j0 = 0; j0 < p.n; j0 += block) {
        const int64_t columns = std::min(block, p.n - j0);
        prefetch_block(p, plan, c, i0, j0, rows, columns);
        multiply(unit, sums, false, from, right + j0 / side * steps, p.k, rows, columns);
        finish_block(p, plan, c, i0, j0, rows, columns, sums);
      }
    }
  }
}

struct Piece {
  int64_t i0, rows, j0, columns;  // of left * right
};

// One of `pieces` of C, cut along its longer side between two tiles.
Piece piece_of(const Plan& plan, int64_t which, int64_t pieces) {
  const int64_t m = plan.left.size, n = plan.right.size, longer = std::max(m, n);
  const int64_t begin = which * tiles(longer) / pieces * side;
  const int64_t end = std::min(longer, (which + 1) * tiles(longer) / pieces * side);
  return m > n ? Piece{begin, end - begin, 0, n} : Piece{0, m, begin, end - begin};
}

int64_t blocks_of(const Piece& piece) {
  return (piece.rows + block - 1) / block * ((piece.columns + block - 1) / block);
}

// Calls body(block, i0, j0, rows, columns) for a piece's blocks.
template <class Body>
void for_each_block(const Piece& piece, Body&& body) {
  int64_t which = 0;
  for (int64_t i = 0; i < piece.rows; i += block) {
    for (int64_t j = 0; j < piece.columns; j += block, ++which) {
      body(which, piece.i0 + i, piece.j0 + j, std::min(block, piece.rows - i),
           std::min(block, piece.columns - j));
    }
  }
}

// Few rows, or a long sum: each thread packs for itself. It has a piece of C and the whole sum; or
// a part of the sum, and all parts are added up at the end.
template <class T>
void compute_by_pieces(const Product& p, const Plan& plan, T* c) {
  const Factor &left = plan.left, &right = plan.right;
  const int64_t threads = omp_get_max_threads(), parts = plan.parts;
  const int64_t longer = tiles(std::max(left.size, right.size));
  const int64_t pieces = std::min((threads + parts - 1) / parts, longer);
  const int64_t at_once = left.along_k ? p.k : chunk, most = steps_of(at_once);
  const int64_t most_tiles = (longer + pieces - 1) / pieces;
  const int64_t left_tiles = left.size > right.size ? most_tiles : tiles(left.size);
  const int64_t right_tiles = left.size > right.size ? tiles(right.size) : most_tiles;
  const int64_t blocks = (left_tiles + 1) / 2 * ((right_tiles + 1) / 2);
  const bool at_the_end = parts > 1 || at_once < p.k;  // C is written when all sums are there
  const int64_t own_tiles = ((plan.in_place ? 0 : left_tiles) + right_tiles) * most;
  Tile* const memory = memory_for(0, own_tiles * threads);
  Sums* const all_sums = reinterpret_cast<Sums*>(memory_for(
      1, at_the_end ? parts * pieces * blocks * int64_t(sizeof(Sums) / sizeof(Tile)) : 0));
#pragma omp parallel
  {
    const amx::Unit unit;
    Tile* const own_right = memory + own_tiles * omp_get_thread_num();
    Tile* const own_left = own_right + right_tiles * most;
    alignas(64) Sums sums;
#pragma omp for collapse(2) schedule(static) nowait
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t which = 0; which < pieces; ++which) {
        const Piece piece = piece_of(plan, which, pieces);
        const Factor rows = part_of(left, piece.i0, piece.rows);
        const Factor columns = part_of(right, piece.j0, piece.columns);
        Sums* const of_piece = all_sums + (part * pieces + which) * blocks;
        const int64_t begin = part * steps_of(p.k) / parts * depth;
        const int64_t end = std::min(p.k, (part + 1) * steps_of(p.k) / parts * depth);
        for (int64_t k0 = begin; k0 < end; k0 += at_once) {
          const int64_t k = std::min(at_once, end - k0), steps = steps_of(k);
          if (!plan.in_place) pack(own_left, Side::left, rows, k0, steps);
          pack(own_right, Side::right, columns, k0, steps);
          for_each_block(piece, [&](int64_t b, int64_t i0, int64_t j0, int64_t m, int64_t n) {
            const Tiles from = plan.in_place
                                   ? rows_in_place(left, i0)
                                   : packed(own_left + (i0 - piece.i0) / side * steps, steps);
            const Tile* const to_the_right = own_right + (j0 - piece.j0) / side * steps;
            if (at_the_end) {
              return multiply(unit, of_piece[b], k0 > begin, from, to_the_right, k, m, n);
            }
            prefetch_block(p, plan, c, i0, j0, m, n);
            multiply(unit, sums, false, from, to_the_right, k, m, n);
            finish_block(p, plan, c, i0, j0, m, n, sums);
          });
        }
      }
    }
    if (at_the_end) {
#pragma omp barrier
      for (int64_t which = 0; which < pieces; ++which) {
        const Piece piece = piece_of(plan, which, pieces);
        const Sums* const of_piece = all_sums + which * blocks;
#pragma omp for schedule(static) nowait
        for (int64_t b = 0; b < blocks_of(piece); ++b) {
          const int64_t across = (piece.columns + block - 1) / block;
          const int64_t i = b / across * block, j = b % across * block;
          sums = of_piece[b];
          for (int64_t part = 1; part < parts; ++part) {
            add_sums(sums, of_piece[part * pieces * blocks + b]);
          }
          finish_block(p, plan, c, piece.i0 + i, piece.j0 + j, std::min(block, piece.rows - i),
                       std::min(block, piece.columns - j), sums);
        }
      }
    }
  }
}

template <class T>
void compute(const Product& p, const void* a, const void* b, T* c) {
  const Plan plan = plan_of(p, a, b);
  plan.by_rows ? compute_by_rows(p, plan, c) : compute_by_pieces(p, plan, c);
}

}  // namespace

const char* pair_product_unit() { return amx::available() ? "AMX" : "AVX512-BF16"; }

bool has_pair_product(const Product& p) {
  // Packed, a weight is to stay in the second-level cache; the sums of parts take memory.
  const bool fits =
      p.op_a == Op::none ? p.n * p.k <= int64_t(1) << 20 : p.m * p.n <= int64_t(1) << 22;
  // With AVX512-BF16 a product takes five times as long, and packing is a small part of a large
  // one.
  return fits && (amx::available() || p.m * p.n * p.k <= int64_t(1) << 27);
}

void pair_product(const Product& p, const void* a, const void* b, void* c) {
  p.c == DType::bf16 ? compute(p, a, b, static_cast<bf16*>(c))
                     : compute(p, a, b, static_cast<float*>(c));
}

void use_amx(bool wanted) { amx::wanted = wanted; }

}  // namespace dyt

#else

namespace dyt {

const char* pair_product_unit() { return ""; }
bool has_pair_product(const Product&) { return false; }
void pair_product(const Product&, const void*, const void*, void*) {
  fail("built for a processor without AVX512-BF16");
}
void use_amx(bool) {}

}  // namespace dyt

#endif
