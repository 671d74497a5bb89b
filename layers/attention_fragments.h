// Attention on tensor cores, the vocabulary: tiles of bf16 in shared memory, products of tiles
// whose results stay in registers, and the way back. Only .cu files include this.
//
// As in layers/attention_tiles.h a block owns a tile of rows and streams tiles of the other side
// past it. Here it has 4 warps, and a warp owns 16 R rows of the tile for itself: with R = 1 a
// block owns 64 rows, with R = 2 it owns 128. Of a product (16 R, 8 n) a warp's lane 4 g + t holds,
// in s[r][j][e] (core/tensor_core.h, C), the numbers
//
//     row 16 r + g + 8 (e / 2),  column 8 j + 2 t + e % 2
//
// so the 4 lanes of a group g share rows: their maxima and sums take two shuffles. A warp reads
// the streamed tile whole, 256 bytes for each 2,048 R multiplications. Shared memory gives an SM
// 128 bytes a clock, and mma.sync can multiply 1,024 (sm_80) or more (sm_90) pairs in that time:
// with R = 1 the one just keeps up with the other, with R = 2 it has time to spare.
//
// Tiles have W columns: D rounded up to 32, 64 or 128, zeros in between. They lie there in chunks
// of 16 bytes (8 columns), row after row without padding, but the chunks of a row change places
// according to the row: the 8 rows that ldmatrix reads at once, chunk c of each, then come from
// all 32 banks.
#pragma once
#include <cmath>
#include <type_traits>

#include "core/kernel.h"
#include "core/tensor_core.h"
#include "layers/attention_cpu.h"

namespace dyt::attention_fragments {

inline constexpr int warps = 4;
inline constexpr int block_size = 32 * warps;
template <int R>
inline constexpr int owned = 16 * R* warps;  // rows of a block
inline constexpr int streamed = 64;          // rows of a streamed tile

// Where a thread stands: its warp's first row of the owned tile, and its lane as 4 g + t.
template <int R>
struct Lane {
  int row, lane, g, t;
  __device__ Lane()
      : row(int(threadIdx.x) / 32 * 16 * R),
        lane(int(threadIdx.x) % 32),
        g(lane / 4),
        t(lane % 4) {}
};

// The tile, head and sample of a block. All tiles of a head run side by side, so that they share
// the other side in the cache; unless they differ in work, when the tiles with most of it come
// first, of all heads, so that the GPU isn't left waiting for a few blocks at the end.
enum class TileOrder { by_head, first_first, last_first };
struct Place {
  int first, h, b;  // first row of the tile
  __device__ Place(TileOrder order, int tile) {
    const bool by_head = order == TileOrder::by_head;
    const int place = int(by_head ? blockIdx.x : blockIdx.z);
    first = (order == TileOrder::last_first ? int(gridDim.z) - 1 - place : place) * tile;
    h = int(by_head ? blockIdx.y : blockIdx.x);
    b = int(by_head ? blockIdx.z : blockIdx.y);
  }
};
inline dim3 grid_of(TileOrder order, int rows, int tile, int heads, int64_t samples) {
  const unsigned tiles = blocks_for(rows, tile), H = unsigned(heads), B = unsigned(samples);
  return order == TileOrder::by_head ? dim3(tiles, H, B) : dim3(H, B, tiles);
}

// The way of a block that owns keys through the queries: `streamed` of them at a time, of every
// query head that its key head serves, from the first that sees one of its keys on.
struct QueryWalk {
  struct Step {
    int h, first;  // of a head, the first query
  };
  int length, offset, T_q;
  int begin, first_head, end_head;
  __device__ QueryWalk(const AttentionShape& shape, const Place& at)
      : length(shape.length_of(at.b)),
        offset(shape.causal ? shape.T_k - shape.T_q : shape.T_k),
        T_q(shape.T_q),
        begin(first_query(at.first) / streamed * streamed),
        first_head(at.h * shape.group()),
        end_head(first_head + shape.group()) {}
  // The first query that sees a key; none sees one beyond the length.
  __device__ int first_query(int key) const { return key < length ? max(0, key - offset) : T_q; }
  __device__ Step start(int first_key) const {
    return {first_query(first_key) < T_q ? first_head : end_head, begin};
  }
  __device__ bool ends(const Step& step) const { return step.h >= end_head; }
  __device__ void advance(Step& step) const {
    step.first += streamed;
    if (step.first >= T_q) step = {step.h + 1, begin};
  }
};

// The place of chunk c of row r in a tile: its distance from the tile's beginning. A row of W = 64
// is as long as all banks: 8 rows in a column need 8 different places. With W = 32 two rows are,
// with W = 128 half a row is. Only c's lowest bits change, so for chunks 2k + b of one row, b = 0
// or 1, chunk_at(r, 2k + b) = chunk_at(r, b) ^ 16 k: one instruction, where every k would otherwise
// take a register for as long as the kernel runs. The tiles begin at multiples of W.
template <int W>
__device__ inline int chunk_at(int r, int c) {
  return r * W + (c ^ (W >= 64 ? r & 7 : r >> 1 & 3)) * 8;
}

// Starts to copy rows first .. first + ROWS - 1 of a head's `rows` rows, D numbers each, to tile
// (ROWS, W); zeros where there are none. A thread copies one column of chunks.
template <int ROWS, int W>
__device__ inline void load_tile(bf16* tile, const bf16* head, int64_t stride, int first, int rows,
                                 int D) {
  constexpr int chunks = W / 8, rows_at_once = block_size / chunks;
  const int r = int(threadIdx.x) / chunks, c = int(threadIdx.x) % chunks;
  const int end = c * 8 < D ? rows : 0, row = int(stride);
  tile += chunk_at<W>(r, c);
  head += c * 8 < D ? c * 8 : 0;
  first += r;
#pragma unroll
  for (int i = 0; i < ROWS; i += rows_at_once) {
    const bool exists = first + i < end;
    copy_async<16>(tile + i * W, head + int64_t(exists ? first + i : 0) * row, exists);
  }
}

// s (16 R, 8 N) = A B': the warp's owned rows of A with rows first .. first + 8 N - 1 of B. a and
// b: where these tiles begin in shared memory. Of A, ldmatrix's four matrices come in the order of
// the registers: upper left, lower left, upper right, lower right. Column n of B' is row n of B, so
// its registers, too, come as they are wanted: for rows 0 to 7 (columns 0 to 7 and 8 to 15) and for
// rows 8 to 15 of each 16.
template <int W, int R, int N>
__device__ inline void scores(float (&s)[R][N][4], const bf16* shared, int a, int b, int first,
                              const Lane<R>& my) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[r][n][e] = 0;
    }
  }
  a += chunk_at<W>(my.row + my.lane % 16, my.lane / 16);
  b += chunk_at<W>(first + my.lane % 8 + my.lane / 16 * 8, my.lane / 8 % 2);
#pragma unroll
  for (int k = 0; k < W / 16; ++k) {
    uint32_t a_k[R][4];
#pragma unroll
    for (int r = 0; r < R; ++r) ldmatrix(a_k[r], shared + (a ^ 16 * k) + 16 * r * W);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      uint32_t b_k[4];
      ldmatrix(b_k, shared + (b ^ 16 * k) + 8 * n * W);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        mma(s[r][n], a_k[r], b_k[0], b_k[1]);
        mma(s[r][n + 1], a_k[r], b_k[2], b_k[3]);
      }
    }
  }
}

// sums (16 R, W) += P B: P (16 R, 8 N) as scores() left it, rounded to bf16; B the rows first ..
// first + 8 N - 1 of the tile at b, whose columns ldmatrix has to turn over.
template <int W, int R, int N>
__device__ inline void accumulate(float (&sums)[R][W / 8][4], const float (&p)[R][N][4],
                                  const bf16* shared, int b, int first, const Lane<R>& my) {
  b += chunk_at<W>(first + my.lane % 16, my.lane / 16);
#pragma unroll
  for (int n = 0; n < N; n += 2) {
    uint32_t p_n[R][4];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      p_n[r][0] = pack_bf16(p[r][n][0], p[r][n][1]);
      p_n[r][1] = pack_bf16(p[r][n][2], p[r][n][3]);
      p_n[r][2] = pack_bf16(p[r][n + 1][0], p[r][n + 1][1]);
      p_n[r][3] = pack_bf16(p[r][n + 1][2], p[r][n + 1][3]);
    }
#pragma unroll
    for (int c = 0; c < W / 8; c += 2) {
      uint32_t b_n[4];
      ldmatrix_transposed(b_n, shared + (b ^ 8 * c) + 8 * n * W);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        mma(sums[r][c], p_n[r], b_n[0], b_n[1]);
        mma(sums[r][c + 1], p_n[r], b_n[2], b_n[3]);
      }
    }
  }
}

// Scores that are to count as nothing become -infinity: in the row r below the lane's first one,
// the columns from seen(r) on, counted from the lane's first one.
template <int R, int N, class F>
__device__ inline void hide_columns(float (&s)[R][N][4], F&& seen) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int end = seen(16 * r + 8 * i);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        if (8 * n >= end) s[r][n][2 * i] = -INFINITY;
        if (8 * n + 1 >= end) s[r][n][2 * i + 1] = -INFINITY;
      }
    }
  }
}

// The same for the columns before first(r).
template <int R, int N, class F>
__device__ inline void hide_first_columns(float (&s)[R][N][4], F&& first) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int begin = first(16 * r + 8 * i);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        if (8 * n < begin) s[r][n][2 * i] = -INFINITY;
        if (8 * n + 1 < begin) s[r][n][2 * i + 1] = -INFINITY;
      }
    }
  }
}

// Maximum and sum over the 4 lanes that share a row.
__device__ inline float group_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(all_lanes, v, 1));
  return fmaxf(v, __shfl_xor_sync(all_lanes, v, 2));
}
__device__ inline float group_sum(float v) {
  v += __shfl_xor_sync(all_lanes, v, 1);
  return v + __shfl_xor_sync(all_lanes, v, 2);
}

// A lane's rows of s become p, not yet divided by their sum: with the maximum m so far and the sum
// l of this lane's own columns, o is corrected on the way. Hidden scores are -infinity, but never
// all of a row's up to here (key 0 is seen by every query), so m is finite. c = scale log2(e).
template <int R, int N, int C>
__device__ inline void softmax_step(float (&s)[R][N][4], float (&m)[R][2], float (&l)[R][2],
                                    float (&o)[R][C][4], float c) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float highest = m[r][i];
#pragma unroll
      for (int n = 0; n < N; ++n) {
        highest = fmaxf(highest, fmaxf(s[r][n][2 * i], s[r][n][2 * i + 1]));
      }
      highest = group_max(highest);
      const float correction = exp2_approx(c * (m[r][i] - highest)), shift = c * highest;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int e = 2 * i; e < 2 * i + 2; ++e) {
          s[r][n][e] = exp2_approx(c * s[r][n][e] - shift);
          sum += s[r][n][e];
        }
      }
      m[r][i] = highest;
      l[r][i] = correction * l[r][i] + sum;
#pragma unroll
      for (int n = 0; n < C; ++n) {
        o[r][n][2 * i] *= correction;
        o[r][n][2 * i + 1] *= correction;
      }
    }
  }
}

// delta of the warp's rows, dy . y: 4 lanes to a row, 16 bytes each at a time. dy(r, c) is where
// chunk c of row r of its tile lies.
template <int W, int R, class F>
__device__ inline void delta_of_rows(float (&delta)[R][2], F&& dy, const bf16* y, int64_t stride,
                                     int rows, int D, const Lane<R>& my) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = my.row + 16 * r + my.g + 8 * i;
      float sum = 0;
#pragma unroll 2
      for (int chunk = my.t; chunk < W / 8; chunk += 4) {
        if (row >= rows || chunk * 8 >= D) continue;
        const auto y_c = load<8>(y + row * stride + chunk * 8);
        const auto dy_c = load<8>(dy(row, chunk));
#pragma unroll
        for (int e = 0; e < 8; ++e) sum += float(y_c.v[e]) * float(dy_c.v[e]);
      }
      delta[r][i] = group_sum(sum);
    }
  }
}

// to = factor * sums for the block's first `rows` owned rows, or += with `add`; factor[r][i] for
// row 16 r + g + 8 i. The numbers go by way of a tile that no other warp reads these rows of, so
// that they can be written 16 bytes at a time.
template <int W, int R>
__device__ inline void write_rows(bf16* to, int64_t stride, int rows, int D, bool add, bf16* tile,
                                  const float (&sums)[R][W / 8][4], const float (&factor)[R][2],
                                  const Lane<R>& my) {
  __syncwarp();  // the tile has been read
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int c = 0; c < W / 8; ++c) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        bf16* const pair = tile + chunk_at<W>(my.row + 16 * r + my.g + 8 * i, c) + 2 * my.t;
        *reinterpret_cast<uint32_t*>(pair) =
            pack_bf16(factor[r][i] * sums[r][c][2 * i], factor[r][i] * sums[r][c][2 * i + 1]);
      }
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 16 * R * W / 8 / 32; ++i) {
    const int chunk = i * 32 + my.lane, r = my.row + chunk / (W / 8), c = chunk % (W / 8);
    if (r >= rows || c * 8 >= D) continue;
    auto numbers = load<8>(tile + chunk_at<W>(r, c));
    bf16* const at = to + r * stride + c * 8;
    if (add) {
      const auto before = load<8>(at);
#pragma unroll
      for (int e = 0; e < 8; ++e) numbers.v[e] = bf16(float(numbers.v[e]) + float(before.v[e]));
    }
    store<8>(at, numbers);
  }
}

// Calls body(W, R), both as constants, for heads of width D and so many owned rows: R = 2 unless
// its tiles would have much more padding. At width 128 there are no registers for R = 2.
template <class F>
void with_tile(int64_t D, int rows, F&& body) {
  using std::integral_constant;
  const int padded_1 = int(blocks_for(rows, owned<1>)) * owned<1>;
  const int padded_2 = int(blocks_for(rows, owned<2>)) * owned<2>;
  const bool two = 8 * padded_2 <= 9 * padded_1;
  const auto with_width = [&](auto width) {
    if (two) return body(width, integral_constant<int, 2>{});
    return body(width, integral_constant<int, 1>{});
  };
  if (D <= 32) return with_width(integral_constant<int, 32>{});
  if (D <= 64) return with_width(integral_constant<int, 64>{});
  return body(integral_constant<int, 128>{}, integral_constant<int, 1>{});
}

}  // namespace dyt::attention_fragments
