// Depthwise convolution: each channel is filtered by itself. ConvNeXt's way to mix over space, with
// K = 7 (arXiv 2201.03545, section 2.5).
//
// (1) The mathematics. x, y (B, H, W, C); weight (C, 1, K, K) as in PyTorch; bias (C); stride 1;
//     with R = K / 2, and x = 0 outside the image:
//
//       y[b,h,w,c] = bias[c] + sum over i, j < K of  weight[c,i,j] x[b, h+i-R, w+j-R, c]
//
//     Backward:
//
//       dx[b,h,w,c]     = sum over i, j of  weight[c,K-1-i,K-1-j] dy[b, h+i-R, w+j-R, c]
//       dweight[c,i,j]  = sum over b, h, w of  dy[b,h,w,c] x[b, h+i-R, w+j-R, c]
//       dbias[c]        = sum over b, h, w of  dy[b,h,w,c]
//
//     So dx is the forward pass over dy with each filter turned by 180 degrees. Nothing is summed
//     over channels: this is no matrix product, and every number of x is used K K times, by its
//     neighbours. Both devices therefore work on a small tile in fast memory (first-level cache,
//     shared memory): some channels of a piece of one image, with a frame of R pixels around it, so
//     that no loop has to ask where the image ends.
#include "core/dispatch.h"
#include "core/kernel.h"
#include "core/reduce.h"
#include "layers/convolutions.h"
#include "layers/depthwise_conv_cpu.h"

namespace dyt {
namespace {

// (2) The CPU loops are in depthwise_conv_cpu.h.

// (3) The kernels ---------------------------------------------------------------------------------
// A block works on `chunk` channels, 32 bytes of a pixel (the unit in which memory is read), and on
// tiles of up to 16 x 32 pixels. In shared memory a tile has a frame of R pixels, of zeros where
// the image ends. A thread owns 4 bytes of channels, `owned`, and sums over strips of S pixels in
// registers. S is 7 or 8, so that images of 56, 28, 14 and 7 pixels, ConvNeXt's, are cut as well as
// those of 32 and 16.
//
// Arithmetic is the limit, not memory: 49 multiply-adds a number take as long as 28 bytes. So what
// counts is how many instructions there are besides.

template <class T>
inline constexpr int chunk = 32 / sizeof(T);
template <class T>
inline constexpr int owned = 4 / sizeof(T);
inline constexpr int max_strips = 4;  // side by side in a tile

// How an image is cut into tiles.
struct Tiling {
  int tile_h, tile_w;    // pixels of a tile, without the frame
  int tiles_h, tiles_w;  // tiles of an image
  int chunks;            // of channels
};

// Strips of 7 or of 8 pixels, whatever leaves less of the last one over.
inline int strip_for(int64_t pixels) {
  return blocks_for(pixels, 7) * 7 < blocks_for(pixels, 8) * 8 ? 7 : 8;
}

template <class T>
Tiling tiling_of(const ImageShape& s) {
  const int strip = strip_for(s.W), rows = 2 * strip_for(s.H);
  const int tile_h = int(std::min<int64_t>(rows, (s.H + 1) / 2 * 2));
  const int tile_w = strip * std::min(max_strips, int(blocks_for(s.W, strip)));
  return {tile_h, tile_w, int(blocks_for(s.H, tile_h)), int(blocks_for(s.W, tile_w)),
          int(blocks_for(s.C, chunk<T>))};
}

// The whole block copies (height, width) pixels, from (h0, w0) of the image at x, chunk c0, to a
// tile with `stride` numbers per row. What lies outside the image or beyond C becomes 0. The copies
// are under way when it returns.
template <int V, class T>
__device__ void load_tile_gpu(T* tile, int height, int width, int stride, const T* x, int h0,
                              int w0, int c0, int H, int W, int C) {
  constexpr int packs = chunk<T> / V;
  const int threads = int(blockDim.x * blockDim.y * blockDim.z);
  const int self = int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  const auto inside = [&](int row, int column, int q) {
    return unsigned(h0 + row) < unsigned(H) && unsigned(w0 + column) < unsigned(W) && c0 + q < C;
  };
  const auto place = [&](int row, int column, int q) {
    return unsigned((h0 + row) * W + w0 + column) * unsigned(C) + unsigned(c0 + q);
  };
  if constexpr (V > 1) {
    // From one pack to the next by additions: a division takes 20 instructions.
    const int q = self % packs * V, step = threads / packs;
    const int rows_down = step / width, columns_right = step % width;
    int row = self / packs / width, column = self / packs % width;
    while (row < height) {
      const bool exists = inside(row, column, q);
      copy_async<16>(tile + row * stride + column * chunk<T> + q,
                     x + (exists ? place(row, column, q) : 0), exists);
      row += rows_down;
      column += columns_right;
      if (column >= width) column -= width, ++row;
    }
  } else {
    for (int k = self; k < height * width * packs; k += threads) {
      const int row = k / packs / width, column = k / packs % width, q = k % packs;
      tile[row * stride + column * chunk<T> + q] =
          inside(row, column, q) ? x[place(row, column, q)] : T(0.0f);
    }
  }
  commit_copies();
}

// `N` pixels of a row of a tile, the owned channels of each.
template <int N, class T>
__device__ void load_strip(float (&v)[N][owned<T>], const T* row) {
#pragma unroll
  for (int p = 0; p < N; ++p) {
    const Pack<T, owned<T>> pack = load<owned<T>>(row + p * chunk<T>);
#pragma unroll
    for (int i = 0; i < owned<T>; ++i) v[p][i] = float(pack.v[i]);
  }
}

// A tile's numbers per row in depthwise_kernel, whose threads are two rows apart: an even number of
// pixels and 16 bytes, so that 4 such rows of 8 words never meet in a bank.
template <int K, class T>
HOST_DEVICE int spaced_stride(int tile_w) {
  return (tile_w + K) / 2 * 2 * chunk<T> + 16 / int(sizeof(T));
}

// sums (S, N) += the filters' row (K, N) over a strip.
template <int K, int S, int N>
__device__ void filter_strip(float (&sums)[S][N], const float (&in)[S + K - 1][N],
                             const float (&filters)[K][N]) {
#pragma unroll
  for (int j = 0; j < K; ++j) {
#pragma unroll
    for (int p = 0; p < S; ++p) {
#pragma unroll
      for (int n = 0; n < N; ++n) sums[p][n] += filters[j][n] * in[p + j][n];
    }
  }
}

// y, or with `turned` dx from dy. Block (8, tile_h / 2, tile_w / S): thread (x, y, z) computes
// strip z of the rows 2 y and 2 y + 1 for the owned channels x. A row of x that it loads is used
// for both, with two rows of the filters: 2 x 7 x S multiply-adds for S + 6 loads. A tile is read
// with its frame, 20 x 34 pixels for 14 x 28, mostly from the second-level cache; y is written
// once.
template <int K, int S, int V, class T>
__global__ void __launch_bounds__(256, 2)
    depthwise_kernel(T* y, bool add, const T* x, const float* weight, bool turned,
                     const float* bias, int H, int W, int C, Tiling t) {
  constexpr int R = K / 2, N = owned<T>;
  DYNAMIC_SHARED(T, tile);  // (tile_h + K - 1, spaced_stride)
  // (K K, apart): of each tap the filters of a chunk, and one pack more, so that those of many taps
  // can be written at once, each to a bank of its own.
  using Filters = Pack<float, N>;
  constexpr int apart = chunk<T> / N + 1;
  SHARED(Filters, filters, [K * K * apart]);
  const int c0 = int(blockIdx.x % t.chunks) * chunk<T>;
  const int w0 = int(blockIdx.x / t.chunks % t.tiles_w) * t.tile_w;
  const int h0 = int(blockIdx.x / t.chunks / t.tiles_w % t.tiles_h) * t.tile_h;
  const int64_t image = int64_t(blockIdx.x / t.chunks / t.tiles_w / t.tiles_h) * H * W * C;
  const int stride = spaced_stride<K, T>(t.tile_w);
  load_tile_gpu<V>(tile, t.tile_h + K - 1, t.tile_w + K - 1, stride, x + image, h0 - R, w0 - R, c0,
                   H, W, C);
  const int threads = int(blockDim.x * blockDim.y * blockDim.z);
  const int self = int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  for (int k = self; k < chunk<T> * K * K; k += threads) {
    const int tap = k % (K * K), c = k / (K * K);
    filters[(turned ? K * K - 1 - tap : tap) * apart + c / N].v[c % N] =
        c0 + c < C ? weight[c0 * K * K + k] : 0.0f;
  }
  wait_for_copies<0>();
  __syncthreads();

  const int c = c0 + int(threadIdx.x) * N, h = h0 + 2 * int(threadIdx.y);
  const int w_strip = int(threadIdx.z) * S;
  float sums[2][S][N], of_row[K][N] = {};
#pragma unroll
  for (int p = 0; p < S; ++p) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      sums[0][p][n] = sums[1][p][n] = bias && c + n < C ? bias[c + n] : 0.0f;
    }
  }
  const T* row = tile + 2 * int(threadIdx.y) * stride + w_strip * chunk<T> + threadIdx.x * N;
#pragma unroll 1
  for (int i = 0; i <= K; ++i, row += stride) {
    float in[S + K - 1][N];
    load_strip(in, row);
    if (i > 0) filter_strip<K>(sums[1], in, of_row);  // with the filters' row before this one
    if (i == K) break;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const Filters taps = load<N>(filters[(i * K + j) * apart + int(threadIdx.x)].v);
#pragma unroll
      for (int n = 0; n < N; ++n) of_row[j][n] = taps.v[n];
    }
    filter_strip<K>(sums[0], in, of_row);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (h + r >= H) break;
#pragma unroll
    for (int p = 0; p < S; ++p) {
      const int w = w0 + w_strip + p;
      if (w >= W) break;
      T* out = y + image + (int64_t(h + r) * W + w) * C + c;
      if (V > 1 && c < C) {  // all owned channels are there, and aligned
        Pack<T, N> pack;
        if (add) pack = load<N>(out);
#pragma unroll
        for (int n = 0; n < N; ++n) pack.v[n] = T((add ? float(pack.v[n]) : 0.0f) + sums[r][p][n]);
        store<N>(out, pack);
      } else {
        for (int n = 0; n < N && c + n < C; ++n) {
          out[n] = T((add ? float(out[n]) : 0.0f) + sums[r][p][n]);
        }
      }
    }
  }
}

template <int K, class T>
inline constexpr int weight_sums = (K * K + 1) * chunk<T>;  // of a chunk: every tap, then the bias

// Partial sums of dweight (parts, C, K, K) and dbias (parts, C). Block (8, K, S): part blockIdx.x /
// chunks takes every parts-th tile of the batch; thread (x, i, g) keeps row i of its filters' sums
// in registers and walks over rows g, g + S of the tile. Then the S sums meet in shared memory.
// Reads dy once and x with its frame, and moves 20 numbers from shared memory per 7 x 7
// multiply-adds.
template <int K, int S, int V, class T>
__global__ void __launch_bounds__(8 * K * S, K == 7 ? 2 : 4)
    depthwise_weight_kernel(float* dweight_partials, float* dbias_partials, const T* dy, const T* x,
                            int tiles, int H, int W, int C, Tiling t) {
  let_next_kernel_begin();  // which adds up the partial sums
  constexpr int R = K / 2, N = owned<T>, sums_per_row = weight_sums<K, T>;
  DYNAMIC_SHARED(T, x_tile);  // (tile_h + K - 1, x_stride), then (tile_h, dy_stride)
  // An odd number of pixels: 4 rows of 8 words never meet in a bank.
  const int x_stride = ((t.tile_w + K) | 1) * chunk<T>, dy_stride = (t.tile_w | 1) * chunk<T>;
  T* dy_tile = x_tile + (t.tile_h + K - 1) * x_stride;
  const int c0 = int(blockIdx.x % t.chunks) * chunk<T>, own = int(threadIdx.x) * N;
  const int i = int(threadIdx.y), g = int(threadIdx.z);
  const int part = int(blockIdx.x) / t.chunks, parts = int(gridDim.x) / t.chunks;
  float sums[K][N] = {}, bias_sums[N] = {};
  for (int tile = part; tile < tiles; tile += parts) {
    const int w0 = tile % t.tiles_w * t.tile_w, h0 = tile / t.tiles_w % t.tiles_h * t.tile_h;
    const int64_t image = int64_t(tile / t.tiles_w / t.tiles_h) * H * W * C;
    __syncthreads();  // the tile before this one has been used
    load_tile_gpu<V>(x_tile, t.tile_h + K - 1, t.tile_w + K - 1, x_stride, x + image, h0 - R,
                     w0 - R, c0, H, W, C);
    load_tile_gpu<V>(dy_tile, t.tile_h, t.tile_w, dy_stride, dy + image, h0, w0, c0, H, W, C);
    wait_for_copies<0>();
    __syncthreads();
    for (int h = g; h < t.tile_h; h += S) {
      for (int w = 0; w < t.tile_w; w += S) {
        float up[S][N], in[S + K - 1][N];
        load_strip(up, dy_tile + h * dy_stride + w * chunk<T> + own);
        load_strip(in, x_tile + (h + i) * x_stride + w * chunk<T> + own);
#pragma unroll
        for (int p = 0; p < S; ++p) {
#pragma unroll
          for (int n = 0; n < N; ++n) {
            bias_sums[n] += up[p][n];
#pragma unroll
            for (int j = 0; j < K; ++j) sums[j][n] += up[p][n] * in[p + j][n];
          }
        }
      }
    }
  }
  // The S sums of every tap and of every bias meet where the tiles were.
  float* meeting = reinterpret_cast<float*>(x_tile);  // (S, sums_per_row)
  __syncthreads();
#pragma unroll
  for (int n = 0; n < N; ++n) {
    float* own_sums = meeting + g * sums_per_row + (own + n) * K * K + i * K;
#pragma unroll
    for (int j = 0; j < K; ++j) own_sums[j] = sums[j][n];
    if (i == 0) meeting[g * sums_per_row + chunk<T> * K * K + own + n] = bias_sums[n];
  }
  __syncthreads();
  const int channels = min(chunk<T>, C - c0);
  for (int k = int(threadIdx.x) + 8 * (i + K * g); k < sums_per_row; k += 8 * K * S) {
    float sum = 0;
    for (int r = 0; r < S; ++r) sum += meeting[r * sums_per_row + k];
    const int bias_channel = k - chunk<T> * K * K;
    if (k < channels * K * K) dweight_partials[(int64_t(part) * C + c0) * K * K + k] = sum;
    if (dbias_partials && bias_channel >= 0 && bias_channel < channels) {
      dbias_partials[int64_t(part) * C + c0 + bias_channel] = sum;
    }
  }
}

// Calls body(S) with the strips for images of this width, as a constant.
template <class F>
void with_strip(const ImageShape& s, F&& body) {
  if (strip_for(s.W) == 7) return body(std::integral_constant<int, 7>{});
  body(std::integral_constant<int, 8>{});
}

template <int K, class T>
void depthwise_gpu(T* y, bool add, const T* x, const float* weight, bool turned, const float* bias,
                   const ImageShape& s) {
  constexpr int full = 16 / sizeof(T);
  const Tiling t = tiling_of<T>(s);
  const int64_t blocks = s.B * t.tiles_h * t.tiles_w * t.chunks;
  require(blocks < (int64_t(1) << 31), "depthwise_conv: ", blocks,
          " blocks are more than a grid has");
  require(s.H * s.W * s.C < (int64_t(1) << 31), "depthwise_conv: images of ", s.H * s.W * s.C,
          " numbers are more than a kernel can count");
  const size_t shared =
      size_t(t.tile_h + K - 1) * size_t(spaced_stride<K, T>(t.tile_w)) * sizeof(T);
  with_strip(s, [&](auto strip) {
    constexpr int S = strip();
    launch(vector_width<T>(s.C) == full ? depthwise_kernel<K, S, full, T>
                                        : depthwise_kernel<K, S, 1, T>,
           unsigned(blocks), dim3(8, unsigned(t.tile_h / 2), unsigned(t.tile_w / S)),
           shared)(y, add, x, weight, turned, bias, int(s.H), int(s.W), int(s.C), t);
  });
}

template <int K, class T>
void depthwise_backward_gpu(Tape& tape, T* dx, bool add, float* dweight, float* dbias, const T* dy,
                            const T* x, const float* weight, const ImageShape& s) {
  constexpr int full = 16 / sizeof(T);
  if (dx) depthwise_gpu<K>(dx, add, dy, weight, true, nullptr, s);
  const Tiling t = tiling_of<T>(s);
  const int64_t tiles = s.B * t.tiles_h * t.tiles_w;
  const int64_t parts = std::clamp<int64_t>(512 / t.chunks, 1, tiles);  // fills a large GPU twice
  float* dweight_partials = tape.scratch<float>(parts * s.C * K * K);
  float* dbias_partials = dbias ? tape.scratch<float>(parts * s.C) : nullptr;
  const int pixels = (t.tile_h + K - 1) * ((t.tile_w + K) | 1) + t.tile_h * (t.tile_w | 1);
  with_strip(s, [&](auto strip) {
    constexpr int S = strip();
    const size_t shared = std::max(size_t(pixels * chunk<T>) * sizeof(T),
                                   size_t(S * weight_sums<K, T>) * sizeof(float));
    launch(vector_width<T>(s.C) == full ? depthwise_weight_kernel<K, S, full, T>
                                        : depthwise_weight_kernel<K, S, 1, T>,
           unsigned(parts * t.chunks), dim3(8, K, S), shared)(
        dweight_partials, dbias_partials, dy, x, int(tiles), int(s.H), int(s.W), int(s.C), t);
  });
  const int64_t weights = s.C * K * K;
  add_partials_gpu({{dweight, dweight_partials, parts, weights, weights},
                    {dbias, dbias_partials, parts, s.C, s.C}});
}

// (4) The op --------------------------------------------------------------------------------------

template <class F>
void with_filter_size(int64_t K, F&& body) {
  if (K == 3) {
    body(std::integral_constant<int, 3>{});
  } else {
    body(std::integral_constant<int, 7>{});
  }
}

}  // namespace

Tensor depthwise_conv(Tape& tape, const Tensor& x, const Parameter& weight, const Parameter* bias) {
  require(x.shape.rank() == 4, "depthwise_conv takes images (B, H, W, C), not ", x.shape.text());
  const ImageShape s{x.shape[0], x.shape[1], x.shape[2], x.shape[3]};
  const Parameter* w = &weight;
  const int64_t K = weight.shape[-1];
  require(weight.shape == Shape{s.C, 1, K, K}, "depthwise_conv: weight ", weight.name, " ",
          weight.shape.text(), " does not filter ", s.C, " channels: (C, 1, K, K) would");
  require(K == 3 || K == 7, "depthwise_conv: filters are 3 x 3 or 7 x 7, but ", weight.name, " is ",
          weight.shape.text());
  require(!bias || bias->size() == s.C, "depthwise_conv: bias ", bias ? bias->name : "", " has ",
          bias ? bias->size() : 0, " elements for ", s.C, " channels");
  const Tensor y = tape.empty(x.shape, x.dtype);
  with_filter_size(K, [&](auto k) {
    on_either_with_bf16(tape, x.dtype, [&](auto type) {
      using T = decltype(type);
      const Acc<T>*filter = values_of<T>(w), *b = values_of<T>(bias);
      if (tape.on_cpu()) {
        return depthwise_cpu::forward<k()>(tape, y.as<T>(), x.as<T>(), filter, b, s);
      }
      if constexpr (gpu_computes<T>) {
        depthwise_gpu<k()>(y.as<T>(), false, x.as<T>(), filter, false, b, s);
      }
    });
  });
  tape.record(y, [=, &tape] {
    with_filter_size(K, [&](auto k) {
      on_either_with_bf16(tape, x.dtype, [&](auto type) {
        using T = decltype(type);
        const auto dx = tape.gradient<T>(x);
        const T* dy = tape.gradient_of_output<T>(y);
        if (tape.on_cpu()) {
          return depthwise_cpu::backward<k()>(tape, dx.data, dx.add, gradient_of<T>(w),
                                              gradient_of<T>(bias), dy, x.as<T>(), values_of<T>(w),
                                              s);
        }
        if constexpr (gpu_computes<T>) {
          depthwise_backward_gpu<k()>(tape, dx.data, dx.add, gradient_of<T>(w),
                                      gradient_of<T>(bias), dy, x.as<T>(), values_of<T>(w), s);
        }
      });
    });
  });
  return y;
}

}  // namespace dyt
