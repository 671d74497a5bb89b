// Matrix products on the CPU by its units for bf16: of bf16 matrices, and with AMX of f32 ones.
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
// (2) f32. AMX multiplies 16 times as fast as the units for f32. So f32 that is not to be rounded
//     is written as three bf16, like a number of three digits, and multiplied as one multiplies by
//     hand: six products of digits (core/amx.h). Their sums are as exact as those in f32, and more
//     so in measurements, at nearly twice the speed.
//
// (3) What has to be rearranged (core/pair_tiles.h). A in bf16 whose rows run along k is a row of
//     left tiles as it lies in memory. Everything else is copied, with zeros beyond its edges: a
//     matrix stored along k into left tiles row by row; one stored across k into right tiles by
//     interleaving two rows; and from the one to the other kind of tile by transposing 16 x 16
//     pairs, 64 instructions.
//
//       forward    y  = x w'     w (n, k) f32: rounded or split, and transposed
//       backward   dx = dy w     w (k, n) f32: rounded or split, and interleaved
//       gradient   dw = dy' x    x: interleaved; dy: interleaved, and transposed. If dy is the
//                                larger one, we compute dw' = x' dy: then x is.
//
// (4) Who does what. With many rows, as forward and backward, all threads pack the weight, and then
//     each has rows of C. Otherwise what one thread packs no other reads, as bringing it from one
//     core's cache to another's would take longer than multiplying it: a thread has a piece of C,
//     or a part of the sum, and the parts are added up at the end. How a sum is cut depends on the
//     shape alone, so C has the same bits for any number of threads.
//
// (5) Cost. A product of 256 x 160 x 640 in bf16 takes 52 million operations, 10 microseconds of
//     two cores with AMX: less than it takes to round the weight, transpose it and write C. oneDNN,
//     which multiplies with the same instructions, makes passes of their own of these;
//     docs/performance.md compares.
//
// Both units take numbers below 1.2e-38 as zero, so f32 below 1e-33 loses digits; and what is
// infinite in f32 becomes NaN.
#include "core/pair_product.h"

#include <algorithm>

#include "core/amx.h"
#include "core/error.h"
#include "core/pair_tiles.h"

#if defined(DYT_BF16_PAIRS)

#include <omp.h>

namespace dyt {
namespace {

using namespace pairs;
using amx::Tiles;

constexpr int64_t block = 2 * side;  // rows and columns of a block of C

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

void multiply(const amx::Unit& unit, const amx::Sums& to, const amx::Sums* start,
              const BlockProduct& p) {
  amx::with_tiles(p.rows, p.columns, [&](auto R, auto N) {
    if (!unit) return multiply_by_vectors<R(), N()>(to, start, p.left, p.right, p.k);
    const int64_t steps = steps_of(p.k);
    p.digits == 3 ? amx::multiply_digits<R(), N()>(to, start, p.left, p.right, steps)
                  : amx::multiply<R(), N()>(to, start, p.left, p.right, steps);
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

void transpose_sums(BlockSums& to, const BlockSums& from) {
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

void add_sums(BlockSums& to, const BlockSums& from) {
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
// in the first-level cache, or all that it packs in the second-level one.
int64_t chunk_of(int digits) { return digits == 3 ? 128 : 256; }

Plan plan_of(const Product& p, const void* a, const void* b, int digits) {
  const bool a_along = p.op_a == Op::none, b_along = p.op_b == Op::transpose;
  Plan plan{{a, p.a, p.m, p.k, a_along, a_along ? p.k : p.m, digits},
            {b, p.b, p.n, p.k, b_along, b_along ? p.k : p.n, digits}};
  plan.by_rows = p.op_a == Op::none && p.m >= std::min<int64_t>(p.n, 512);
  plan.in_place = p.a == DType::bf16 && p.op_a == Op::none && p.m % side == 0 && p.k % depth == 0;
  if (p.op_a == Op::transpose && p.op_b == Op::none) {
    // Turned, fewer tiles of the left factor are transposed, but all of C is.
    plan.turned = side * (p.m - p.n) * steps_of(p.k) > p.m * p.n && !p.bias && !p.residual;
    if (plan.turned) std::swap(plan.left, plan.right);
    // Each part has a C of its own; writing and adding them should cost less than packing.
    const int64_t most = std::min(p.k * (p.m + p.n) / (8 * p.m * p.n), p.k / chunk_of(digits));
    while (plan.parts < 16 && 2 * plan.parts <= most) plan.parts *= 2;
  }
  return plan;
}

// Rows [i0, i0 + rows) and columns [j0, j0 + columns) of left * right.
struct Piece {
  int64_t i0, rows, j0, columns;
};

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
void finish_block(const Product& p, const Plan& plan, T* c, const Piece& at,
                  const BlockSums& sums) {
  if (!plan.turned) {
    for (int64_t r = 0; r < at.rows; ++r) {
      finish_row(p, c, at.i0 + r, at.j0, at.columns, sums.rows[r]);
    }
    return;
  }
  alignas(64) BlockSums turned;
  transpose_sums(turned, sums);
  for (int64_t r = 0; r < at.columns; ++r) {
    finish_row(p, c, at.j0 + r, at.i0, at.rows, turned.rows[r]);
  }
}

// What a thread does with blocks of C. A block whose sums need more than to be written is finished
// while the next one is being multiplied: its numbers come out of the unit late.
template <class T>
class Blocks {
 public:
  Blocks(const amx::Unit& unit, const Product& p, const Plan& plan, T* c)
      : unit_(unit), p_(p), plan_(plan), c_(c) {}
  ~Blocks() { finish(); }
  Blocks(const Blocks&) = delete;
  Blocks& operator=(const Blocks&) = delete;

  void compute(const Piece& at, const BlockProduct& product) {
    prefetch(at);
    if constexpr (std::is_same_v<T, float>) {
      const bool whole = at.rows % side == 0 && at.columns % side == 0;
      if (whole && !plan_.turned && !p_.add && !p_.residual) {
        const amx::Sums bias{const_cast<float*>(p_.bias) + at.j0, 0};
        return multiply(unit_, {c_ + at.i0 * p_.n + at.j0, p_.n}, p_.bias ? &bias : nullptr,
                        product);
      }
    }
    multiply(unit_, sums_[next_].all(), nullptr, product);
    finish();
    waiting_ = at;
    next_ = 1 - next_;
  }

 private:
  void finish() {
    if (waiting_.rows > 0) finish_block(p_, plan_, c_, waiting_, sums_[1 - next_]);
    waiting_.rows = 0;
  }

  void prefetch(Piece at) {
    if (plan_.turned) std::swap(at.i0, at.j0), std::swap(at.rows, at.columns);
    for (int64_t r = 0; r < at.rows; ++r) {
      prefetch_to_write(c_ + (at.i0 + r) * p_.n + at.j0, at.columns);
    }
  }

  const amx::Unit& unit_;
  const Product& p_;
  const Plan& plan_;
  T* const c_;
  alignas(64) BlockSums sums_[2];
  Piece waiting_{};
  int next_ = 0;
};

// Rows of tiles where A lies.
Tiles rows_in_place(const Factor& left, int64_t i0) {
  const int64_t row = left.stride * int64_t(sizeof(bf16));
  return {left.at(i0, 0), row, depth * int64_t(sizeof(bf16)), side * row};
}

// Rows of packed tiles, the first of them at `tiles`.
Tiles packed(const Tile* tiles, int64_t steps, int digits) {
  constexpr int64_t bytes = sizeof(Tile);
  return {tiles, bytes / side, digits * bytes, steps * digits * bytes};
}

void pack(Tile* to, Side where, const Factor& f, int64_t k0, int64_t steps) {
  const int64_t pieces = pieces_of(f, steps);
  for (int64_t t = 0; t < pieces; ++t) pack_piece(to, where, f, k0, steps, t);
}

// Rows or columns [begin, begin + n) of a factor.
Factor part_of(const Factor& f, int64_t begin, int64_t n) {
  Factor part = f;
  part.data = f.at(begin, 0);
  part.size = n;
  return part;
}

// Of a product, and of its factors, numbers [begin, begin + k) of the sum.
void cut_sum(Product& p, Plan& plan, int64_t begin, int64_t k) {
  for (Factor* f : {&plan.left, &plan.right}) f->data = f->at(0, begin), f->k = k;
  p.k = k;
}

// The `which`th of `shares` of the rows [i0, i0 + rows), as far as there are such.
void prefetch_share(const Factor& f, int64_t i0, int64_t rows, int64_t which, int64_t shares) {
  const int64_t lines = (f.k * f.bytes() + 63) / 64, all = std::min(rows, f.size - i0) * lines;
  for (int64_t l = all * which / shares; l < all * (which + 1) / shares; ++l) {
    __builtin_prefetch(static_cast<const char*>(f.at(i0 + l / lines, 0)) + l % lines * 64, 0, 2);
  }
}

// How many rows and columns of C are computed before the next ones. If the right factor fits into
// the second-level cache, it comes by for every block of rows. If not, columns of it that fit do so
// for a few blocks of rows, which fit as well, and then others for the same rows.
struct Grouping {
  int64_t groups, blocks, columns;  // groups of rows; blocks in the largest; columns at a time
};

Grouping grouping_of(const Product& p, int digits, int64_t threads) {
  constexpr int64_t in_cache = (int64_t(1) << 20) / int64_t(sizeof(Tile));
  const int64_t blocks = (p.m + block - 1) / block, row = steps_of(p.k) * digits;  // of tiles
  if (tiles(p.n) * row <= in_cache) return {blocks, 1, p.n};
  const int64_t wanted = std::clamp<int64_t>(in_cache / (2 * row), 1, 8) * threads;
  const int64_t groups = std::min(blocks, (blocks + wanted - 1) / wanted * threads);
  const int64_t columns = std::max<int64_t>(1, in_cache / 2 / (2 * row)) * block;
  return {groups, (blocks + groups - 1) / groups, columns};
}

// Many rows: the right factor is packed by all threads; then each multiplies rows of the left one.
template <class T>
void compute_by_rows(const Product& p, const Plan& plan, T* c) {
  const int64_t steps = steps_of(p.k), blocks = (p.m + block - 1) / block;
  const int64_t pieces = pieces_of(plan.right, steps), threads = omp_get_max_threads();
  const int digits = plan.left.digits;
  const Grouping by = grouping_of(p, digits, threads);
  const int64_t own_tiles = plan.in_place ? 0 : by.blocks * 2 * steps * digits;
  Tile* const right = memory_for(0, tiles(p.n) * steps * digits);
  Tile* const left = memory_for(1, own_tiles * threads);
#pragma omp parallel
  {
    const amx::Unit unit;
    Tile* const own = left + own_tiles * omp_get_thread_num();
    Blocks<T> c_blocks(unit, p, plan, c);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < pieces; ++t) pack_piece(right, Side::right, plan.right, 0, steps, t);
#pragma omp for schedule(static) nowait
    for (int64_t g = 0; g < by.groups; ++g) {
      const int64_t begin = g * blocks / by.groups * block;
      const int64_t rows = std::min(p.m, (g + 1) * blocks / by.groups * block) - begin;
      if (!plan.in_place) pack(own, Side::left, part_of(plan.left, begin, rows), 0, steps);
      const int64_t shares = (rows + block - 1) / block * ((p.n + block - 1) / block);
      int64_t share = 0;
      for (int64_t j = 0; j < p.n; j += by.columns) {
        for_each_block({begin, rows, j, std::min(by.columns, p.n - j)}, [&](const Piece& at) {
          prefetch_share(plan.left, begin + rows, rows, share++, shares);
          const Tile* const to_the_left = own + (at.i0 - begin) / side * steps * digits;
          c_blocks.compute(at, {at.rows, at.columns, p.k, digits,
                                plan.in_place ? rows_in_place(plan.left, at.i0)
                                              : packed(to_the_left, steps, digits),
                                packed(right + at.j0 / side * steps * digits, steps, digits)});
        });
      }
    }
  }
}

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

// Few rows, or a long sum: each thread packs for itself. It has a piece of C and the whole sum; or
// a part of the sum, and all parts are added up at the end.
template <class T>
void compute_by_pieces(const Product& p, const Plan& plan, T* c) {
  const Factor &left = plan.left, &right = plan.right;
  const int64_t threads = omp_get_max_threads(), parts = plan.parts;
  const int64_t longer = tiles(std::max(left.size, right.size));
  const int64_t pieces = std::min((threads + parts - 1) / parts, longer);
  const int64_t at_once = left.along_k ? p.k : chunk_of(left.digits), most = steps_of(at_once);
  const int64_t most_tiles = (longer + pieces - 1) / pieces;
  const int64_t left_tiles = left.size > right.size ? most_tiles : tiles(left.size);
  const int64_t right_tiles = left.size > right.size ? tiles(right.size) : most_tiles;
  const int64_t blocks = (left_tiles + 1) / 2 * ((right_tiles + 1) / 2);
  const bool at_the_end = parts > 1 || at_once < p.k;  // C is written when all sums are there
  const int digits = plan.left.digits;
  const int64_t own_tiles = ((plan.in_place ? 0 : left_tiles) + right_tiles) * most * digits;
  Tile* const memory = memory_for(0, own_tiles * threads);
  BlockSums* const all_sums = reinterpret_cast<BlockSums*>(memory_for(
      1, at_the_end ? parts * pieces * blocks * int64_t(sizeof(BlockSums) / sizeof(Tile)) : 0));
#pragma omp parallel
  {
    const amx::Unit unit;
    Tile* const own_right = memory + own_tiles * omp_get_thread_num();
    Tile* const own_left = own_right + right_tiles * most * digits;
    Blocks<T> c_blocks(unit, p, plan, c);
#pragma omp for collapse(2) schedule(static) nowait
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t which = 0; which < pieces; ++which) {
        const Piece piece = piece_of(plan, which, pieces);
        const Factor rows = part_of(left, piece.i0, piece.rows);
        const Factor columns = part_of(right, piece.j0, piece.columns);
        BlockSums* const of_piece = all_sums + (part * pieces + which) * blocks;
        const int64_t begin = part * steps_of(p.k) / parts * depth;
        const int64_t end = std::min(p.k, (part + 1) * steps_of(p.k) / parts * depth);
        for (int64_t k0 = begin; k0 < end; k0 += at_once) {
          const int64_t k = std::min(at_once, end - k0), steps = steps_of(k);
          if (!plan.in_place) pack(own_left, Side::left, rows, k0, steps);
          pack(own_right, Side::right, columns, k0, steps);
          BlockSums* block_sums = of_piece;
          for_each_block(piece, [&](const Piece& at) {
            const Tile* const to_the_right = own_right + (at.j0 - piece.j0) / side * steps * digits;
            const Tile* const to_the_left = own_left + (at.i0 - piece.i0) / side * steps * digits;
            const BlockProduct product{
                at.rows,
                at.columns,
                k,
                digits,
                plan.in_place ? rows_in_place(left, at.i0) : packed(to_the_left, steps, digits),
                packed(to_the_right, steps, digits)};
            if (!at_the_end) return c_blocks.compute(at, product);
            const amx::Sums sums = block_sums++->all();
            multiply(unit, sums, k0 > begin ? &sums : nullptr, product);
          });
        }
      }
    }
    if (at_the_end) {
#pragma omp barrier
      for (int64_t which = 0; which < pieces; ++which) {
        const Piece piece = piece_of(plan, which, pieces);
        BlockSums* const of_piece = all_sums + which * blocks;
#pragma omp for schedule(static) nowait
        for (int64_t b = 0; b < blocks_of(piece); ++b) {
          for (int64_t part = 1; part < parts; ++part) {
            add_sums(of_piece[b], of_piece[part * pieces * blocks + b]);
          }
          const int64_t across = (piece.columns + block - 1) / block;
          const int64_t i = b / across * block, j = b % across * block;
          finish_block(p, plan, c,
                       {piece.i0 + i, std::min(block, piece.rows - i), piece.j0 + j,
                        std::min(block, piece.columns - j)},
                       of_piece[b]);
        }
      }
    }
  }
}

// A long sum over many rows is cut: a block of rows and a few columns are to fit into the cache.
template <class T>
void compute(const Product& p, const void* a, const void* b, T* c, int digits) {
  const Plan plan = plan_of(p, a, b, digits);
  if (!plan.by_rows) return compute_by_pieces(p, plan, c);
  const int64_t longest = 3072 / digits, cuts = (p.k + longest - 1) / longest;
  if (std::is_same_v<T, bf16> || cuts == 1) return compute_by_rows(p, plan, c);
  for (int64_t i = 0; i < cuts; ++i) {
    const int64_t begin = i * steps_of(p.k) / cuts * depth;
    const int64_t end = std::min(p.k, (i + 1) * steps_of(p.k) / cuts * depth);
    Product part = p;
    if (i > 0) part.add = true, part.bias = part.residual = nullptr;
    Plan part_plan = plan;
    cut_sum(part, part_plan, begin, end - begin);
    compute_by_rows(part, part_plan, c);
  }
}

}  // namespace

const char* pair_product_unit() { return amx::available() ? "AMX" : "AVX512-BF16"; }

bool has_pair_product(const Product& p) {
  if (amx::available()) return p.op_a == Op::none || p.m * p.n <= int64_t(1) << 26;
  // With AVX512-BF16 a product takes five times as long: packing is a small part of a large one,
  // and oneDNN as good.
  const bool fits =
      p.op_a == Op::none ? p.n * p.k <= int64_t(1) << 20 : p.m * p.n <= int64_t(1) << 22;
  return fits && p.m * p.n * p.k <= int64_t(1) << 27;
}

void pair_product(const Product& p, const void* a, const void* b, void* c) {
  p.c == DType::bf16 ? compute(p, a, b, static_cast<bf16*>(c), 1)
                     : compute(p, a, b, static_cast<float*>(c), 1);
}

bool has_split_product(const Product& p) {
  // Where the rest, packing and writing C, isn't more than what AMX saves.
  const bool enough = std::min({p.m, p.n, p.k}) >= 64 && p.m * p.n * p.k >= int64_t(1) << 23;
  const bool fits = p.op_a == Op::none ? p.m >= 256 : p.m * p.n <= int64_t(1) << 22;
  return amx::available() && enough && fits;
}

void split_product(const Product& p, const void* a, const void* b, void* c) {
  compute(p, a, b, static_cast<float*>(c), 3);
}

void use_amx(bool wanted) { amx::wanted = wanted; }

}  // namespace dyt

#else

namespace dyt {

const char* pair_product_unit() { return ""; }
bool has_pair_product(const Product&) { return false; }
bool has_split_product(const Product&) { return false; }
void pair_product(const Product&, const void*, const void*, void*) {
  fail("built for a processor without AVX512-BF16");
}
void split_product(const Product&, const void*, const void*, void*) {
  fail("built for a processor without AMX");
}
void use_amx(bool) {}

}  // namespace dyt

#endif
