// Pooling over images: windows of K x K pixels become one, channel by channel.
//
// (1) The mathematics. x (B, H, W, C); stride s, padding P (0 for averages); window (h, w) has the
//     pixels (s h + i - P, s w + j - P), i, j < K, that lie in the image; y (B, Ho, Wo, C) with
//     Ho = (H + 2 P - K) / s + 1, rounded down:
//
//       max        y = the largest x of the window, the first of several; NaN if there is one
//       average    y = the sum over the window / K^2
//
//     Backward, where a pixel lies in up to K x K windows:
//
//       max        dx = the sum of dy over the windows that took this pixel
//       average    dx = the sum of dy over its windows / K^2
//
//     The forward pass of the maximum notes which pixel it took as i K + j, one byte per number.
//     The backward pass asks each pixel to collect from its windows, rather than each window to add
//     to its pixel: so no two threads write to one place, and every sum has one order. Global
//     average pooling is the mean over the tokens of pool.cu.
#include <limits>

#include "core/dispatch.h"
#include "core/kernel.h"
#include "layers/activations_bf16.h"
#include "layers/convolutions.h"
#include "layers/layers.h"

namespace dyt {
namespace {

enum class Pooling { max, average };

struct PoolShape {
  int B, H, W, C, K, stride, padding;

  constexpr int Ho() const { return (H + 2 * padding - K) / stride + 1; }
  constexpr int Wo() const { return (W + 2 * padding - K) / stride + 1; }
};

// Along one dimension of `size` pixels: the taps of window `out` that lie in the image, and the
// windows that hold pixel `in`.
struct Range {
  int begin, end;
};
HOST_DEVICE inline Range taps_of(int out, int size, const PoolShape& s) {
  const int first = out * s.stride - s.padding;  // pixel of tap 0
  return {first < 0 ? -first : 0, first + s.K > size ? size - first : s.K};
}
HOST_DEVICE inline Range windows_of(int in, int windows, const PoolShape& s) {
  const int last = (in + s.padding) / s.stride, before = in + s.padding - s.K;
  return {before < 0 ? 0 : before / s.stride + 1, last < windows ? last + 1 : windows};
}

// (2) The CPU loops -------------------------------------------------------------------------------

// taken (B, Ho, Wo, C) may be null, and is not used by averages.
template <Pooling pooling, class T>
void pool_forward_cpu(T* y, uint8_t* taken, const T* x, const PoolShape& s) {
#pragma omp parallel for collapse(2)
  for (int b = 0; b < s.B; ++b) {
    for (int h = 0; h < s.Ho(); ++h) {
      const Range is = taps_of(h, s.H, s);
      for (int w = 0; w < s.Wo(); ++w) {
        const Range js = taps_of(w, s.W, s);
        const int64_t at = ((int64_t(b) * s.Ho() + h) * s.Wo() + w) * s.C;
        T* out = y + at;
        std::fill_n(out, s.C, pooling == Pooling::max ? -std::numeric_limits<T>::infinity() : T(0));
        if (taken) std::fill_n(taken + at, s.C, uint8_t(is.begin * s.K + js.begin));
        for (int i = is.begin; i < is.end; ++i) {
          for (int j = js.begin; j < js.end; ++j) {
            const T* in = x + ((int64_t(b) * s.H + h * s.stride + i - s.padding) * s.W +
                               w * s.stride + j - s.padding) *
                                  s.C;
            if (pooling == Pooling::average) {
#pragma omp simd
              for (int c = 0; c < s.C; ++c) out[c] += in[c] / T(s.K * s.K);
            } else if (!taken) {
#pragma omp simd
              for (int c = 0; c < s.C; ++c)
                out[c] = in[c] > out[c] || in[c] != in[c] ? in[c] : out[c];
            } else {
              const uint8_t tap = uint8_t(i * s.K + j);
#pragma omp simd
              for (int c = 0; c < s.C; ++c) {
                const bool better = in[c] > out[c] || in[c] != in[c];
                out[c] = better ? in[c] : out[c];
                taken[at + c] = better ? tap : taken[at + c];
              }
            }
          }
        }
      }
    }
  }
}

template <Pooling pooling, class T>
void pool_backward_cpu(T* dx, bool add, const T* dy, const uint8_t* taken, const PoolShape& s) {
  const T scale = pooling == Pooling::average ? T(1) / T(s.K * s.K) : T(1);
#pragma omp parallel for collapse(2)
  for (int b = 0; b < s.B; ++b) {
    for (int y_in = 0; y_in < s.H; ++y_in) {
      const Range hs = windows_of(y_in, s.Ho(), s);
      for (int x_in = 0; x_in < s.W; ++x_in) {
        const Range ws = windows_of(x_in, s.Wo(), s);
        T* to = dx + ((int64_t(b) * s.H + y_in) * s.W + x_in) * s.C;
        if (!add) std::fill_n(to, s.C, T(0));
        for (int h = hs.begin; h < hs.end; ++h) {
          for (int w = ws.begin; w < ws.end; ++w) {
            const int64_t at = ((int64_t(b) * s.Ho() + h) * s.Wo() + w) * s.C;
            const int i = y_in + s.padding - h * s.stride, j = x_in + s.padding - w * s.stride;
            const uint8_t tap = uint8_t(i * s.K + j);
#pragma omp simd
            for (int c = 0; c < s.C; ++c) {
              const bool ours = pooling == Pooling::average || taken[at + c] == tap;
              to[c] += ours ? scale * dy[at + c] : T(0);
            }
          }
        }
      }
    }
  }
}

// (3) The kernels ---------------------------------------------------------------------------------

// One thread per pack of V channels of a pixel of y. Reads x (from memory once, where windows
// overlap again from the caches) and writes y and, for the maximum, one byte per number: in bf16 2
// bytes per number of x, 3 per number of y.
template <Pooling pooling, int V, class T>
__global__ void pool_forward_kernel(T* y, uint8_t* taken, const T* x, unsigned packs, PoolShape s) {
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const unsigned packs_per_pixel = s.C / V, pixel = p / packs_per_pixel;
  const int w = int(pixel % s.Wo()), h = int(pixel / s.Wo() % s.Ho());
  const Range is = taps_of(h, s.H, s), js = taps_of(w, s.W, s);
  const T* corner =
      x + (int64_t(pixel / s.Wo() / s.Ho()) * s.H * s.W) * s.C + p % packs_per_pixel * V;
  float best[V];
  Pack<uint8_t, V> tap;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    best[v] = pooling == Pooling::max ? -INFINITY : 0.0f;
    tap.v[v] = uint8_t(is.begin * s.K + js.begin);
  }
  for (int i = is.begin; i < is.end; ++i) {
    for (int j = js.begin; j < js.end; ++j) {
      const int y_in = h * s.stride + i - s.padding, x_in = w * s.stride + j - s.padding;
      const Pack<T, V> in = load<V>(corner + (int64_t(y_in) * s.W + x_in) * s.C);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const float value = in.v[v];
        if (pooling == Pooling::average) {
          best[v] += value;
        } else if (value > best[v] || value != value) {
          best[v] = value;
          tap.v[v] = uint8_t(i * s.K + j);
        }
      }
    }
  }
  Pack<T, V> out;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    out.v[v] = T(pooling == Pooling::average ? best[v] / float(s.K * s.K) : best[v]);
  }
  store<V>(y + size_t(p) * V, out);
  if (taken) store<V>(taken + size_t(p) * V, tap);
}

// One thread per pack of V channels of a pixel of dx, which it collects from its windows. Reads dy
// (and taken) and writes dx: as many bytes as forward, and 2 more per number of x if dx is added
// to.
template <Pooling pooling, int V, class T>
__global__ void pool_backward_kernel(T* dx, bool add, const T* dy, const uint8_t* taken,
                                     unsigned packs, PoolShape s) {
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const unsigned packs_per_pixel = s.C / V, pixel = p / packs_per_pixel;
  const int x_in = int(pixel % s.W), y_in = int(pixel / s.W % s.H);
  const Range hs = windows_of(y_in, s.Ho(), s), ws = windows_of(x_in, s.Wo(), s);
  const int64_t image = int64_t(pixel / s.W / s.H) * s.Ho() * s.Wo();
  const float scale = pooling == Pooling::average ? 1.0f / float(s.K * s.K) : 1.0f;
  float sums[V] = {};
  for (int h = hs.begin; h < hs.end; ++h) {
    for (int w = ws.begin; w < ws.end; ++w) {
      const int64_t at = (image + h * s.Wo() + w) * s.C + p % packs_per_pixel * V;
      const int tap = (y_in + s.padding - h * s.stride) * s.K + x_in + s.padding - w * s.stride;
      const Pack<T, V> up = load<V>(dy + at);
      Pack<uint8_t, V> took;
      if (pooling == Pooling::max) took = load<V>(taken + at);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (pooling == Pooling::average || took.v[v] == tap) sums[v] += scale * float(up.v[v]);
      }
    }
  }
  Pack<T, V> out;
  if (add) out = load<V>(dx + size_t(p) * V);
#pragma unroll
  for (int v = 0; v < V; ++v) out.v[v] = T((add ? float(out.v[v]) : 0.0f) + sums[v]);
  store<V>(dx + size_t(p) * V, out);
}

unsigned packs_of(int64_t numbers, int V) {
  require(numbers / V < (int64_t(1) << 31), "pooling: ", numbers,
          " elements are too many for a kernel");
  return unsigned(numbers / V);
}

template <Pooling pooling, class T>
void pool_forward_gpu(T* y, uint8_t* taken, const T* x, const PoolShape& s) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(s.C);
  const unsigned packs = packs_of(int64_t(s.B) * s.Ho() * s.Wo() * s.C, V);
  launch(V == full ? pool_forward_kernel<pooling, full, T> : pool_forward_kernel<pooling, 1, T>,
         blocks_for(packs, 256), 256)(y, taken, x, packs, s);
}

template <Pooling pooling, class T>
void pool_backward_gpu(T* dx, bool add, const T* dy, const uint8_t* taken, const PoolShape& s) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(s.C);
  const unsigned packs = packs_of(int64_t(s.B) * s.H * s.W * s.C, V);
  launch(V == full ? pool_backward_kernel<pooling, full, T> : pool_backward_kernel<pooling, 1, T>,
         blocks_for(packs, 256), 256)(dx, add, dy, taken, packs, s);
}

// (4) The ops -------------------------------------------------------------------------------------

PoolShape shape_of(const char* op, const Tensor& x, int kernel, int stride, int padding) {
  require(x.shape.rank() == 4, op, " takes images (B, H, W, C), not ", x.shape.text());
  require(kernel >= 1 && kernel <= 15, op, ": windows are 1 to 15 pixels wide, not ", kernel);
  require(stride >= 1, op, ": stride is at least 1, not ", stride);
  require(padding >= 0 && padding <= kernel / 2, op, ": padding ", padding,
          " is not between 0 and half the window of ", kernel);
  const PoolShape s{int(x.shape[0]), int(x.shape[1]), int(x.shape[2]), int(x.shape[3]),
                    kernel,          stride,          padding};
  require(s.H + 2 * padding >= kernel && s.W + 2 * padding >= kernel, op, ": images of ", s.H,
          " x ", s.W, " with padding ", padding, " are smaller than the window of ", kernel);
  return s;
}

template <Pooling pooling>
Tensor pool(Tape& tape, const Tensor& x, const PoolShape& s) {
  const Tensor y = tape.empty({s.B, s.Ho(), s.Wo(), s.C}, x.dtype);
  const bool remember = pooling == Pooling::max && tape.training;
  uint8_t* taken = remember ? tape.scratch<uint8_t>(y.size()) : nullptr;
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) return pool_forward_cpu<pooling>(y.as<T>(), taken, x.as<T>(), s);
    }
    if constexpr (gpu_computes<T>) pool_forward_gpu<pooling>(y.as<T>(), taken, x.as<T>(), s);
  });
  tape.record(y, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const auto dx = tape.gradient<T>(x);
      const T* dy = tape.gradient_of_output<T>(y);
      if (!dx) return;
      if constexpr (cpu_computes<T>) {
        if (tape.on_cpu()) return pool_backward_cpu<pooling>(dx.data, dx.add, dy, taken, s);
      }
      if constexpr (gpu_computes<T>) pool_backward_gpu<pooling>(dx.data, dx.add, dy, taken, s);
    });
  });
  return y;
}

}  // namespace

Tensor max_pool(Tape& tape, const Tensor& x, int kernel, int stride, int padding) {
  if (is_bf16_on_cpu(tape, x)) {
    return narrowed(tape, max_pool(tape, widened(tape, x), kernel, stride, padding));
  }
  return pool<Pooling::max>(tape, x, shape_of("max_pool", x, kernel, stride, padding));
}

Tensor average_pool(Tape& tape, const Tensor& x, int kernel, int stride) {
  if (is_bf16_on_cpu(tape, x)) {
    return narrowed(tape, average_pool(tape, widened(tape, x), kernel, stride));
  }
  return pool<Pooling::average>(tape, x, shape_of("average_pool", x, kernel, stride, 0));
}

Tensor global_average_pool(Tape& tape, const Tensor& x) {
  require(x.shape.rank() == 4, "global_average_pool takes images (B, H, W, C), not ",
          x.shape.text());
  return mean_pool(tape, x.reshaped({x.shape[0], x.shape[1] * x.shape[2], x.shape[3]}));
}

}  // namespace dyt
