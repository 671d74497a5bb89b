// Two learned scalars: the multiplier at the end of a residual branch and the bias before a layer
// that Fixup (arXiv 1901.09321, section 3, rule 3) puts where a norm was; SkipInit (2002.10444)
// has the multiplier alone, and it starts at 0. Where every channel has a multiplier of
// its own, it is layer_scale.cu.
//
// (1) The mathematics. x, residual, y of one shape; multiplier g and bias b one number each:
//
//       y = residual + g x + b
//
//     Backward: dx = g dy, dg = sum of dy x, db = sum of dy, both over all elements, and dresidual
//     = dy.
#include "core/dispatch.h"
#include "core/gradient.h"
#include "core/kernel.h"
#include "core/reduce.h"
#include "layers/norm_free.h"

namespace dyt {
namespace {

// (2) The CPU loops -------------------------------------------------------------------------------

// multiplier, bias and residual may be null.
template <class T>
void scalar_affine_forward_cpu(T* y, const T* x, const T* multiplier, const T* bias,
                               const T* residual, int64_t n) {
  const T g = multiplier ? *multiplier : T(1), b = bias ? *bias : T(0);
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i) y[i] = (residual ? residual[i] : T(0)) + g * x[i] + b;
}

// dx = g dy, or added to if `add`; it may be null.
template <class T>
void scalar_affine_backward_cpu(T* dx, bool add, const T* dy, const T* multiplier, int64_t n) {
  const T g = multiplier ? *multiplier : T(1);
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i) dx[i] = (add ? dx[i] : T(0)) + g * dy[i];
}

// sums (2) += the sums of dy x and of dy.
template <class T>
void scalar_sums_cpu(T* sums, const T* dy, const T* x, int64_t n) {
  sum_over_rows(sums, 2, n, [&](int64_t begin, int64_t end, T* partial) {
    const T *dy_0 = dy + begin, *x_0 = x + begin;  // as in sum_of_squares_cpu, adamw.cu
    T dyx = 0, dy_alone = 0;
#pragma omp simd reduction(+ : dyx, dy_alone)
    for (int64_t i = 0; i < end - begin; ++i) dyx += dy_0[i] * x_0[i], dy_alone += dy_0[i];
    partial[0] += dyx, partial[1] += dy_alone;
  });
}

// (3) The kernels ---------------------------------------------------------------------------------

// One thread per pack of V. Moves 4 bytes per element in bf16, and 2 more with a residual.
template <int V, class T>
__global__ void scalar_affine_forward_kernel(T* y, const T* x, const float* multiplier,
                                             const float* bias, const T* residual, int64_t packs) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const float g = multiplier ? *multiplier : 1.0f, b = bias ? *bias : 0.0f;
  const Pack<T, V> in = load<V>(x + p * V);
  Pack<T, V> out{};
  if (residual) out = load<V>(residual + p * V);
#pragma unroll
  for (int i = 0; i < V; ++i) out.v[i] = T(float(out.v[i]) + g * float(in.v[i]) + b);
  store<V>(y + p * V, out);
}

// dx and the first stage of both sums: block k walks through every gridDim-th stretch of packs and
// leaves partials[0][k], of dy x, and partials[1][k], of dy. Moves 6 bytes per element in bf16, 8
// where dx is added to.
template <int V, class T>
__global__ void __launch_bounds__(256)
    scalar_affine_backward_kernel(T* dx, bool add, float* partials, const T* dy, const T* x,
                                  const float* multiplier, int64_t packs) {
  const float g = multiplier ? *multiplier : 1.0f;
  float dyx = 0, dy_alone = 0;
  for (int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; p < packs;
       p += int64_t(gridDim.x) * blockDim.x) {
    const Pack<T, V> up = load<V>(dy + p * V), in = load<V>(x + p * V);
    Pack<T, V> out{};
    if (dx && add) out = load<V>(dx + p * V);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      dyx += float(up.v[i]) * float(in.v[i]);
      dy_alone += float(up.v[i]);
      out.v[i] = T(float(out.v[i]) + g * float(up.v[i]));
    }
    if (dx) store<V>(dx + p * V, out);
  }
  dyx = block_sum(dyx);
  dy_alone = block_sum(dy_alone);
  if (threadIdx.x > 0) return;
  partials[blockIdx.x] = dyx;
  partials[gridDim.x + blockIdx.x] = dy_alone;
}

template <class T>
void scalar_affine_forward_gpu(T* y, const T* x, const float* multiplier, const float* bias,
                               const T* residual, int64_t n) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(n);
  launch(V == full ? scalar_affine_forward_kernel<full, T> : scalar_affine_forward_kernel<1, T>,
         blocks_for(n / V, 256), 256)(y, x, multiplier, bias, residual, n / V);
}

// dmultiplier and dbias are added to; they and dx may be null.
template <class T>
void scalar_affine_backward_gpu(Tape& tape, T* dx, bool add, float* dmultiplier, float* dbias,
                                const T* dy, const T* x, const float* multiplier, int64_t n) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(n);
  const unsigned blocks = std::min(blocks_for(n / V, 256), 1024u);
  float* partials = tape.scratch<float>(2 * blocks);
  launch(V == full ? scalar_affine_backward_kernel<full, T> : scalar_affine_backward_kernel<1, T>,
         blocks, 256)(dx, add, partials, dy, x, multiplier, n / V);
  add_partials_gpu(
      {{dmultiplier, partials, blocks, 1, 1}, {dbias, partials + blocks, blocks, 1, 1}});
}

}  // namespace

// (4) The op --------------------------------------------------------------------------------------

Tensor scalar_affine(Tape& tape, const Tensor& x, const Parameter* multiplier,
                     const Parameter* bias, const Tensor* residual) {
  for (const Parameter* p : {multiplier, bias}) {
    require(!p || p->size() == 1, "scalar_affine: parameter ", p ? p->name : "", " has ",
            p ? p->size() : 0, " elements, not one");
  }
  require(!residual || residual->shape == x.shape, "scalar_affine: x ", x.shape.text(),
          " and residual ", residual ? residual->shape.text() : "", " differ in shape");
  const int64_t n = x.size();
  const Tensor y = tape.empty(x.shape, x.dtype);
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    const T* to_add = residual ? residual->as<T>() : nullptr;
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        return scalar_affine_forward_cpu(y.as<T>(), x.as<T>(), values_of<T>(multiplier),
                                         values_of<T>(bias), to_add, n);
      }
    }
    if constexpr (gpu_computes<T>) {
      scalar_affine_forward_gpu(y.as<T>(), x.as<T>(), values_of<T>(multiplier), values_of<T>(bias),
                                to_add, n);
    }
  });
  const Tensor added = residual ? *residual : Tensor{};
  tape.record(y, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const auto dx = tape.gradient<T>(x);
      const T* dy = tape.gradient_of_output<T>(y);
      Acc<T>*dg = gradient_of<T>(multiplier), *db = gradient_of<T>(bias);
      if constexpr (cpu_computes<T>) {
        if (tape.on_cpu()) {
          T sums[2] = {0, 0};
          if (dg || db) scalar_sums_cpu(sums, dy, x.as<T>(), n);
          if (dg) *dg += sums[0];
          if (db) *db += sums[1];
          if (dx) scalar_affine_backward_cpu(dx.data, dx.add, dy, values_of<T>(multiplier), n);
          return;
        }
      }
      if constexpr (gpu_computes<T>) {
        scalar_affine_backward_gpu(tape, dx.data, dx.add, dg, db, dy, x.as<T>(),
                                   values_of<T>(multiplier), n);
      }
    });
    if (added.data) add_gradient(tape, y, added);  // last: it may hand dy's memory over
  });
  return y;
}

}  // namespace dyt
