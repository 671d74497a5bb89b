// Norms without fusion: what layernorm.cu, rmsnorm.cu and dyt.cu save.
//
// (1) The mathematics is in those files. Here every elementary operation is a pass of its own, as
//     in a framework without a compiler: it reads whole tensors from memory and writes a whole
//     tensor back, which the next pass reads again. A norm does a handful of operations on each
//     number, so nearly all of its time goes into carrying numbers to and fro. The passes, with the
//     tensors of the size of x that each reads and writes:
//
//       rmsnorm   x^2 (2), mean over the row (1), x rstd (2), gamma xhat (2)                 7
//       layernorm mean (1), x - mean (2), its square (2), mean (1), times rstd (2), gamma (2),
//                 beta (2)                                                                  12
//       dyt       alpha x (2), tanh (2), gamma (2), beta if there is one (2)             6 or 8
//
//     and backward what automatic differentiation makes of these. Fused, each of them reads x and
//     writes y: 2.
//
//     In bf16 there is more: statistics of 16-bit numbers are taken in f32, so RMSNorm and
//     LayerNorm turn x into f32 first, as the public implementations of LLaMA do, and pass 4 bytes
//     around instead of 2. DyT has no statistics, and stays in bf16.
#include <type_traits>

#include "core/cpu_math.h"
#include "core/dispatch.h"
#include "core/kernel.h"
#include "core/reduce.h"
#include "layers/unfused.h"

namespace dyt {
namespace {

// --- The elementary operations -------------------------------------------------------------------

#if defined(__CUDA_ARCH__)
__device__ float tanh_of(float z) { return tanhf(z); }
#else
template <class A>
A tanh_of(A z) {
  return cpu::tanh(z);
}
#endif

struct Copy {
  template <class A>
  HOST_DEVICE A operator()(A a, A) const {
    return a;
  }
};
struct Add {
  template <class A>
  HOST_DEVICE A operator()(A a, A b) const {
    return a + b;
  }
};
struct Subtract {
  template <class A>
  HOST_DEVICE A operator()(A a, A b) const {
    return a - b;
  }
};
struct Multiply {
  template <class A>
  HOST_DEVICE A operator()(A a, A b) const {
    return a * b;
  }
};
struct Square {
  template <class A>
  HOST_DEVICE A operator()(A a, A) const {
    return a * a;
  }
};
struct Tanh {
  template <class A>
  HOST_DEVICE A operator()(A a, A) const {
    return tanh_of(a);
  }
};
struct TanhSlope {  // the gradient of z from that of f = tanh(z), and f
  template <class A>
  HOST_DEVICE A operator()(A df, A f) const {
    return df * (1 - f * f);
  }
};

// Of one number per row:
struct Mean {  // of a sum over C channels
  double C;
  template <class A>
  HOST_DEVICE A operator()(A sum, A) const {
    return sum / A(C);
  }
};
struct Rstd {  // of a sum of squares
  double C;
  float epsilon;
  template <class A>
  HOST_DEVICE A operator()(A squares, A) const {
    return 1 / sqrt(squares / A(C) + A(epsilon));
  }
};
struct RstdSlope {  // 2 x this is the gradient of x by way of the statistics, as x^2's slope is 2 x
  double C;
  template <class A>
  HOST_DEVICE A operator()(A rstd, A drstd) const {
    return -rstd * rstd * rstd * drstd / A(C);
  }
};

// Which b goes with element (r, c) of a: its own, its row's, its channel's, the only one, none.
enum class Along { element, row, channel, scalar, none };

template <Along along>
HOST_DEVICE inline int64_t index_of(int64_t r, int64_t c, int64_t C) {
  return along == Along::element   ? r * C + c
         : along == Along::row     ? r
         : along == Along::channel ? c
                                   : 0;
}

// (2) The CPU loops -------------------------------------------------------------------------------

// y = F(a, b), element by element.
template <class F, Along along, class Y, class X, class B>
void map_cpu(F f, Y* y, const X* a, const B* b, int64_t rows, int64_t C) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) {
      using A = Acc<X>;
      const A other = along == Along::none ? A(0) : A(b[index_of<along>(r, c, C)]);
      y[r * C + c] = Y(f(A(a[r * C + c]), other));
    }
  }
}

template <class A, class X>
void row_sum_cpu(A* sums, const X* a, int64_t rows, int64_t C) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < C; ++c) sum += A(a[r * C + c]);
    sums[r] = sum;
  }
}

// sums (C) are added to.
template <class A, class X>
void column_sum_cpu(A* sums, const X* a, int64_t rows, int64_t C) {
  sum_over_rows(sums, C, rows, [=](int64_t begin, int64_t end, A* partial) {
    for (int64_t r = begin; r < end; ++r) {
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) partial[c] += A(a[r * C + c]);
    }
  });
}

// (3) The kernels ---------------------------------------------------------------------------------

// One thread per element: reads a (and b, where there is one for each element), writes y.
template <class F, Along along, class Y, class X, class B>
__global__ void map_kernel(F f, Y* y, const X* a, const B* b, unsigned n, unsigned C) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float other = along == Along::none ? 0.0f : float(b[index_of<along>(i / C, i % C, C)]);
  y[i] = Y(f(float(a[i]), other));
}

// One warp per row, 8 of them in a block of 32 x 8. Reads a.
template <class X>
__global__ void row_sum_kernel(float* sums, const X* a, int64_t rows, int64_t C) {
  const int64_t r = int64_t(blockIdx.x) * 8 + threadIdx.y;
  if (r >= rows) return;  // all lanes of the warp
  float sum = 0;
  for (int64_t c = threadIdx.x; c < C; c += 32) sum += float(a[r * C + c]);
  sum = warp_sum(sum);
  if (threadIdx.x == 0) sums[r] = sum;
}

// A block of 32 x 8 owns 32 channels and every (8 gridDim.y)-th row; one partial sum per channel.
// Reads a.
template <class X>
__global__ void column_sum_kernel(float* partials, const X* a, int64_t rows, int64_t C) {
  SHARED(float, tile, [8][32]);
  const int64_t c = int64_t(blockIdx.x) * 32 + threadIdx.x;
  float sum = 0;
  for (int64_t r = blockIdx.y * 8 + threadIdx.y; r < rows && c < C; r += gridDim.y * 8) {
    sum += float(a[r * C + c]);
  }
  tile[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= C) return;
  sum = 0;
  for (int y = 0; y < 8; ++y) sum += tile[y][threadIdx.x];
  partials[blockIdx.y * C + c] = sum;
}

// (4) The passes, on either side ------------------------------------------------------------------

// T: of the activations; S: of those around the statistics, f32 where T is bf16.
template <class T>
class Passes {
 public:
  using S = Acc<T>;

  Passes(Tape& tape, int64_t rows, int64_t C, double* moved)
      : tape_(tape), rows_(rows), C_(C), moved_(moved) {}

  template <class Y>
  Y* tensor() {
    return tape_.scratch<Y>(rows_ * C_);
  }

  template <Along along, class F, class Y, class X, class B>
  Y* map(F f, Y* y, const X* a, const B* b) {
    count(sizeof(Y) + sizeof(X) + (along == Along::element ? sizeof(B) : 0));
    apply<along>(f, y, a, b, rows_, C_);
    return y;
  }
  template <class Y, class X>
  Y* copy(Y* y, const X* a) {
    return map<Along::none>(Copy{}, y, a, a);
  }
  template <class X>
  S* row_sum(const X* a) {
    count(sizeof(X));
    return sum_rows(a, rows_, C_);
  }
  // Of everything, added to *sum.
  template <class X>
  void total_sum(S* sum, const X* a) {
    S* of_rows = row_sum(a);
    S* of_all = sum_rows(of_rows, 1, rows_);
    apply<Along::element>(Add{}, sum, sum, of_all, 1, 1);
  }
  template <class X>
  void column_sum(S* sums, const X* a) {
    count(sizeof(X));
    if constexpr (cpu_computes<T>) {
      if (tape_.on_cpu()) return column_sum_cpu(sums, a, rows_, C_);
    }
    if constexpr (gpu_computes<T>) {
      const unsigned columns = blocks_for(C_, 32);
      const unsigned parts = unsigned(row_parts(rows_, columns, 32));
      float* partials = tape_.scratch<float>(parts * C_);
      launch(column_sum_kernel<X>, dim3(columns, parts), dim3(32, 8))(partials, a, rows_, C_);
      add_partials_gpu(sums, partials, parts, C_);
    }
  }
  // y = f(a, b) of one number per row; what this moves does not count.
  template <class F>
  void per_row(F f, const S* a, const S* b, S* y) {
    apply<Along::element>(f, y, a, b, 1, rows_);
  }

 private:
  void count(size_t bytes_per_element) {
    if (moved_) *moved_ += double(bytes_per_element) * double(rows_ * C_);
  }
  template <Along along, class F, class Y, class X, class B>
  void apply(F f, Y* y, const X* a, const B* b, int64_t rows, int64_t C) {
    if constexpr (cpu_computes<T>) {
      if (tape_.on_cpu()) return map_cpu<F, along>(f, y, a, b, rows, C);
    }
    if constexpr (gpu_computes<T>) {
      launch(map_kernel<F, along, Y, X, B>, blocks_for(rows * C, 256), 256)(
          f, y, a, b, unsigned(rows * C), unsigned(C));
    }
  }
  template <class X>
  S* sum_rows(const X* a, int64_t rows, int64_t C) {
    S* sums = tape_.scratch<S>(rows);
    if constexpr (cpu_computes<T>) {
      if (tape_.on_cpu()) {
        row_sum_cpu(sums, a, rows, C);
        return sums;
      }
    }
    if constexpr (gpu_computes<T>) {
      launch(row_sum_kernel<X>, blocks_for(rows, 8), dim3(32, 8))(sums, a, rows, C);
    }
    return sums;
  }

  Tape& tape_;
  int64_t rows_, C_;
  double* moved_;
};

// In another number type, or as it is where the types agree.
template <class Y, class T, class X>
Y* as_type(Passes<T>& passes, X* a) {
  if constexpr (std::is_same_v<X, Y>) {
    return a;
  } else {
    return passes.copy(passes.template tensor<Y>(), a);
  }
}

// Where the last pass writes: dx itself if it may overwrite it and the types agree.
template <class Y, class T>
Y* destination(Passes<T>& passes, const GradientTarget<T>& dx) {
  if constexpr (std::is_same_v<Y, T>) {
    if (dx && !dx.add) return dx.data;
  }
  return passes.template tensor<Y>();
}

// What the last pass wrote, into dx or added to it, if it isn't there yet.
template <class T, class X>
void deliver(Passes<T>& passes, const GradientTarget<T>& dx, X* result) {
  if (!dx || static_cast<void*>(dx.data) == static_cast<void*>(result)) return;
  if (dx.add) {
    passes.template map<Along::element>(Add{}, dx.data, dx.data, result);
  } else {
    passes.copy(dx.data, result);
  }
}

// (5) LayerNorm and RMSNorm -----------------------------------------------------------------------

template <class T>
struct Saved {       // by the forward pass, of a norm with statistics
  Acc<T>* centered;  // x - mean, or x
  Acc<T>* rstd;      // (rows)
  T* xhat;
};

template <bool centers, class T>
Saved<T> normalise(Passes<T>& passes, T* x, float epsilon, int64_t C) {
  using S = Acc<T>;
  S* wide = as_type<S>(passes, x);
  if (centers) {
    S* mean = passes.row_sum(wide);
    passes.per_row(Mean{double(C)}, mean, mean, mean);
    wide = passes.template map<Along::row>(Subtract{}, passes.template tensor<S>(), wide, mean);
  }
  S* squares = passes.template map<Along::none>(Square{}, passes.template tensor<S>(), wide, wide);
  S* rstd = passes.row_sum(squares);
  passes.per_row(Rstd{double(C), epsilon}, rstd, rstd, rstd);
  S* xhat = passes.template map<Along::row>(Multiply{}, passes.template tensor<S>(), wide, rstd);
  return {wide, rstd, as_type<T>(passes, xhat)};
}

// Gamma and beta: the gradient of xhat.
template <class T, class A>
T* affine_backward(Passes<T>& passes, const T* dy, const T* xhat, const A* gamma, A* dgamma,
                   A* dbeta) {
  if (dbeta) passes.column_sum(dbeta, dy);
  if (dgamma) {
    passes.column_sum(dgamma, passes.template map<Along::element>(
                                  Multiply{}, passes.template tensor<T>(), dy, xhat));
  }
  return passes.template map<Along::channel>(Multiply{}, passes.template tensor<T>(), dy, gamma);
}

template <bool centers, class T>
void normalise_backward(Passes<T>& passes, const GradientTarget<T>& dx, T* dxhat,
                        const Saved<T>& saved, int64_t C) {
  using S = Acc<T>;
  const auto tensor = [&] { return passes.template tensor<S>(); };
  S* g = as_type<S>(passes, dxhat);
  S* slope =
      passes.row_sum(passes.template map<Along::element>(Multiply{}, tensor(), g, saved.centered));
  passes.per_row(RstdSlope{double(C)}, saved.rstd, slope, slope);
  S* direct = passes.template map<Along::row>(Multiply{}, tensor(), g, saved.rstd);
  S* by_way = passes.template map<Along::row>(Multiply{}, tensor(), saved.centered, slope);
  S* last = destination<S>(passes, dx);
  S* sum = passes.template map<Along::element>(Add{}, centers ? tensor() : last, direct, by_way);
  if (centers) {
    S* mean = passes.row_sum(sum);
    passes.per_row(Mean{double(C)}, mean, mean, mean);
    passes.template map<Along::row>(Subtract{}, last, sum, mean);
  }
  deliver(passes, dx, last);
}

// (6) The op --------------------------------------------------------------------------------------

template <class T>
T* affine(Passes<T>& passes, T* y, T* xhat, const UnfusedParameters& p) {
  T* scaled = p.beta ? passes.template tensor<T>() : y;
  passes.template map<Along::channel>(Multiply{}, scaled, xhat, values_of<T>(p.gamma));
  if (p.beta) passes.template map<Along::channel>(Add{}, y, scaled, values_of<T>(p.beta));
  return y;
}

template <bool centers, class T>
void run_statistics(Tape& tape, const Tensor& x, const Tensor& y, const UnfusedParameters& p,
                    float epsilon, double* moved) {
  const int64_t rows = x.rows(), C = x.channels();
  Passes<T> passes(tape, rows, C, moved);
  const Saved<T> saved = normalise<centers>(passes, x.as<T>(), epsilon, C);
  affine(passes, y.as<T>(), saved.xhat, p);
  tape.record(y, [=, &tape] {
    Passes<T> back(tape, rows, C, moved);
    T* dxhat =
        affine_backward(back, tape.gradient_of_output<T>(y), saved.xhat, values_of<T>(p.gamma),
                        gradient_of<T>(p.gamma), gradient_of<T>(p.beta));
    normalise_backward<centers>(back, tape.gradient<T>(x), dxhat, saved, C);
  });
}

template <class T>
void run_dyt(Tape& tape, const Tensor& x, const Tensor& y, const UnfusedParameters& p,
             double* moved) {
  const int64_t rows = x.rows(), C = x.channels();
  Passes<T> passes(tape, rows, C, moved);
  T* z = passes.template map<Along::scalar>(Multiply{}, passes.template tensor<T>(), x.as<T>(),
                                            values_of<T>(p.alpha));
  T* f = passes.template map<Along::none>(Tanh{}, passes.template tensor<T>(), z, z);
  affine(passes, y.as<T>(), f, p);
  tape.record(y, [=, &tape] {
    Passes<T> back(tape, rows, C, moved);
    const auto tensor = [&] { return back.template tensor<T>(); };
    T* df = affine_backward(back, tape.gradient_of_output<T>(y), f, values_of<T>(p.gamma),
                            gradient_of<T>(p.gamma), gradient_of<T>(p.beta));
    T* dz = back.template map<Along::element>(TanhSlope{}, tensor(), df, f);
    back.total_sum(gradient_of<T>(p.alpha),
                   back.template map<Along::element>(Multiply{}, tensor(), dz, x.as<T>()));
    const auto dx = tape.gradient<T>(x);
    T* last = destination<T>(back, dx);
    back.template map<Along::scalar>(Multiply{}, last, dz, values_of<T>(p.alpha));
    deliver(back, dx, last);
  });
}

}  // namespace

Tensor unfused_norm(Tape& tape, const Tensor& x, NormKind kind, const UnfusedParameters& p,
                    float epsilon, double* moved) {
  const int64_t C = x.channels();
  require(kind == NormKind::layernorm || kind == NormKind::rmsnorm || kind == NormKind::dyt,
          "there is an unfused layernorm, rmsnorm and dyt, but no ", name_of(kind));
  require(p.gamma && p.gamma->size() == C && (!p.beta || p.beta->size() == C) &&
              (kind != NormKind::dyt || (p.alpha && p.alpha->size() == 1)),
          "an unfused norm of ", C,
          " channels needs a gamma, perhaps a beta, of that size, and "
          "dyt an alpha");
  require(x.size() < (int64_t(1) << 32), "unfused norm: ", x.size(),
          " numbers are more than a kernel can count");
  const Tensor y = tape.empty(x.shape, x.dtype);
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    if (kind == NormKind::layernorm) return run_statistics<true, T>(tape, x, y, p, epsilon, moved);
    if (kind == NormKind::rmsnorm) return run_statistics<false, T>(tape, x, y, p, epsilon, moved);
    run_dyt<T>(tape, x, y, p, moved);
  });
  return y;
}

}  // namespace dyt
