// From images to tokens (Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929,
// eq. 1): patches through a linear map, then the class token and the position embedding.
//
// (1) The mathematics. Images (B, H, W, C) are cut into patches of P x P pixels. With ty < H/P and
//     tx < W/P numbering a sample's tokens row by row, every patch becomes one row of
//
//       columns[(b, ty, tx), (c, py, px)] = images[b, ty P + py, tx P + px, c]      (B T, C P P)
//
//     where (c, py, px) is the order of PyTorch's convolution weight (D, C, P, P). A convolution of
//     stride P is then one matrix product:
//
//       y = columns weight' + bias                                                   (B T, D)
//       dweight = dy' columns    dbias = sum over rows of dy    dcolumns = dy weight
//
//     and dimages is dcolumns put back in place: patches don't overlap, so nothing is summed.
//
//     Position: y[b] = [class_token; x[b]] + position, so dposition is the sum of dy over the
//     batch, dclass_token that of its first token, and dx the rest of dy.
#include "core/dispatch.h"
#include "core/gradient.h"
#include "core/kernel.h"
#include "core/matmul.h"
#include "core/reduce.h"
#include "layers/column_walk.h"
#include "layers/layers.h"

namespace dyt {
namespace {

// Where the numbers of a patch lie. b and ty are counted together: a strip is one row of patches,
// P rows of an image, and the strips of all images follow each other.
struct Patches {
  int64_t strips, per_strip, C, P;  // B H/P, W/P, channels, pixels along a side
  HOST_DEVICE int64_t width() const { return C * P * P; }  // of a row of columns
  HOST_DEVICE int64_t rows() const { return strips * per_strip; }
  // The place in the images of columns[row, (c, py, px)].
  HOST_DEVICE int64_t in_images(int64_t row, int64_t c, int64_t py, int64_t px) const {
    const int64_t strip = row / per_strip, tx = row % per_strip;
    return (((strip * P + py) * per_strip + tx) * P + px) * C + c;
  }
};

// (2) The CPU loops -------------------------------------------------------------------------------

template <class T, class Image>
void gather_patches_cpu(T* columns, const Image* images, Patches patches) {
  const int64_t C = patches.C, P = patches.P;
#pragma omp parallel for
  for (int64_t row = 0; row < patches.rows(); ++row) {
    T* out = columns + row * patches.width();
    for (int64_t c = 0; c < C; ++c) {
      for (int64_t py = 0; py < P; ++py) {
        const Image* in = images + patches.in_images(row, c, py, 0);
        for (int64_t px = 0; px < P; ++px) *out++ = T(in[px * C]);
      }
    }
  }
}

// dimages = dcolumns, each number in its place; added to what is there if `add`.
template <class T, class Image>
void scatter_patches_cpu(Image* dimages, bool add, const T* dcolumns, Patches patches) {
  const int64_t C = patches.C, P = patches.P;
#pragma omp parallel for
  for (int64_t row = 0; row < patches.rows(); ++row) {
    const T* in = dcolumns + row * patches.width();
    for (int64_t c = 0; c < C; ++c) {
      for (int64_t py = 0; py < P; ++py) {
        Image* out = dimages + patches.in_images(row, c, py, 0);
        for (int64_t px = 0; px < P; ++px) {
          out[px * C] = (add ? out[px * C] : Image(0)) + Image(*in++);
        }
      }
    }
  }
}

// y = bias in every row: what the product is added to.
template <class T>
void repeat_row_cpu(T* y, const T* bias, int64_t rows, int64_t C) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) y[r * C + c] = bias[c];
  }
}

// dbias += column sums of dy.
template <class T>
void bias_backward_cpu(T* dbias, const T* dy, int64_t rows, int64_t C) {
  sum_over_rows(dbias, C, rows, [&](int64_t begin, int64_t end, T* partial) {
    for (int64_t r = begin; r < end; ++r) {
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) partial[c] += dy[r * C + c];
    }
  });
}

// `tokens` counts those of y; x has one less if there is a class token.
template <class T>
void add_position_forward_cpu(T* y, const T* x, const T* class_token, const T* position, int64_t B,
                              int64_t tokens, int64_t C) {
  const int64_t added = class_token ? 1 : 0;
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t t = 0; t < tokens; ++t) {
      const T* from = t < added ? class_token : x + (b * (tokens - added) + t - added) * C;
      T* to = y + (b * tokens + t) * C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) to[c] = from[c] + position[t * C + c];
    }
  }
}

// dposition += sum of dy over the batch, and dclass_token (may be null) += that of its first token.
// A token's sums belong to one thread, which adds the samples in order.
template <class T>
void position_backward_cpu(T* dclass_token, T* dposition, const T* dy, int64_t B, int64_t tokens,
                           int64_t C) {
#pragma omp parallel for
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t b = 0; b < B; ++b) {
      const T* dy_t = dy + (b * tokens + t) * C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) dposition[t * C + c] += dy_t[c];
      if (t > 0 || !dclass_token) continue;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) dclass_token[c] += dy_t[c];
    }
  }
}

// dx = dy without the class token's rows, or added to.
template <class T>
void skip_class_token_cpu(T* dx, bool add, const T* dy, int64_t B, int64_t tokens, int64_t C) {
#pragma omp parallel for
  for (int64_t b = 0; b < B; ++b) {
    T* dx_b = dx + b * (tokens - 1) * C;
    const T* dy_b = dy + (b * tokens + 1) * C;
#pragma omp simd
    for (int64_t i = 0; i < (tokens - 1) * C; ++i) dx_b[i] = (add ? dx_b[i] : T(0)) + dy_b[i];
  }
}

// (3) The kernels ---------------------------------------------------------------------------------

// One thread per number, in the order of columns: a warp's stores are consecutive, and its loads
// lie within a few rows of one or two patches. Moves 6 bytes per number for bf16 columns.
template <class T, class Image>
__global__ void gather_patches_kernel(T* columns, const Image* images, Patches patches) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned width = unsigned(patches.width()), P = unsigned(patches.P);
  const unsigned row = i / width, k = i % width;  // k = (c, py, px)
  if (row >= patches.rows()) return;
  columns[i] = T(float(images[patches.in_images(row, k / (P * P), k / P % P, k % P)]));
}

// The same the other way: one thread per number of dcolumns, each of a pixel of its own.
template <class T, class Image>
__global__ void scatter_patches_kernel(Image* dimages, bool add, const T* dcolumns,
                                       Patches patches) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned width = unsigned(patches.width()), P = unsigned(patches.P);
  const unsigned row = i / width, k = i % width;
  if (row >= patches.rows()) return;
  Image& out = dimages[patches.in_images(row, k / (P * P), k / P % P, k % P)];
  out = Image((add ? float(out) : 0.0f) + float(dcolumns[i]));
}

// y = [class_token; x] + position: one thread per pack of V channels. Moves 4 bytes per element in
// bf16; position comes from the cache. x may be null, for 0: then y is position, repeated.
template <int V, class T>
__global__ void add_position_forward_kernel(T* y, const T* x, const float* class_token,
                                            const float* position, unsigned packs, unsigned tokens,
                                            unsigned packs_per_row) {
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const unsigned row = p / packs_per_row, c = p % packs_per_row * V;
  const unsigned b = row / tokens, t = row % tokens, C = packs_per_row * V;
  const bool is_class = class_token && t == 0;
  const Pack<float, V> place = load<V>(position + t * C + c);
  Pack<T, V> out{};
  if (x && !is_class) out = load<V>(x + size_t(class_token ? row - b - 1 : row) * C + c);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    out.v[i] = T((is_class ? class_token[c + i] : float(out.v[i])) + place.v[i]);
  }
  store<V>(y + size_t(p) * V, out);
}

// Column sums of dy, rows of n numbers that begin `stride` apart. A block of 32 x 8 threads owns 32
// packs of columns and every (8 gridDim.y)-th row: thread (x, y) walks down the rows of one pack
// and keeps its sums in registers; the 8 rows of sums meet in shared memory, and the block writes
// one partial sum per column. Moves 2 bytes per element in bf16.
template <int V, class T>
__global__ void __launch_bounds__(256)
    column_sums_kernel(float* partials, const T* dy, int64_t rows, int64_t stride, int64_t n) {
  const int64_t c = (int64_t(blockIdx.x) * 32 + threadIdx.x) * V;  // first column of the pack
  float sum[V] = {};
  if (c < n) {
    for (int64_t r = blockIdx.y * 8 + threadIdx.y; r < rows; r += gridDim.y * 8) {
      const Pack<T, V> up = load<V>(dy + r * stride + c);
#pragma unroll
      for (int i = 0; i < V; ++i) sum[i] += float(up.v[i]);
    }
  }
  write_column_sums<V>(partials + blockIdx.y * n, sum, n);
}

// dx = dy without the class token's rows, or added to: one thread per pack of dx. Moves 4 bytes per
// element in bf16, 6 if dx is added to.
template <int V, class T>
__global__ void skip_class_token_kernel(T* dx, bool add, const T* dy, unsigned packs,
                                        unsigned packs_per_sample, unsigned packs_per_row) {
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const unsigned b = p / packs_per_sample;
  Pack<T, V> out = load<V>(dy + (size_t(p) + size_t(b + 1) * packs_per_row) * V);
  if (add) {
    const Pack<T, V> before = load<V>(dx + size_t(p) * V);
#pragma unroll
    for (int i = 0; i < V; ++i) out.v[i] = T(float(before.v[i]) + float(out.v[i]));
  }
  store<V>(dx + size_t(p) * V, out);
}

unsigned counted(int64_t n) {
  require(n < (int64_t(1) << 32), "embedding: ", n, " items are more than a kernel can count");
  return unsigned(n);
}

template <class T>
void add_position_forward_gpu(T* y, const T* x, const float* class_token, const float* position,
                              int64_t B, int64_t tokens, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(C);
  const int64_t packs = B * tokens * C / V;
  launch(V == full ? add_position_forward_kernel<full, T> : add_position_forward_kernel<1, T>,
         blocks_for(packs, 256),
         256)(y, x, class_token, position, counted(packs), unsigned(tokens), unsigned(C / V));
}

// sums += column sums of dy, whose rows of n numbers begin `stride` apart, a multiple of n.
template <class T>
void add_column_sums_gpu(Tape& tape, float* sums, const T* dy, int64_t rows, int64_t stride,
                         int64_t n) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(n);
  const unsigned columns = blocks_for(n, 32 * V);
  const unsigned parts = unsigned(row_parts(rows, columns, 32));
  float* partials = tape.scratch<float>(parts * n);
  launch(V == full ? column_sums_kernel<full, T> : column_sums_kernel<1, T>, dim3(columns, parts),
         dim3(32, 8))(partials, dy, rows, stride, n);
  add_partials_gpu(sums, partials, parts, n);
}

template <class T>
void skip_class_token_gpu(T* dx, bool add, const T* dy, int64_t B, int64_t tokens, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(C);
  const int64_t packs = B * (tokens - 1) * C / V;
  launch(V == full ? skip_class_token_kernel<full, T> : skip_class_token_kernel<1, T>,
         blocks_for(packs, 256),
         256)(dx, add, dy, counted(packs), unsigned((tokens - 1) * C / V), unsigned(C / V));
}

// (4) The ops -------------------------------------------------------------------------------------

// Images come as f32 in every run, or in the number type of the run itself.
template <class T, class F>
void with_images(const Tensor& images, F&& body) {
  if (images.dtype == dtype_of<T>::value) return body(T{});
  body(float{});
}

template <class T>
void patch_embedding_forward(Tape& tape, const Tensor& y, const Tensor& columns,
                             const Tensor& images, const Parameter& weight, const Parameter& bias,
                             Patches patches) {
  const int64_t rows = patches.rows(), D = y.channels(), K = patches.width();
  with_images<T>(images, [&](auto pixel) {
    using Image = decltype(pixel);
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        gather_patches_cpu(columns.as<T>(), images.as<Image>(), patches);
        repeat_row_cpu(y.as<T>(), values_of<T>(&bias), rows, D);
        return;
      }
    }
    if constexpr (gpu_computes<T>) {
      launch(gather_patches_kernel<T, Image>, blocks_for(counted(rows * K), 256), 256)(
          columns.as<T>(), images.as<Image>(), patches);
      add_position_forward_gpu(y.as<T>(), static_cast<const T*>(nullptr), nullptr,
                               values_of<T>(&bias), rows, 1, D);
    }
  });
  matmul(tape.device(), Op::none, Op::transpose, rows, D, K, columns.as<T>(), weight.as<T>(), 1.0f,
         y.as<T>());
}

template <class T>
void patch_embedding_backward(Tape& tape, const T* dy, const Tensor& columns, const Tensor& images,
                              const Parameter& weight, const Parameter& bias, Patches patches) {
  const int64_t rows = patches.rows(), D = weight.shape[0], K = patches.width();
  if constexpr (cpu_computes<T>) {
    if (tape.on_cpu()) bias_backward_cpu(gradient_of<T>(&bias), dy, rows, D);
  }
  if constexpr (gpu_computes<T>) {
    if (!tape.on_cpu()) add_column_sums_gpu(tape, gradient_of<T>(&bias), dy, rows, D, D);
  }
  matmul(tape.device(), Op::transpose, Op::none, D, K, rows, dy, columns.as<T>(), 1.0f,
         gradient_of<T>(&weight));
  if (!images.grad) return;
  T* dcolumns = tape.scratch<T>(rows * K);
  matmul(tape.device(), Op::none, Op::none, rows, K, D, dy, weight.as<T>(), 0.0f, dcolumns);
  with_images<T>(images, [&](auto pixel) {
    using Image = decltype(pixel);
    const auto dimages = tape.gradient<Image>(images);
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) return scatter_patches_cpu(dimages.data, dimages.add, dcolumns, patches);
    }
    if constexpr (gpu_computes<T>) {
      launch(scatter_patches_kernel<T, Image>, blocks_for(counted(rows * K), 256), 256)(
          dimages.data, dimages.add, dcolumns, patches);
    }
  });
}

}  // namespace

Tensor patch_embedding(Tape& tape, const Tensor& images, const Parameter& weight,
                       const Parameter& bias) {
  require(images.shape.rank() == 4 && weight.shape.rank() == 4, "patch_embedding: images are ",
          "(B, H, W, C) and weight is (D, C, P, P), not ", images.shape.text(), " and ",
          weight.shape.text());
  const int64_t B = images.shape[0], H = images.shape[1], W = images.shape[2], C = images.shape[3];
  const int64_t D = weight.shape[0], P = weight.shape[3];
  require(weight.shape[1] == C && weight.shape[2] == P, "patch_embedding: weight ", weight.name,
          " ", weight.shape.text(), " is not (D, C, P, P) for images ", images.shape.text());
  require(H % P == 0 && W % P == 0, "patch_embedding: images of ", H, " x ", W,
          " pixels cannot be cut into patches of ", P, " x ", P);
  require(bias.size() == D, "patch_embedding: bias ", bias.name, " has ", bias.size(),
          " elements for ", D, " channels");
  const Patches patches{B * (H / P), W / P, C, P};
  const Tensor columns = tape.constant({patches.rows(), patches.width()}, tape.dtype());
  const Tensor y = tape.empty({B, H / P * (W / P), D});
  const Parameter *w = &weight, *v = &bias;
  on_either(tape, tape.dtype(), [&](auto t) {
    patch_embedding_forward<decltype(t)>(tape, y, columns, images, *w, *v, patches);
  });
  tape.record(y, [=, &tape] {
    on_either(tape, tape.dtype(), [&](auto t) {
      using T = decltype(t);
      patch_embedding_backward(tape, tape.gradient_of_output<T>(y), columns, images, *w, *v,
                               patches);
    });
  });
  return y;
}

Tensor add_position(Tape& tape, const Tensor& x, const Parameter* class_token,
                    const Parameter& position) {
  require(x.shape.rank() == 3, "add_position: x is (B, T, C), not ", x.shape.text());
  const int64_t B = x.shape[0], tokens = x.shape[1] + (class_token ? 1 : 0), C = x.shape[2];
  require(!class_token || class_token->size() == C, "add_position: class token ",
          class_token ? class_token->name : "", " has ", class_token ? class_token->size() : 0,
          " elements for ", C, " channels");
  require(position.size() == tokens * C, "add_position: ", position.name, " ",
          position.shape.text(), " does not fit ", tokens, " tokens of ", C, " channels");
  const Tensor y = tape.empty({B, tokens, C});
  const Parameter* p = &position;
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    const auto *c = values_of<T>(class_token), *v = values_of<T>(p);
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        return add_position_forward_cpu(y.as<T>(), x.as<T>(), c, v, B, tokens, C);
      }
    }
    if constexpr (gpu_computes<T>) {
      add_position_forward_gpu(y.as<T>(), x.as<T>(), c, v, B, tokens, C);
    }
  });
  tape.record(y, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const T* dy = tape.gradient_of_output<T>(y);
      auto *dclass = gradient_of<T>(class_token), *dposition = gradient_of<T>(p);
      const auto dx = class_token ? tape.gradient<T>(x) : GradientTarget<T>{};
      if constexpr (cpu_computes<T>) {
        if (tape.on_cpu()) {
          position_backward_cpu(dclass, dposition, dy, B, tokens, C);
          if (dx) skip_class_token_cpu(dx.data, dx.add, dy, B, tokens, C);
          return;
        }
      }
      if constexpr (gpu_computes<T>) {
        add_column_sums_gpu(tape, dposition, dy, B, tokens * C, tokens * C);
        if (dclass) add_column_sums_gpu(tape, dclass, dy, B, tokens * C, C);
        if (dx) skip_class_token_gpu(dx.data, dx.add, dy, B, tokens, C);
      }
    });
    if (!class_token) add_gradient(tape, y, x);  // dx = dy
  });
  return y;
}

}  // namespace dyt
