// The CPU loops of layers/conv.cu, which explains and calls them.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/bf16_cpu.h"
#include "core/convolution.h"

namespace dyt {

// Rows of columns and weights: the numbers seen, the 1 for the bias, and zeros up to 16 bytes,
// which vector access and tensor cores want.
struct Columns {
  ConvShape s;
  bool with_bias;
  int64_t width;  // numbers in a row

  constexpr int64_t seen() const { return s.K * s.K * s.Cin; }
};

template <class T>
Columns columns_of(const ConvShape& s, bool with_bias) {
  constexpr int64_t full = 16 / sizeof(T);
  const int64_t used = s.K * s.K * s.Cin + with_bias;
  return {s, with_bias, (used + full - 1) / full * full};
}

// columns (images * Ho * Wo, width) of `images` images at x.
template <class T>
void im2col_cpu(T* columns, const T* x, int64_t images, const Columns& m) {
  const ConvShape& s = m.s;
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < images; ++b) {
    for (int64_t h = 0; h < s.Ho(); ++h) {
      for (int64_t w = 0; w < s.Wo(); ++w) {
        T* row = columns + ((b * s.Ho() + h) * s.Wo() + w) * m.width;
        const int64_t left = w * s.stride - s.padding;
        for (int64_t i = 0; i < s.K; ++i) {
          const int64_t y_in = h * s.stride + i - s.padding;
          if (y_in >= 0 && y_in < s.H && left >= 0 && left + s.K <= s.W) {  // K pixels side by side
            std::copy_n(x + ((b * s.H + y_in) * s.W + left) * s.Cin, s.K * s.Cin,
                        row + i * s.K * s.Cin);
            continue;
          }
          for (int64_t j = 0; j < s.K; ++j) {
            const int64_t x_in = left + j;
            T* to = row + (i * s.K + j) * s.Cin;
            if (y_in >= 0 && y_in < s.H && x_in >= 0 && x_in < s.W) {
              std::copy_n(x + ((b * s.H + y_in) * s.W + x_in) * s.Cin, s.Cin, to);
            } else {
              std::fill_n(to, s.Cin, T(0));
            }
          }
        }
        for (int64_t k = m.seen(); k < m.width; ++k) {
          row[k] = T(float(m.with_bias && k == m.seen()));
        }
      }
    }
  }
}

// dx = the sums over dcolumns, or added. Each pixel of dx collects its copies, so no two threads
// write to the same place.
template <class T>
void col2im_cpu(T* dx, bool add, const T* dcolumns, int64_t images, const Columns& m) {
  using A = Acc<T>;
  const ConvShape& s = m.s;
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < images; ++b) {
    for (int64_t y_in = 0; y_in < s.H; ++y_in) {
      for (int64_t x_in = 0; x_in < s.W; ++x_in) {
        T* to = dx + ((b * s.H + y_in) * s.W + x_in) * s.Cin;
        bool adds = add;
        for (int64_t i = 0; i < s.K; ++i) {
          for (int64_t j = 0; j < s.K; ++j) {
            const int64_t sh = y_in + s.padding - i,
                          sw = x_in + s.padding - j;  // stride times h, w
            if (sh < 0 || sw < 0 || sh % s.stride != 0 || sw % s.stride != 0) continue;
            const int64_t h = sh / s.stride, w = sw / s.stride;
            if (h >= s.Ho() || w >= s.Wo()) continue;
            const T* from =
                dcolumns + ((b * s.Ho() + h) * s.Wo() + w) * m.width + (i * s.K + j) * s.Cin;
            if (adds) {
              cpu::put_row(to, s.Cin, [=](int64_t c) { return A(to[c]) + A(from[c]); });
            } else {
              std::copy_n(from, s.Cin, to);
            }
            adds = true;
          }
        }
        if (!adds) std::fill_n(to, s.Cin, T(0));
      }
    }
  }
}

// weights (Cout, width) from weight (Cout, Cin, K, K) and bias.
template <class T, class A = Acc<T>>
void pack_weights_cpu(T* weights, const A* weight, const A* bias, const Columns& m) {
  const int64_t taps = m.s.K * m.s.K, Cin = m.s.Cin;
#pragma omp parallel for
  for (int64_t o = 0; o < m.s.Cout; ++o) {
    T* row = weights + o * m.width;
    std::fill_n(row, m.width, T(0));
    for (int64_t c = 0; c < Cin; ++c) {
      for (int64_t t = 0; t < taps; ++t) row[t * Cin + c] = T(weight[(o * Cin + c) * taps + t]);
    }
    if (bias) row[m.seen()] = T(bias[o]);
  }
}

// dweight and dbias += their columns of dweights.
template <class T>
void unpack_gradient_cpu(T* dweight, T* dbias, const T* dweights, const Columns& m) {
  const int64_t taps = m.s.K * m.s.K, Cin = m.s.Cin;
#pragma omp parallel for
  for (int64_t o = 0; o < m.s.Cout; ++o) {
    const T* row = dweights + o * m.width;
    for (int64_t c = 0; c < Cin; ++c) {
      for (int64_t t = 0; t < taps; ++t) dweight[(o * Cin + c) * taps + t] += row[t * Cin + c];
    }
    if (dbias) dbias[o] += row[m.seen()];
  }
}

// For bf16 they are made in layers/activations_bf16.cpp.
extern template void im2col_cpu(bf16*, const bf16*, int64_t, const Columns&);
extern template void col2im_cpu(bf16*, bool, const bf16*, int64_t, const Columns&);
extern template void pack_weights_cpu(bf16*, const float*, const float*, const Columns&);

}  // namespace dyt
