// Dynamic Tanh (DyT), the layer that replaces LayerNorm in "Transformers without Normalization"
// (arXiv 2503.10622, section 4), and its family.
//
// (1) The mathematics. x, y (rows, C); alpha and shift scalars; gamma, beta (C):
//
//       z = alpha x + shift         y = gamma * phi(z) + beta          phi = tanh for DyT
//
//     Every element is treated alike and alone: no mean, no variance, nothing that one channel of a
//     token has to know of the others. That is all the difference to LayerNorm, and why it is
//     cheap: no reduction stands between reading x and writing y. Backward, with dz = dy * gamma *
//     phi'(z):
//
//       dx     = alpha dz
//       dalpha = sum over rows and channels of  x dz         dshift = the same sum of  dz
//       dgamma = sum over rows of  dy phi(z)                 dbeta  = sum over rows of  dy
//
//     phi(z) is computed again from x in the backward pass: one tanh is cheaper than 4 bytes.
#include "core/cpu_math.h"
#include "core/dispatch.h"
#include "core/kernel.h"
#include "core/reduce.h"
#include "layers/layers.h"

namespace dyt {
namespace {

// --- The squashing functions: value(z), and slope(z, value(z)) -----------------------------------
// Each is written once, for the CPU (f32 and f64) and for kernels (f32).

#if defined(__CUDA_ARCH__)
__device__ float tanh_of(float z) { return tanhf(z); }
__device__ float erf_of(float z) { return erff(z); }
__device__ float exp_of(float z) { return expf(z); }
#else
template <class A>
A tanh_of(A z) {
  return cpu::tanh(z);
}
template <class A>
A erf_of(A z) {
  return cpu::erf(z);
}
template <class A>
A exp_of(A z) {
  return cpu::exp(z);
}
#endif

struct Tanh {
  template <class A>
  HOST_DEVICE static A value(A z) {
    return tanh_of(z);
  }
  template <class A>
  HOST_DEVICE static A slope(A, A f) {
    return 1 - f * f;
  }
};
struct Erf {  // Derf, arXiv 2512.10938
  template <class A>
  HOST_DEVICE static A value(A z) {
    return erf_of(z);
  }
  template <class A>
  HOST_DEVICE static A slope(A z, A) {
    return A(1.12837916709551257390) * exp_of(-z * z);  // 2 / sqrt(pi) exp(-z^2)
  }
};
struct Hardtanh {
  template <class A>
  HOST_DEVICE static A value(A z) {
    return z < -1 ? A(-1) : z > 1 ? A(1) : z;
  }
  template <class A>
  HOST_DEVICE static A slope(A z, A) {
    return z > -1 && z < 1 ? A(1) : A(0);
  }
};
struct Sigmoid {
  template <class A>
  HOST_DEVICE static A value(A z) {
    return 1 / (1 + exp_of(-z));
  }
  template <class A>
  HOST_DEVICE static A slope(A, A f) {
    return f * (1 - f);
  }
};
struct Isru {  // inverse square root unit, z / sqrt(1 + z^2)
  template <class A>
  HOST_DEVICE static A value(A z) {
    return z / sqrt(1 + z * z);
  }
  template <class A>
  HOST_DEVICE static A slope(A z, A) {
    const A r = 1 / sqrt(1 + z * z);
    return r * r * r;
  }
};
struct Identity {
  template <class A>
  HOST_DEVICE static A value(A z) {
    return z;
  }
  template <class A>
  HOST_DEVICE static A slope(A, A) {
    return A(1);
  }
};

// (2) The CPU loops
// --------------------------------------------------------------------------------

// What is optional is settled before the inner loop: around a choice, the compiler would not
// vectorise it.
template <class Phi, class T>
void dyt_forward_cpu(T* y, const T* x, const T* alpha, const T* shift, const T* gamma,
                     const T* beta, int64_t rows, int64_t C) {
  const T a = alpha ? *alpha : T(1), s = shift ? *shift : T(0);
  const std::vector<T> ones(gamma ? 0 : size_t(C), T(1)), zeros(beta ? 0 : size_t(C), T(0));
  const T *scale = gamma ? gamma : ones.data(), *offset = beta ? beta : zeros.data();
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T* x_r = x + r * C;
    T* y_r = y + r * C;
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) y_r[c] = scale[c] * Phi::value(a * x_r[c] + s) + offset[c];
  }
}

// dgamma, dbeta, dalpha, dshift are added to; dx too if `add`. Any of them may be null.
template <class Phi, bool add, class T>
void dyt_backward_cpu(T* dx, T* dalpha, T* dshift, T* dgamma, T* dbeta, const T* dy, const T* x,
                      const T* alpha, const T* shift, const T* gamma, int64_t rows, int64_t C) {
  const T a = alpha ? *alpha : T(1), s = shift ? *shift : T(0);
  const std::vector<T> ones(gamma ? 0 : size_t(C), T(1));
  const T* scale = gamma ? gamma : ones.data();
  std::vector<T> sums(size_t(2 * C + 2), T(0));  // dgamma, dbeta, dalpha, dshift
  sum_over_rows(sums.data(), 2 * C + 2, rows, [=](int64_t begin, int64_t end, T* partial) {
    std::vector<T> unwanted(dx ? 0 : size_t(C), T(0));
    T sum_alpha = 0, sum_shift = 0;
    for (int64_t r = begin; r < end; ++r) {
      const T *x_r = x + r * C, *dy_r = dy + r * C, *gamma_r = scale;
      T* dx_r = dx ? dx + r * C : unwanted.data();
#pragma omp simd reduction(+ : sum_alpha, sum_shift)
      for (int64_t c = 0; c < C; ++c) {
        const T z = a * x_r[c] + s, f = Phi::value(z);
        const T dz = dy_r[c] * gamma_r[c] * Phi::slope(z, f);
        partial[c] += dy_r[c] * f;
        partial[C + c] += dy_r[c];
        sum_alpha += x_r[c] * dz;
        sum_shift += dz;
        dx_r[c] = (add ? dx_r[c] : T(0)) + a * dz;
      }
    }
    partial[2 * C] = sum_alpha;
    partial[2 * C + 1] = sum_shift;
  });
  for (int64_t c = 0; c < C && dgamma; ++c) dgamma[c] += sums[size_t(c)];
  for (int64_t c = 0; c < C && dbeta; ++c) dbeta[c] += sums[size_t(C + c)];
  if (dalpha) *dalpha += sums[size_t(2 * C)];
  if (dshift) *dshift += sums[size_t(2 * C + 1)];
}

// (3) The kernels
// ----------------------------------------------------------------------------------

// One thread per pack of V consecutive channels of a row. Reads x once, writes y once: 4 bytes per
// element in bf16, and gamma and beta from the cache.
template <class Phi, int V, class T>
__global__ void dyt_forward_kernel(T* y, const T* x, const float* alpha, const float* shift,
                                   const float* gamma, const float* beta, unsigned packs,
                                   unsigned packs_per_row) {
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const unsigned c = p % packs_per_row * V;
  const float a = alpha ? *alpha : 1.0f, s = shift ? *shift : 0.0f;
  const Pack<T, V> in = load<V>(x + size_t(p) * V);
  Pack<T, V> out;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float f = Phi::value(a * float(in.v[i]) + s);
    out.v[i] = T((gamma ? gamma[c + i] : 1.0f) * f + (beta ? beta[c + i] : 0.0f));
  }
  store<V>(y + size_t(p) * V, out);
}

// A block of 32 x 8 threads owns 32 packs of channels and every (8 gridDim.y)-th row: thread (x, y)
// walks down the rows of one pack and keeps its sums for dgamma and dbeta in registers, so dy and x
// are read once for all five gradients (6 bytes per element in bf16). The 8 rows of sums meet in
// shared memory; each block writes one partial sum per channel, and two for alpha and shift.
template <class Phi, int V, class T>
__global__ void __launch_bounds__(256)
    dyt_backward_kernel(T* dx, bool add, float* dgamma_partials, float* dbeta_partials,
                        float* scalar_partials, const T* dy, const T* x, const float* alpha,
                        const float* shift, const float* gamma, int64_t rows, int64_t C) {
  SHARED(float, tile, [8][32 * V]);
  const int64_t c = (int64_t(blockIdx.x) * 32 + threadIdx.x) * V;  // first channel of the pack
  const float a = alpha ? *alpha : 1.0f, s = shift ? *shift : 0.0f;
  float sum_gamma[V] = {}, sum_beta[V] = {}, sum_alpha = 0, sum_shift = 0;
  if (c < C) {
    for (int64_t r = blockIdx.y * 8 + threadIdx.y; r < rows; r += gridDim.y * 8) {
      const Pack<T, V> in = load<V>(x + r * C + c), up = load<V>(dy + r * C + c);
      Pack<T, V> out;
      if (dx && add) out = load<V>(dx + r * C + c);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float x_rc = in.v[i], dy_rc = up.v[i];
        const float z = a * x_rc + s, f = Phi::value(z);
        const float dz = dy_rc * (gamma ? gamma[c + i] : 1.0f) * Phi::slope(z, f);
        sum_gamma[i] += dy_rc * f;
        sum_beta[i] += dy_rc;
        sum_alpha += x_rc * dz;
        sum_shift += dz;
        out.v[i] = T((dx && add ? float(out.v[i]) : 0.0f) + a * dz);
      }
      if (dx) store<V>(dx + r * C + c, out);
    }
  }
  // The 8 sums of a channel, first for gamma, then for beta.
  for (int which = 0; which < 2; ++which) {
    const float* mine = which == 0 ? sum_gamma : sum_beta;
#pragma unroll
    for (int i = 0; i < V; ++i) tile[threadIdx.y][i * 32 + threadIdx.x] = mine[i];
    __syncthreads();
    float* partials = which == 0 ? dgamma_partials : dbeta_partials;
    for (int k = int(threadIdx.y * 32 + threadIdx.x); k < 32 * V; k += 256) {
      float sum = 0;
      for (int y = 0; y < 8; ++y) sum += tile[y][k];
      const int64_t channel = (int64_t(blockIdx.x) * 32 + k % 32) * V + k / 32;
      if (channel < C) partials[blockIdx.y * C + channel] = sum;
    }
    __syncthreads();
  }
  // The 256 sums for alpha and shift: a butterfly in each warp, then over the 8 warps.
  sum_alpha = warp_sum(sum_alpha);
  sum_shift = warp_sum(sum_shift);
  if (threadIdx.x == 0) tile[threadIdx.y][0] = sum_alpha, tile[threadIdx.y][1] = sum_shift;
  __syncthreads();
  if (threadIdx.y == 0 && threadIdx.x < 2) {
    float sum = 0;
    for (int y = 0; y < 8; ++y) sum += tile[y][threadIdx.x];
    scalar_partials[(blockIdx.y * gridDim.x + blockIdx.x) * 2 + threadIdx.x] = sum;
  }
}

template <class Phi, class T>
void dyt_forward_gpu(T* y, const T* x, const float* alpha, const float* shift, const float* gamma,
                     const float* beta, int64_t rows, int64_t C) {
  const int V = vector_width<T>(C);
  const int64_t packs = rows * C / V;
  require(packs < (int64_t(1) << 32), "dyt: ", packs, " packs are more than a kernel can count");
  constexpr int full = 16 / sizeof(T);
  const auto kernel = V == full ? dyt_forward_kernel<Phi, full, T> : dyt_forward_kernel<Phi, 1, T>;
  launch(kernel, blocks_for(packs, 256), 256)(y, x, alpha, shift, gamma, beta, unsigned(packs),
                                              unsigned(C / V));
}

template <class Phi, class T>
void dyt_backward_gpu(Tape& tape, T* dx, bool add, float* dalpha, float* dshift, float* dgamma,
                      float* dbeta, const T* dy, const T* x, const float* alpha, const float* shift,
                      const float* gamma, int64_t rows, int64_t C) {
  const int V = vector_width<T>(C);
  const unsigned columns = blocks_for(C, 32 * V);
  const unsigned parts = unsigned(row_parts(rows, columns, 32));
  float* partials = tape.scratch<float>(2 * parts * C);
  float* scalars = tape.scratch<float>(2 * parts * columns);
  constexpr int full = 16 / sizeof(T);
  const auto kernel =
      V == full ? dyt_backward_kernel<Phi, full, T> : dyt_backward_kernel<Phi, 1, T>;
  launch(kernel, dim3(columns, parts), dim3(32, 8))(dx, add, partials, partials + parts * C,
                                                    scalars, dy, x, alpha, shift, gamma, rows, C);
  if (dgamma) add_partials_gpu(dgamma, partials, parts, C);
  if (dbeta) add_partials_gpu(dbeta, partials + parts * C, parts, C);
  if (!dalpha && !dshift) return;
  float* both = tape.scratch<float>(2);
  fill_zero(tape.device(), both, 2 * sizeof(float));
  add_partials_gpu(both, scalars, parts * columns, 2);
  if (dalpha) add_partials_gpu(dalpha, both, 1, 1);
  if (dshift) add_partials_gpu(dshift, both + 1, 1, 1);
}

// (4) The op
// ---------------------------------------------------------------------------------------

template <class F>
void with_squash(Squash squash, F&& body) {
  switch (squash) {
    case Squash::tanh:
      return body(Tanh{});
    case Squash::erf:
      return body(Erf{});
    case Squash::hardtanh:
      return body(Hardtanh{});
    case Squash::sigmoid:
      return body(Sigmoid{});
    case Squash::isru:
      return body(Isru{});
    case Squash::identity:
      return body(Identity{});
  }
}

}  // namespace

Tensor dyt(Tape& tape, const Tensor& x, const DytParameters& p, Squash squash) {
  const int64_t rows = x.rows(), C = x.channels();
  for (const Parameter* v : {p.gamma, p.beta}) {
    require(!v || v->size() == C, "dyt: parameter ", v ? v->name : "", " has ", v ? v->size() : 0,
            " elements for ", C, " channels");
  }
  const Tensor y = tape.empty(x.shape);
  with_squash(squash, [&](auto phi) {
    using Phi = decltype(phi);
    if (tape.on_cpu()) {
      on_cpu(x.dtype, [&](auto t) {
        using T = decltype(t);
        dyt_forward_cpu<Phi>(y.as<T>(), x.as<T>(), values_of<T>(p.alpha), values_of<T>(p.shift),
                             values_of<T>(p.gamma), values_of<T>(p.beta), rows, C);
      });
    } else {
      on_gpu(x.dtype, [&](auto t) {
        using T = decltype(t);
        dyt_forward_gpu<Phi>(y.as<T>(), x.as<T>(), values_of<T>(p.alpha), values_of<T>(p.shift),
                             values_of<T>(p.gamma), values_of<T>(p.beta), rows, C);
      });
    }
  });
  tape.record(y, [=, &tape] {
    with_squash(squash, [&](auto phi) {
      using Phi = decltype(phi);
      if (tape.on_cpu()) {
        on_cpu(x.dtype, [&](auto t) {
          using T = decltype(t);
          const auto dx = tape.gradient<T>(x);
          const auto backward =
              dx.add ? dyt_backward_cpu<Phi, true, T> : dyt_backward_cpu<Phi, false, T>;
          backward(dx.data, gradient_of<T>(p.alpha), gradient_of<T>(p.shift),
                   gradient_of<T>(p.gamma), gradient_of<T>(p.beta), tape.gradient_of_output<T>(y),
                   x.as<T>(), values_of<T>(p.alpha), values_of<T>(p.shift), values_of<T>(p.gamma),
                   rows, C);
        });
      } else {
        on_gpu(x.dtype, [&](auto t) {
          using T = decltype(t);
          const auto dx = tape.gradient<T>(x);
          dyt_backward_gpu<Phi>(tape, dx.data, dx.add, gradient_of<T>(p.alpha),
                                gradient_of<T>(p.shift), gradient_of<T>(p.gamma),
                                gradient_of<T>(p.beta), tape.gradient_of_output<T>(y), x.as<T>(),
                                values_of<T>(p.alpha), values_of<T>(p.shift), values_of<T>(p.gamma),
                                rows, C);
        });
      }
    });
  });
  return y;
}

}  // namespace dyt
