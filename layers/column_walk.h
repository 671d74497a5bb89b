// Walking down the columns of a matrix x (rows, C) in kernels: what norms and layer scale have in
// common, whose sums go over rows. Only .cu files include this.
#pragma once
#include "core/kernel.h"
#include "core/reduce.h"
#include "layers/wide_row.h"

namespace dyt {

// A block is X x Y = 256 threads: X packs of V channels side by side, X a power of two up to 32,
// and Y rows, so that a warp reads neighbouring bytes however narrow the rows are. blockIdx.x
// counts packs, blockIdx.y the parts into which the rows are cut; a thread walks down the column of
// its pack, through every Y-th row of its part.
struct ColumnGrid {
  int V;
  dim3 grid, block;
  int64_t parts;
};

// The grid for `samples` matrices (rows, C), sample blockIdx.z, whose columns are summed: as many
// blocks as run at a time, 3 on each SM, so that partial sums are few; at least 4 rows for a
// thread. `most_packs` below 32: more columns of blocks, so fewer parts; 8 packs are 128 bytes, a
// cache line.
template <class T>
ColumnGrid column_grid(int64_t rows, int64_t C, int64_t samples = 1,
                       int64_t blocks = 3 * multiprocessors(), int64_t rows_per_thread = 4,
                       unsigned most_packs = 32) {
  require(samples <= 65535 && C < (int64_t(1) << 31) && rows < (int64_t(1) << 31),
          "a kernel can't count ", samples, " samples of ", rows, " rows of ", C, " channels");
  const int V = vector_width<T>(C);
  unsigned X = 1;
  while (X < (V > 1 ? most_packs : 32) && X * V < C) X *= 2;
  const unsigned Y = 256 / X, columns = blocks_for(C, X * V);
  int64_t parts =
      std::min<int64_t>(65535, row_parts(rows, columns * samples, rows_per_thread * Y, blocks));
  const int64_t of_part = (rows + parts - 1) / parts;
  parts = (rows + of_part - 1) / of_part;  // none is empty
  return {V, dim3(columns, unsigned(parts), unsigned(samples)), dim3(X, Y), parts};
}

// The same where nothing is summed: blocks of 4 rows for a thread, however many there are. Small
// pieces spread evenly over the SMs, and all that a thread reads is asked for at once.
template <class T>
ColumnGrid column_map_grid(int64_t rows, int64_t C, int64_t samples = 1) {
  return column_grid<T>(rows, C, samples, int64_t(1) << 40, 4);
}

// Which rows a part has, and in which order the parts come.
//   pieces   part 0 the first ones, as many as every other part, part 1 the next ones ...
//   backward the same, but the last ones come first
//   stripes  Y rows in turn, so that all parts together go through the matrix from its beginning to
//            its end. Its end is then what the cache still has, and a second kernel that goes
//            backward need not read that again.
enum class RowOrder { pieces, backward, stripes };

// A thread's place in that grid.
struct ColumnPlace {
  int64_t c;  // first channel of its pack; at or beyond C: no work
  // The thread's rows are begin + threadIdx.y, + step, + 2 step ... up to, not including, end.
  int64_t begin, end, step;
  // (A 64-bit division would take as long as a row or two.)
  __device__ ColumnPlace(int V, int64_t rows, RowOrder order = RowOrder::pieces)
      : c((int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * V), step(blockDim.y) {
    if (order == RowOrder::stripes) {
      begin = min(rows, int64_t(blockIdx.y * blockDim.y)), end = rows, step *= gridDim.y;
      return;
    }
    const unsigned part = order == RowOrder::backward ? gridDim.y - 1 - blockIdx.y : blockIdx.y;
    const int64_t of_part = (unsigned(rows) + gridDim.y - 1) / gridDim.y;
    begin = min(rows, of_part * part), end = min(rows, begin + of_part);
  }
};

// How many of `rows` rows each of so many stripes has, of Y rows in turn.
struct StripeRows {
  int of_all, left, Y;  // what every stripe has; rows of the last turn
  __device__ StripeRows(int rows, int parts, int Y)
      : of_all(rows / (parts * Y) * Y), left(rows % (parts * Y)), Y(Y) {}
  __device__ int of(int part) const { return of_all + min(max(left - part * Y, 0), Y); }
};

// numbers[i] = from[c + i], or `otherwise` if there is no such vector.
template <int V>
__device__ inline void load_channels(float (&numbers)[V], const float* from, int64_t c,
                                     float otherwise) {
  Pack<float, V> pack;
#pragma unroll
  for (int i = 0; i < V; ++i) pack.v[i] = otherwise;
  if (from) pack = load<V>(from + c);
#pragma unroll
  for (int i = 0; i < V; ++i) numbers[i] = pack.v[i];
}

// Walks down the thread's column: use(r, load(r)) for each of its rows r, where U rows are loaded
// before the first of them is used. A load takes about as long as 500 instructions, so a GPU is
// only as fast as its memory if every SM has some 32 KB under way all the time.
template <int U, class Load, class Use>
__device__ inline void walk_rows(const ColumnPlace& at, Load&& load_row, Use&& use) {
  const int64_t step = at.step;
  int64_t r = at.begin + threadIdx.y;
  for (; r + (U - 1) * step < at.end; r += U * step) {
    decltype(load_row(r)) loaded[U];
#pragma unroll
    for (int u = 0; u < U; ++u) loaded[u] = load_row(r + u * step);
#pragma unroll
    for (int u = 0; u < U; ++u) use(r + u * step, loaded[u]);
  }
  for (; r < at.end; r += step) use(r, load_row(r));
}

// What a thread loads of a row: of two or three matrices.
template <class T, int V>
struct TwoPacks {
  Pack<T, V> first, second;
};
template <class T, int V>
struct ThreePacks {
  Pack<T, V> first, second, third;
};

// Where in shared memory channel i of lane l's pack is, of the packs of X lanes (a power of two).
// Lanes that write their channel i find 32 different banks, and so do those who then read channel
// after channel to write them to device memory side by side: l is XORed with a number that differs
// between those i that would share a bank (V = 8, X = 32: 32 i + (l ^ 4 i)).
template <int V>
__device__ inline int place_in_tile(int i, int l, int X) {
  return i * X + (l ^ (32 / V * (i * X / 32)));
}

// Sums over the block's Y threads of one column, of what they hold: first over the rows of a warp,
// by shuffles, then over its 8 warps, which meet in a tile.
template <int V>
__device__ inline void put_into_tile(float (&tile)[8][32 * V], const float (&held)[V]) {
  const int X = int(blockDim.x), thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  const int warp = thread / 32, lane = thread % 32;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    float sum = held[i];
    for (int m = 16; m >= X; m /= 2) sum += __shfl_xor_sync(all_lanes, sum, m);
    if (lane < X) tile[warp][place_in_tile<V>(i, lane, X)] = sum;
  }
}
template <int V>
__device__ inline void write_from_tile(float* sums, const float (&tile)[8][32 * V], int64_t C) {
  const int X = int(blockDim.x), thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  for (int k = thread; k < X * V; k += 256) {
    float sum = 0;
    for (int w = 0; w < 8; ++w) sum += tile[w][place_in_tile<V>(k % V, k / V, X)];
    const int64_t c = int64_t(blockIdx.x) * X * V + k;
    if (c < C) sums[c] = sum;
  }
}

// sums[c] = that sum of `held`; `sums` is the first channel of the sample or part, of C. To be
// called by all threads of the block.
template <int V>
__device__ inline void write_column_sums(float* sums, const float (&held)[V], int64_t C) {
  SHARED(float, tile, [8][32 * V]);
  put_into_tile(tile, held);
  __syncthreads();
  write_from_tile<V>(sums, tile, C);
  __syncthreads();
}
// Of two at once.
template <int V>
__device__ inline void write_column_sums(float* sums, const float (&held)[V], float* more_sums,
                                         const float (&more_held)[V], int64_t C) {
  SHARED(float, tiles, [2][8][32 * V]);
  put_into_tile(tiles[0], held);
  put_into_tile(tiles[1], more_held);
  __syncthreads();
  write_from_tile<V>(sums, tiles[0], C);
  write_from_tile<V>(more_sums, tiles[1], C);
  __syncthreads();
}

// Whether this block is the last one of its column (blockIdx.x, blockIdx.z) to come here. If so, it
// sees what all of them wrote before, but not through its SM's L1 cache: read it with __ldcg.
// arrived: for each column a count, 0 before and after; not needed for one part. To be
// called by all threads.
__device__ inline bool is_last_of_column(unsigned* arrived) {
  SHARED(bool, last, [1]);
  __syncthreads();  // the block has written
  if (gridDim.y == 1) return true;
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    unsigned& blocks = arrived[blockIdx.z * gridDim.x + blockIdx.x];
    __threadfence();
    last[0] = atomicAdd(&blocks, 1u) == gridDim.y - 1;
    __threadfence();
    if (last[0]) blocks = 0;
  }
  __syncthreads();
  return last[0];
}

// For a column's last block: puts together, for each of its up to 256 channels c, what of_part(p,
// c) has of each part p, and calls finish(c, that). A Held has merge(Held), and as made by Held{}
// it holds nothing. The parts are merged in an order that depends on their number only; 8 of them
// are asked for before the first is merged.
template <int V, class Held, class OfPart, class Finish>
__device__ inline void over_parts(int64_t C, OfPart&& of_part, Finish&& finish) {
  SHARED(Held, tile, [256]);
  const int X = int(blockDim.x), thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  const int channels = X * V, parts = int(gridDim.y), at_once = 256 / channels;
  const int j = thread % channels;
  const int64_t c = int64_t(blockIdx.x) * channels + j;
  Held all{};
  for (int first = thread / channels; first < parts; first += 8 * at_once) {
    Held some[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int part = first + k * at_once;
      some[k] = part < parts && c < C ? of_part(part, c) : Held{};
    }
#pragma unroll
    for (int k = 0; k < 8; ++k) all.merge(some[k]);
  }
  tile[thread] = all;
  __syncthreads();
  if (thread >= channels || c >= C) return;
  for (int k = 1; k < at_once; ++k) all.merge(tile[k * channels + j]);
  finish(c, all);
}

}  // namespace dyt
