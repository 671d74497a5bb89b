// Convolution: every output channel sees all input channels of a K x K neighbourhood.
//
// (1) The mathematics. x (B, H, W, Cin); weight (Cout, Cin, K, K) as in PyTorch; bias (Cout);
//     stride s, padding P; x = 0 outside the image; y (B, Ho, Wo, Cout) where
//     Ho = (H + 2 P - K) / s + 1, rounded down, and Wo likewise:
//
//       y[b,h,w,o] = bias[o] + sum over c, i, j of  weight[o,c,i,j] x[b, s h+i-P, s w+j-P, c]
//
//     Written as a matrix product: the columns of x are a matrix with a row for each pixel of y, of
//     the K K Cin numbers it sees, in the order (i, j, c), so that in NHWC a row is K runs of K Cin
//     neighbours. A 1 behind them takes the bias in. With the weights in the same order:
//
//       y       = columns weights'        columns (B Ho Wo, width), weights (Cout, width)
//       dweight = dy' columns             dbias is its column of the 1
//       dcolumns = dy weights             dx[pixel]: the sum of its up to K K copies in dcolumns
//
//     Why so (im2col), and not an implicit product, which gathers x while it multiplies: a library
//     product runs at the speed of the hardware, tensor cores included, for one extra pass over the
//     columns; and they are made for some images at a time, so that they are read again from the
//     second-level cache. A 1 x 1 convolution of stride 1 is a product as it is, without columns.
//     On the CPU in f32, oneDNN has convolutions that need no columns (core/convolution.h); those
//     of ResNet-20 were measured to run 3.1, 1.7 and 1.3 times as fast with 16, 32 and 64 channels.
//     What follows is for f64, for BLAS=none, for few patches and for the GPU.
#include "core/convolution.h"
#include "core/dispatch.h"
#include "core/kernel.h"
#include "core/matmul.h"
#include "core/product.h"
#include "layers/activations_bf16.h"
#include "layers/conv_cpu.h"
#include "layers/convolutions.h"

namespace dyt {
namespace {

// (2) The CPU loops are in conv_cpu.h.

// (3) The kernels ---------------------------------------------------------------------------------

// One thread per 16-byte pack of the columns; in (S is f32 where images are f32 and T is bf16) it
// reads V numbers at a time. Writes 2 bytes per element in bf16; x is read from memory once and K K
// times from the caches.
template <int V, class T, class S>
__global__ void im2col_kernel(T* columns, const S* x, unsigned packs, Columns m) {
  constexpr int full = 16 / sizeof(T);
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const ConvShape& s = m.s;
  const int packs_per_row = int(m.width) / full;
  const int Cin = int(s.Cin), K = int(s.K), Ho = int(s.Ho()), Wo = int(s.Wo());
  const unsigned row = p / packs_per_row;
  const int h = int(row / Wo % Ho) * int(s.stride) - int(s.padding);
  const int w = int(row % Wo) * int(s.stride) - int(s.padding);
  const S* image = x + int64_t(row / Wo / Ho) * s.H * s.W * Cin;
  Pack<T, full> out;
#pragma unroll
  for (int v = 0; v < full; v += V) {
    const int k = int(p % packs_per_row) * full + v;
    const int tap = k / Cin, c = k % Cin;
    const int y_in = h + tap / K, x_in = w + tap % K;
    const bool inside = tap < K * K && y_in >= 0 && y_in < s.H && x_in >= 0 && x_in < s.W;
    if (inside) {
      const Pack<S, V> in = load<V>(image + (int64_t(y_in) * s.W + x_in) * Cin + c);
#pragma unroll
      for (int i = 0; i < V; ++i) out.v[v + i] = T(float(in.v[i]));
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        out.v[v + i] = T(m.with_bias && k + i == m.seen() ? 1.0f : 0.0f);
      }
    }
  }
  store<full>(columns + int64_t(p) * full, out);
}

// One thread per pack of V channels of a pixel of dx, which it collects from up to K K places of
// dcolumns. Reads those once, 2 bytes per element in bf16, and writes dx.
template <int V, class T>
__global__ void col2im_kernel(T* dx, bool add, const T* dcolumns, unsigned packs, Columns m) {
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const ConvShape& s = m.s;
  const int K = int(s.K), stride = int(s.stride), Ho = int(s.Ho()), Wo = int(s.Wo());
  const unsigned packs_per_pixel = unsigned(s.Cin) / V, pixel = p / packs_per_pixel;
  const int c = int(p % packs_per_pixel) * V;
  const int sw = int(pixel % unsigned(s.W)) + int(s.padding);
  const int sh = int(pixel / unsigned(s.W) % unsigned(s.H)) + int(s.padding);
  const int64_t image = int64_t(pixel / unsigned(s.W) / unsigned(s.H)) * Ho * Wo;
  float sums[V] = {};
  for (int i = sh % stride; i < K; i += stride) {
    for (int j = sw % stride; j < K; j += stride) {
      const int h = (sh - i) / stride, w = (sw - j) / stride;
      if (sh < i || sw < j || h >= Ho || w >= Wo) continue;
      const Pack<T, V> in =
          load<V>(dcolumns + (image + h * Wo + w) * m.width + (i * K + j) * s.Cin + c);
#pragma unroll
      for (int v = 0; v < V; ++v) sums[v] += float(in.v[v]);
    }
  }
  Pack<T, V> out;
  if (add) out = load<V>(dx + int64_t(p) * V);
#pragma unroll
  for (int v = 0; v < V; ++v) out.v[v] = T((add ? float(out.v[v]) : 0.0f) + sums[v]);
  store<V>(dx + int64_t(p) * V, out);
}

// One thread per number of weights (Cout, width). Tiny.
template <class T>
__global__ void pack_weights_kernel(T* weights, const T* weight, const float* bias, Columns m) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= m.s.Cout * m.width) return;
  const int64_t o = p / m.width, k = p % m.width, taps = m.s.K * m.s.K;
  T value = T(bias && k == m.seen() ? bias[o] : 0.0f);
  if (k < m.seen()) value = weight[(o * m.s.Cin + k % m.s.Cin) * taps + k / m.s.Cin];
  weights[p] = value;
}

// One thread per number of dweight and dbias: += from dweights (Cout, width).
__global__ void unpack_gradient_kernel(float* dweight, float* dbias, const float* dweights,
                                       Columns m) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= m.s.Cout * m.width) return;
  const int64_t o = p / m.width, k = p % m.width, taps = m.s.K * m.s.K;
  if (k < m.seen()) dweight[(o * m.s.Cin + k % m.s.Cin) * taps + k / m.s.Cin] += dweights[p];
  if (dbias && k == m.seen()) dbias[o] += dweights[p];
}

unsigned packs_of(int64_t numbers, int V) {
  require(numbers / V < (int64_t(1) << 31), "conv: ", numbers,
          " elements are too many for a kernel");
  return unsigned(numbers / V);
}

template <class T, class S>
void im2col_gpu(T* columns, const S* x, int64_t images, const Columns& m) {
  constexpr int full = 16 / sizeof(T);
  const unsigned packs = packs_of(images * m.s.Ho() * m.s.Wo() * m.width, full);
  constexpr int wide = std::is_same_v<S, T> ? full : 1;
  launch(m.s.Cin % full == 0 ? im2col_kernel<wide, T, S> : im2col_kernel<1, T, S>,
         blocks_for(packs, 256), 256)(columns, x, packs, m);
}

template <class T>
void col2im_gpu(T* dx, bool add, const T* dcolumns, int64_t images, const Columns& m) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(m.s.Cin);
  const unsigned packs = packs_of(images * m.s.H * m.s.W * m.s.Cin, V);
  launch(V == full ? col2im_kernel<full, T> : col2im_kernel<1, T>, blocks_for(packs, 256), 256)(
      dx, add, dcolumns, packs, m);
}

// (4) The op --------------------------------------------------------------------------------------

template <class T>
void im2col(const Tape& tape, T* columns, const Tensor& x, int64_t first, int64_t images,
            const Columns& m) {
  const int64_t start = first * m.s.H * m.s.W * m.s.Cin;
  if (tape.on_cpu()) return im2col_cpu(columns, x.as<T>() + start, images, m);
  if constexpr (gpu_computes<T>) {
    if (x.dtype == dtype_of<T>::value) return im2col_gpu(columns, x.as<T>() + start, images, m);
    im2col_gpu(columns, x.as<float>() + start, images, m);
  }
}

template <class T>
void col2im(const Tape& tape, T* dx, bool add, const T* dcolumns, int64_t images,
            const Columns& m) {
  if (tape.on_cpu()) return col2im_cpu(dx, add, dcolumns, images, m);
  if constexpr (gpu_computes<T>) col2im_gpu(dx, add, dcolumns, images, m);
}

template <class T>
void pack_weights(const Tape& tape, T* weights, const Parameter& weight, const Parameter* bias,
                  const Columns& m) {
  if (tape.on_cpu()) return pack_weights_cpu(weights, weight.as<Acc<T>>(), values_of<T>(bias), m);
  if constexpr (gpu_computes<T>) {
    launch(pack_weights_kernel<T>, blocks_for(m.s.Cout * m.width, 256), 256)(
        weights, weight.as<T>(), values_of<T>(bias), m);
  }
}

template <class A>
void unpack_gradient(const Tape& tape, A* dweight, A* dbias, const A* dweights, const Columns& m) {
  if (tape.on_cpu()) return unpack_gradient_cpu(dweight, dbias, dweights, m);
  if constexpr (std::is_same_v<A, float>) {
    launch(unpack_gradient_kernel, blocks_for(m.s.Cout * m.width, 256), 256)(dweight, dbias,
                                                                             dweights, m);
  }
}

// How many images' columns are made at a time: they are to be read again from the second-level
// cache, of which a GPU of sm_80 has 40 MiB, sm_90 50.
template <class T>
int64_t images_at_once(const Tape& tape, const Columns& m) {
  const int64_t bytes = int64_t(tape.on_cpu() ? 1 : 32) << 20;
  const int64_t image_bytes = m.s.Ho() * m.s.Wo() * m.width * int64_t(sizeof(T));
  return std::clamp<int64_t>(bytes / image_bytes, 1, m.s.B);
}

// The columns of a 1 x 1 convolution are x itself.
template <class T>
bool is_product(const Tensor& x, const Parameter* bias, const ConvShape& s) {
  return s.K == 1 && s.stride == 1 && s.padding == 0 && !bias && x.dtype == dtype_of<T>::value;
}

// Whether oneDNN convolves. Not where patches don't overlap and are few, as where ConvNeXt halves
// small images: then the columns are x in another order, and their product is up to 4 times as
// fast. Where it also rounds them to bf16 on its way, more of them are few.
bool goes_by_library(const Tape& tape, const Tensor& x, const ConvShape& s) {
  if (!tape.on_cpu() || !has_convolution_library()) return false;
  const bool apart = s.K > 1 && s.K == s.stride && s.padding == 0;
  if (cpu_products() == DType::bf16 && cheap_rounding()) return !apart || s.pixels() > 16384;
  return !apart || s.pixels() > 2048 || x.dtype == DType::bf16;
}

// Whether the weights' gradient goes by columns although oneDNN convolves: of strided filters in
// bf16, where oneDNN 2.6 takes several times as long for it as the columns and their product.
bool weights_go_by_columns(const Tensor& x, const ConvShape& s) {
  return x.dtype == DType::bf16 && cheap_rounding() && s.K > 1 && s.stride > 1;
}

template <class T>
void conv_forward(Tape& tape, T* y, const Tensor& x, const Parameter& weight, const Parameter* bias,
                  const ConvShape& s) {
  if constexpr (!std::is_same_v<T, double>) {
    if (goes_by_library(tape, x, s)) {
      return library_convolution(y, x.as<T>(), x.dtype, weight.as<float>(), values_of<T>(bias), s);
    }
  }
  if (is_product<T>(x, bias, s)) {
    return matmul(tape.device(), Op::none, Op::transpose, s.pixels(), s.Cout, s.Cin, x.as<T>(),
                  weight.as<T>(), 0.0f, y);
  }
  const Columns m = columns_of<T>(s, bias != nullptr);
  const int64_t at_once = images_at_once<T>(tape, m), rows = s.Ho() * s.Wo();
  T* weights = tape.scratch<T>(s.Cout * m.width);
  T* columns = tape.scratch<T>(at_once * rows * m.width);
  pack_weights(tape, weights, weight, bias, m);
  for (int64_t b = 0; b < s.B; b += at_once) {
    const int64_t images = std::min(at_once, s.B - b);
    im2col(tape, columns, x, b, images, m);
    matmul(tape.device(), Op::none, Op::transpose, images * rows, s.Cout, m.width, columns, weights,
           0.0f, y + b * rows * s.Cout);
  }
}

template <class T>
void conv_backward(Tape& tape, const T* dy, const Tensor& x, const Parameter& weight,
                   const Parameter* bias, const ConvShape& s) {
  auto dx = tape.gradient<T>(x);
  if constexpr (!std::is_same_v<T, double>) {
    if (goes_by_library(tape, x, s)) {
      const bool by_columns = weights_go_by_columns(x, s);
      library_convolution_backward(dx.data, dx.add, by_columns ? nullptr : gradient_of<T>(&weight),
                                   gradient_of<T>(bias), dy, x.as<T>(), x.dtype, weight.as<float>(),
                                   s);
      if (!by_columns) return;
      dx = {};
    }
  }
  if (is_product<T>(x, bias, s)) {
    matmul(tape.device(), Op::transpose, Op::none, s.Cout, s.Cin, s.pixels(), dy, x.as<T>(), 1.0f,
           gradient_of<T>(&weight));
    if (!dx) return;
    return matmul(tape.device(), Op::none, Op::none, s.pixels(), s.Cin, s.Cout, dy, weight.as<T>(),
                  dx.add ? 1.0f : 0.0f, dx.data);
  }
  const Columns m = columns_of<T>(s, bias != nullptr);
  const int64_t at_once = images_at_once<T>(tape, m), rows = s.Ho() * s.Wo();
  T* weights = tape.scratch<T>(s.Cout * m.width);
  Acc<T>* dweights = tape.scratch<Acc<T>>(s.Cout * m.width);
  T* columns = tape.scratch<T>(at_once * rows * m.width);  // then dcolumns
  if (dx) pack_weights(tape, weights, weight, bias, m);
  for (int64_t b = 0; b < s.B; b += at_once) {
    const int64_t images = std::min(at_once, s.B - b);
    const T* dy_b = dy + b * rows * s.Cout;
    im2col(tape, columns, x, b, images, m);
    matmul(tape.device(), Op::transpose, Op::none, s.Cout, m.width, images * rows, dy_b, columns,
           b == 0 ? 0.0f : 1.0f, dweights);
    if (!dx) continue;
    matmul(tape.device(), Op::none, Op::none, images * rows, m.width, s.Cout, dy_b, weights, 0.0f,
           columns);
    col2im(tape, dx.data + b * s.H * s.W * s.Cin, dx.add, columns, images, m);
  }
  unpack_gradient(tape, gradient_of<T>(&weight), gradient_of<T>(bias), dweights, m);
}

ConvShape shape_of(const Tensor& x, const Parameter& weight, const Parameter* bias, int stride,
                   int padding) {
  require(x.shape.rank() == 4, "conv takes images (B, H, W, C), not ", x.shape.text());
  const ConvShape s{.B = x.shape[0],
                    .H = x.shape[1],
                    .W = x.shape[2],
                    .Cin = x.shape[3],
                    .Cout = weight.shape[0],
                    .K = weight.shape[-1],
                    .stride = stride,
                    .padding = padding};
  require(weight.shape == Shape{s.Cout, s.Cin, s.K, s.K}, "conv: weight ", weight.name, " ",
          weight.shape.text(), " does not take ", s.Cin, " channels: (Cout, ", s.Cin,
          ", K, K) would");
  require(!bias || bias->size() == s.Cout, "conv: bias ", bias ? bias->name : "", " has ",
          bias ? bias->size() : 0, " elements for ", s.Cout, " channels");
  require(stride >= 1 && padding >= 0, "conv: stride ", stride, " and padding ", padding,
          ", but they are at least 1 and 0");
  require(s.H + 2 * padding >= s.K && s.W + 2 * padding >= s.K, "conv: images of ", s.H, " x ", s.W,
          " with padding ", padding, " are smaller than ", weight.name, " ", weight.shape.text());
  return s;
}

}  // namespace

Tensor conv(Tape& tape, const Tensor& x, const Parameter& weight, const Parameter* bias, int stride,
            int padding) {
  const ConvShape s = shape_of(x, weight, bias, stride, padding);
  const bool narrow = is_bf16_on_cpu(tape, x) && library_convolves_in_bf16();
  require(x.dtype == tape.dtype() || (x.dtype == DType::f32 && !x.grad) || narrow, "conv: x holds ",
          name_of(x.dtype), " where the activations are ", name_of(tape.dtype()));
  const Tensor y = tape.empty({s.B, s.Ho(), s.Wo(), s.Cout}, narrow ? DType::bf16 : tape.dtype());
  const Parameter* w = &weight;
  on_either_with_bf16(tape, y.dtype, [&](auto t) {
    using T = decltype(t);
    conv_forward(tape, y.as<T>(), x, *w, bias, s);
  });
  tape.record(y, [=, &tape] {
    on_either_with_bf16(tape, y.dtype, [&](auto t) {
      using T = decltype(t);
      conv_backward(tape, tape.gradient_of_output<T>(y), x, *w, bias, s);
    });
  });
  return y;
}

}  // namespace dyt
