// Tiles of an attention kernel: loading them, their products, and maxima and sums over their rows.
// Only .cu files include this.
//
// A block owns a tile of rows (queries in the forward pass) and streams tiles of the other side
// (keys) through shared memory. Its 256 threads are a square: thread (x, y) holds, of every tile of
// scores, the owned rows y R .. y R + R - 1 and the streamed rows x, x + 16, ... Row y's 16 threads
// are half a warp, so maxima and sums over a row are shuffles, and a tile of p that a row's threads
// write is read by themselves alone.
//
// Tiles hold f32. W is the head width rounded up to 32, 64 or 128, with zeros in between; 4 numbers
// more per row (`pitch`) put the rows that a warp reads at once into different banks.
#pragma once
#include "core/kernel.h"

namespace dyt::attention_tiles {

inline constexpr int side = 16;
inline constexpr int block_size = side * side;
inline constexpr int streamed = 32;  // rows of a streamed tile

template <int W>
inline constexpr int pitch = W + 4;
template <int ROWS, int W>
inline constexpr int tile_size = (W + 4) * ROWS;

// Columns of a row of W numbers that thread x holds: packs of `width`, 16 threads wide.
template <int W>
struct Columns {
  static constexpr int width = W >= 64 ? 4 : W / side;
  static constexpr int packs = W / side / width;
  __device__ static int begin(int pack) { return (pack * side + int(threadIdx.x)) * width; }
};

// The first of the 2 R owned rows of this thread's warp. A warp whose rows are all beyond the end,
// or see nothing of a streamed tile, may leave a step out, but for the barriers of the block.
template <int R>
__device__ int warp_row(int first) {
  return first + int(threadIdx.y) / 2 * 2 * R;
}

// tile (ROWS, W) = the first ROWS rows from `from`, D numbers each; zeros where there are none.
// With `wide`, rows can be read 16 bytes at a time.
template <int ROWS, int W, class T>
__device__ void load_tile(float* tile, const T* from, int64_t stride, int rows, int D, bool wide) {
  constexpr int V = 16 / sizeof(T);
  const int thread = int(threadIdx.y) * side + int(threadIdx.x);
  if (wide) {
    for (int i = thread; i < ROWS * W / V; i += block_size) {
      const int r = i / (W / V), c = i % (W / V) * V;
      Pack<T, V> in{};
      if (r < rows && c < D) in = load<V>(from + r * stride + c);
      Pack<float, 4> out;
#pragma unroll
      for (int e = 0; e < V; ++e) {
        out.v[e % 4] = in.v[e];
        if (e % 4 == 3) store<4>(tile + r * pitch<W> + c + e - 3, out);
      }
    }
  } else {
#pragma unroll 1
    for (int i = thread; i < ROWS * W; i += block_size) {
      const int r = i / W, c = i % W;
      tile[r * pitch<W> + c] = r < rows && c < D ? float(from[r * stride + c]) : 0.0f;
    }
  }
}

// s = A B': every owned row of A with every streamed row of B. 4 (R + C) numbers read from shared
// memory serve 4 R C multiplications.
template <int W, int R, int C>
__device__ void scores(float (&s)[R][C], const float* a, const float* b, int D) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int c = 0; c < C; ++c) s[r][c] = 0;
  }
  a += int(threadIdx.y) * R * pitch<W>;
  b += int(threadIdx.x) * pitch<W>;
#pragma unroll 1  // two steps at once take more registers than there are
  for (int d = 0; d < D; d += 4) {
    Pack<float, 4> a_d[R], b_d[C];
#pragma unroll
    for (int r = 0; r < R; ++r) a_d[r] = load<4>(a + r * pitch<W> + d);
#pragma unroll
    for (int c = 0; c < C; ++c) b_d[c] = load<4>(b + c * side * pitch<W> + d);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int c = 0; c < C; ++c) s[r][c] += a_d[r].v[i] * b_d[c].v[i];
      }
    }
  }
}

// sums += P B: P (owned rows, streamed rows) a tile that put_tile wrote, B (streamed rows, W).
template <int W, int R>
__device__ void accumulate(float (&sums)[R][W / side], const float* p, const float* b) {
  using My = Columns<W>;
  p += int(threadIdx.y) * R * pitch<streamed>;
#pragma unroll 2
  for (int j = 0; j < streamed; j += 4) {
    Pack<float, 4> p_j[R];
#pragma unroll
    for (int r = 0; r < R; ++r) p_j[r] = load<4>(p + r * pitch<streamed> + j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int pack = 0; pack < My::packs; ++pack) {
        const auto b_j = load<My::width>(b + (j + i) * pitch<W> + My::begin(pack));
#pragma unroll
        for (int r = 0; r < R; ++r) {
#pragma unroll
          for (int e = 0; e < My::width; ++e) {
            sums[r][pack * My::width + e] += p_j[r].v[i] * b_j.v[e];
          }
        }
      }
    }
  }
}

// The scores in registers to a tile that accumulate() reads. Only threads of one half warp exchange
// them, so a barrier of the warp is enough, before and after.
template <int R, int C>
__device__ void put_tile(float* tile, const float (&s)[R][C]) {
  __syncwarp();
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int c = 0; c < C; ++c) {
      tile[(int(threadIdx.y) * R + r) * pitch<C * side> + c * side + int(threadIdx.x)] = s[r][c];
    }
  }
  __syncwarp();
}

// Maximum and sum over the 16 threads of a row, of C numbers each.
template <int C>
__device__ float row_max(const float (&s)[C]) {
  float v = s[0];
#pragma unroll
  for (int c = 1; c < C; ++c) v = fmaxf(v, s[c]);
  for (int m = side / 2; m > 0; m /= 2) v = fmaxf(v, __shfl_xor_sync(all_lanes, v, m));
  return v;
}
template <int C>
__device__ float row_sum(const float (&s)[C]) {
  float v = s[0];
#pragma unroll
  for (int c = 1; c < C; ++c) v += s[c];
  for (int m = side / 2; m > 0; m /= 2) v += __shfl_xor_sync(all_lanes, v, m);
  return v;
}

// to = factor * sums for the block's first `rows` owned rows, or += with `add`.
template <int W, int R, class T>
__device__ void write_rows(T* to, int64_t stride, int rows, int D, bool wide, bool add,
                           const float (&sums)[R][W / side], const float (&factor)[R]) {
  using My = Columns<W>;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int row = int(threadIdx.y) * R + r;
    if (row >= rows) continue;
#pragma unroll
    for (int pack = 0; pack < My::packs; ++pack) {
      const int c = My::begin(pack);
      T* const at = to + row * stride + c;
      if (wide && c < D) {
        Pack<T, My::width> out{};
        if (add) out = load<My::width>(at);
#pragma unroll
        for (int e = 0; e < My::width; ++e) {
          out.v[e] = T(float(out.v[e]) + factor[r] * sums[r][pack * My::width + e]);
        }
        store<My::width>(at, out);
      } else {
#pragma unroll
        for (int e = 0; e < My::width; ++e) {
          if (c + e >= D) continue;
          const float before = add ? float(at[e]) : 0.0f;
          at[e] = T(before + factor[r] * sums[r][pack * My::width + e]);
        }
      }
    }
  }
}

}  // namespace dyt::attention_tiles
