// Matrix products on the CPU by its units for bf16: of bf16 matrices, and with AMX of f32 ones.
//
// (1) What the processor offers. C is cut into blocks of 32 x 32, and a step adds to a block the
//     product of 32 x 32 numbers of A and as many of B. Both units take the numbers of a sum in
//     pairs of bf16, 32 bits; 16 pairs are 64 bytes:
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
//                                larger one, we compute dw' = x' dy: then x is transposed.
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

#include "core/error.h"
#include "core/pair_blocks.h"

#if defined(DYT_BF16_PAIRS)

#include <omp.h>

namespace dyt {
namespace {

using namespace pairs;
using amx::Tiles;

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
  // Tiles of AMX have whole rows of pairs; vectors take one pair after the other.
  const int64_t unit = amx::available() ? depth : 2;
  plan.in_place = p.a == DType::bf16 && p.op_a == Op::none && p.m % side == 0 && p.k % unit == 0;
  if (p.op_a == Op::transpose && p.op_b == Op::none) {
    // Computing C' instead transposes fewer tiles of the left factor, but then all of C.
    plan.turned = side * (p.m - p.n) * steps_of(p.k) > p.m * p.n && !p.bias && !p.residual;
    if (plan.turned) std::swap(plan.left, plan.right);
    // Each part has a C of its own; writing and adding them should cost less than packing.
    const int64_t most = std::min(p.k * (p.m + p.n) / (8 * p.m * p.n), p.k / chunk_of(digits));
    while (plan.parts < 16 && 2 * plan.parts <= most) plan.parts *= 2;
  }
  return plan;
}

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

// What makes block `at`, over k numbers: A's rows where they lie or as packed, and B's columns as
// packed; the packed ones begin with row i0 and column j0.
BlockProduct product_of(const Plan& plan, const Piece& at, int64_t k, const Tile* left, int64_t i0,
                        const Tile* right, int64_t j0) {
  const int digits = plan.left.digits;
  const int64_t steps = steps_of(k), row = steps * digits;
  return {at.rows,
          at.columns,
          k,
          digits,
          plan.in_place ? rows_in_place(plan.left, at.i0)
                        : packed(left + (at.i0 - i0) / side * row, steps, digits),
          packed(right + (at.j0 - j0) / side * row, steps, digits)};
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
    Blocks<T> c_blocks(unit, p, plan.turned, c);
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
          c_blocks.compute(at, product_of(plan, at, p.k, own, begin, right, 0));
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

Piece block_of(const Piece& piece, int64_t which) {
  const int64_t across = (piece.columns + block - 1) / block;
  const int64_t i = which / across * block, j = which % across * block;
  return {piece.i0 + i, std::min(block, piece.rows - i), piece.j0 + j,
          std::min(block, piece.columns - j)};
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
    Blocks<T> c_blocks(unit, p, plan.turned, c);
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
            const BlockProduct product =
                product_of(plan, at, k, own_left, piece.i0, own_right, piece.j0);
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
          if (b + 1 < blocks_of(piece)) prefetch_block(c, p.n, plan.turned, block_of(piece, b + 1));
          for (int64_t part = 1; part < parts; ++part) {
            add_sums(of_piece[b], of_piece[part * pieces * blocks + b]);
          }
          finish_block(p, plan.turned, c, block_of(piece, b), of_piece[b]);
        }
      }
    }
  }
}

// A long sum over many rows is cut, so that a block of rows and a few columns fit into the cache.
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
  // and oneDNN as good. (These sizes are where the two were as fast, as measured.)
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
