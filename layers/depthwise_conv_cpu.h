// The CPU loops of layers/depthwise_conv.cu, which explains and calls them.
//
// A tile holds `lanes` channels, one vector register full, of one image: (H, tile_width, lanes),
// with zeros in the lanes beyond C. A strip of pixels is summed in registers, by all taps: to the
// left and right of the image a tile has zeros. Of an image that is no wider than a strip most taps
// lie beyond it: of 7 x 7 at 4 x 4 pixels 33. There the width, `narrow`, is a constant, 0 stands
// for all others, and what takes part is known to the compiler. Tiles and sums of bf16 are f32.
#pragma once
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "core/bf16_cpu.h"
#include "core/tape.h"

namespace dyt {

struct ImageShape {
  int64_t B, H, W, C;
};

namespace depthwise_cpu {

template <class A>
inline constexpr int lanes = 64 / sizeof(A);
#if defined(__AVX512F__)
inline constexpr int strip = 8;
#else
inline constexpr int strip = 4;  // half as wide registers, and half as many
#endif

// Calls body(narrow) with a constant.
template <int at_least = 1, class Body>
void with_width(int64_t W, Body&& body) {
  if constexpr (at_least > strip) {
    body(std::integral_constant<int, 0>{});
  } else {
    W == at_least ? body(std::integral_constant<int, at_least>{})
                  : with_width<at_least + 1>(W, std::forward<Body>(body));
  }
}

// Calls body(0), body(1) ... body(n - 1), each with a constant.
template <int n, class Body>
void for_constants(Body&& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) { (body(std::integral_constant<int, i>{}), ...); }
  (std::make_integer_sequence<int, n>{});
}

template <int K, int narrow>
int64_t tile_width(int64_t W) {
  return narrow ? narrow : (W + strip - 1) / strip * strip + K - 1;
}
template <int K, int narrow>
inline constexpr int left_of_tile = narrow ? 0 : K / 2;  // zeros

// Whether pixel w of a narrow image has a neighbour under tap j of a row; of others the tile does.
template <int K, int narrow>
constexpr bool takes_part(int w, int j) {
  return narrow == 0 || (0 <= w + j - K / 2 && w + j - K / 2 < narrow);
}

// One group of channels of one image, x -> x[b,0,0,c], into a tile.
template <int K, int narrow, class A, class T>
void load_tile(A* tile, const T* x, int64_t channels, const ImageShape& s) {
  constexpr int L = lanes<A>, left = left_of_tile<K, narrow>;
  const int64_t width = tile_width<K, narrow>(s.W);
  for (int64_t h = 0; h < s.H; ++h) {
    A* row = tile + h * width * L;
    std::fill(row, row + left * L, A(0));
    std::fill(row + (left + s.W) * L, row + width * L, A(0));
    for (int64_t w = 0; w < s.W; ++w) {
      const T* from = x + (h * s.W + w) * s.C;
      A* to = row + (left + w) * L;
      if (channels == L) {
#pragma omp simd
        for (int l = 0; l < L; ++l) to[l] = A(from[l]);
      } else {
        for (int l = 0; l < L; ++l) to[l] = l < channels ? A(from[l]) : A(0);
      }
    }
  }
}

// y, or dx from dy's tile: filters (K, K, lanes), start (lanes) the value before the sum.
template <int K, int narrow, class T, class A>
void filter_tile(T* y, bool add, const A* tile, const A* filters, const A* start, int64_t channels,
                 const ImageShape& s) {
  constexpr int L = lanes<A>, R = K / 2, pixels = narrow ? narrow : strip;
  constexpr int first = left_of_tile<K, narrow> - R;  // what tap 0 of pixel 0 lies on
  const int64_t width = tile_width<K, narrow>(s.W);
  for (int64_t h = 0; h < s.H; ++h) {
    const int64_t i_begin = std::max<int64_t>(0, R - h), i_end = std::min<int64_t>(K, s.H + R - h);
    for (int64_t w0 = 0; w0 < s.W; w0 += pixels) {
      A sums[pixels][L];
      for (int p = 0; p < pixels; ++p) std::copy_n(start, L, sums[p]);
      for (int64_t i = i_begin; i < i_end; ++i) {
        const A* in = tile + ((h + i - R) * width + w0) * L;
        for_constants<K>([&](auto j) {
          const A* filter = filters + (i * K + j) * L;
          for_constants<pixels>([&](auto p) {
            if constexpr (takes_part<K, narrow>(p(), j())) {
#pragma omp simd simdlen(lanes <A>)
              for (int l = 0; l < L; ++l) sums[p][l] += filter[l] * in[(first + j + p) * L + l];
            }
          });
        });
      }
      for (int64_t p = 0; p < pixels && w0 + p < s.W; ++p) {
        T* out = y + (h * s.W + w0 + p) * s.C;
        const A* sum = sums[p];
        if (add) {
          cpu::put_row(out, channels, [=](int64_t l) { return A(out[l]) + sum[l]; });
        } else {
          cpu::put_row(out, channels, [=](int64_t l) { return sum[l]; });
        }
      }
    }
  }
}

// sums (K K + 1, lanes): adds what this tile contributes to dweight and, in the last row, to dbias.
template <int K, int narrow, class A>
void correlate_tiles(A* sums, const A* x_tile, const A* dy_tile, const ImageShape& s) {
  constexpr int L = lanes<A>, R = K / 2, pixels = narrow ? narrow : strip;
  constexpr int left = left_of_tile<K, narrow>, first = left - R;
  const int64_t width = tile_width<K, narrow>(s.W);
  for (int i = 0; i < K; ++i) {
    const int64_t h_begin = std::max<int64_t>(0, R - i),
                  h_end = std::min<int64_t>(s.H, s.H + R - i);
    if (h_begin >= h_end) continue;
    A row_sums[K][L];
    std::copy_n(sums + i * K * L, K * L, row_sums[0]);
    for (int64_t h = h_begin; h < h_end; ++h) {
      for (int64_t w0 = 0; w0 < s.W; w0 += pixels) {
        const A* x = x_tile + ((h + i - R) * width + w0) * L;
        const A* dy = dy_tile + (h * width + left + w0) * L;
        for_constants<pixels>([&](auto w) {
          for_constants<K>([&](auto j) {
            if constexpr (takes_part<K, narrow>(w(), j())) {
#pragma omp simd simdlen(lanes <A>)
              for (int l = 0; l < L; ++l)
                row_sums[j][l] += dy[w * L + l] * x[(first + w + j) * L + l];
            }
          });
        });
      }
    }
    std::copy_n(row_sums[0], K * L, sums + i * K * L);
  }
  A* bias_sums = sums + K * K * L;
  for (int64_t h = 0; h < s.H; ++h) {
    const A* dy = dy_tile + (h * width + left) * L;
    for (int64_t w = 0; w < s.W; ++w) {
      for (int l = 0; l < L; ++l) bias_sums[l] += dy[w * L + l];
    }
  }
}

// weight (C, K, K) to (C / lanes, K, K, lanes), turned by 180 degrees for the backward pass.
template <int K, class A>
void group_filters(A* filters, const A* weight, bool turned, int64_t C) {
  constexpr int L = lanes<A>;
#pragma omp parallel for
  for (int64_t c0 = 0; c0 < C; c0 += L) {
    A* const group = filters + c0 * K * K;
    for (int k = 0; k < K * K; ++k) {
      const A* const from = weight + c0 * K * K + (turned ? K * K - 1 - k : k);
      for (int l = 0; l < L; ++l) group[k * L + l] = c0 + l < C ? from[l * K * K] : A(0);
    }
  }
}

template <int K, class T, class A = Acc<T>>
void forward(Tape& tape, T* y, const T* x, const A* weight, const A* bias, const ImageShape& s) {
  constexpr int L = lanes<A>;
  const int64_t groups = (s.C + L - 1) / L, image = s.H * s.W * s.C;
  A* filters = tape.scratch<A>(groups * K * K * L);
  group_filters<K>(filters, weight, false, s.C);
  with_width(s.W, [&](auto narrow) {
    const int64_t tile_size = s.H * tile_width<K, narrow>(s.W) * L;
    A* tiles = tape.scratch<A>(omp_get_max_threads() * tile_size);
#pragma omp parallel for collapse(2)
    for (int64_t b = 0; b < s.B; ++b) {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t c0 = g * L, channels = std::min<int64_t>(L, s.C - c0);
        A* tile = tiles + omp_get_thread_num() * tile_size;
        A start[L] = {};
        if (bias) std::copy_n(bias + c0, channels, start);
        load_tile<K, narrow>(tile, x + b * image + c0, channels, s);
        filter_tile<K, narrow>(y + b * image + c0, false, tile, filters + g * K * K * L, start,
                               channels, s);
      }
    }
  });
}

// dx may be null; dweight and dbias (or null) are added to. A task is a group of channels of a part
// of the batch; how many parts depends on the sizes alone, so the sums don't depend on the threads.
template <int K, class T, class A = Acc<T>>
void backward(Tape& tape, T* dx, bool add, A* dweight, A* dbias, const T* dy, const T* x,
              const A* weight, const ImageShape& s) {
  constexpr int L = lanes<A>, taps = K * K + 1;  // the last one is the bias
  const int64_t groups = (s.C + L - 1) / L, image = s.H * s.W * s.C;
  const int64_t parts = std::clamp<int64_t>(64 / groups, 1, s.B);
  A* filters = tape.scratch<A>(groups * K * K * L);
  A* partials = tape.scratch<A>(parts * groups * taps * L);
  group_filters<K>(filters, weight, true, s.C);
  const A zeros[L] = {};
  with_width(s.W, [&](auto narrow) {
    const int64_t tile_size = s.H * tile_width<K, narrow>(s.W) * L;
    A* tiles = tape.scratch<A>(omp_get_max_threads() * 2 * tile_size);
#pragma omp parallel for collapse(2)
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t c0 = g * L, channels = std::min<int64_t>(L, s.C - c0);
        A* x_tile = tiles + omp_get_thread_num() * 2 * tile_size;
        A* dy_tile = x_tile + tile_size;
        A sums[taps * L] = {};
        for (int64_t b = s.B * part / parts; b < s.B * (part + 1) / parts; ++b) {
          load_tile<K, narrow>(x_tile, x + b * image + c0, channels, s);
          load_tile<K, narrow>(dy_tile, dy + b * image + c0, channels, s);
          if (dx) {
            filter_tile<K, narrow>(dx + b * image + c0, add, dy_tile, filters + g * K * K * L,
                                   zeros, channels, s);
          }
          correlate_tiles<K, narrow>(sums, x_tile, dy_tile, s);
        }
        std::copy_n(sums, taps * L, partials + (part * groups + g) * taps * L);
      }
    }
  });
#pragma omp parallel for
  for (int64_t c = 0; c < s.C; ++c) {
    for (int64_t part = 0; part < parts; ++part) {
      const A* sums = partials + (part * groups + c / L) * taps * L + c % L;
      for (int k = 0; k < K * K; ++k) dweight[c * K * K + k] += sums[k * L];
      if (dbias) dbias[c] += sums[K * K * L];
    }
  }
}

// For bf16 they are made in layers/activations_bf16.cpp.
extern template void forward<3>(Tape&, bf16*, const bf16*, const float*, const float*,
                                const ImageShape&);
extern template void forward<7>(Tape&, bf16*, const bf16*, const float*, const float*,
                                const ImageShape&);
extern template void backward<3>(Tape&, bf16*, bool, float*, float*, const bf16*, const bf16*,
                                 const float*, const ImageShape&);
extern template void backward<7>(Tape&, bf16*, bool, float*, float*, const bf16*, const bf16*,
                                 const float*, const ImageShape&);

}  // namespace depthwise_cpu
}  // namespace dyt
