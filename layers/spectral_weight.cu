// Weights of a learned spectral norm: sigmaReparam, "Stabilizing Transformer Training by Preventing
// Attention Entropy Collapse" (arXiv 2303.06296). With every weight of a Transformer in
// this form, its authors train a ViT without a norm.
//
// (1) The mathematics. W (M, N): a linear layer's weight (Cout, Cin), or a convolution's with the
//     dimensions behind Cout taken as one; gamma one number:
//
//       W_hat = gamma / sigma(W) W            sigma(W): the largest singular value of W
//
//     so gamma is the spectral norm of W_hat, however W grows. sigma is found by power iteration
//     ("Spectral Normalization for Generative Adversarial Networks", 1802.05957, algorithm 1): u
//     (M) and v (N) stay from step to step, W changes little in a step, and so one iteration a step
//     is enough for them to follow W's first singular vectors:
//
//       v <- W' u / |W' u|        u <- W v / |W v|        sigma = u' W v
//
//     Backward, u and v taken as constants (at the singular vectors, d sigma / dW = u v' exactly),
//     with G = dW_hat and <G, W> the sum over all elements of their products:
//
//       dgamma = <G, W> / sigma         dW = gamma / sigma (G - <G, W> / sigma u v')
#include <algorithm>
#include <cmath>

#include "core/dispatch.h"
#include "core/philox.h"
#include "layers/column_walk.h"
#include "layers/norm_free.h"

namespace dyt {
namespace {

// One pass's pointers. sigma (1); u (M), v (N).
template <class A>
struct Spectral {
  const A *weight, *gamma;
  A *u, *v, *sigma;
  int64_t M, N;
};

constexpr double smallest_norm = 1e-12;  // what is divided by is at least this, as in PyTorch

// (2) The CPU loops -------------------------------------------------------------------------------

// x / |x|
template <class A>
void normalize_cpu(A* x, int64_t n) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += double(x[i]) * double(x[i]);
  const A norm = A(std::max(std::sqrt(squares), smallest_norm));
  for (int64_t i = 0; i < n; ++i) x[i] /= norm;
}

// y (N) = W' x
template <class A>
void transpose_times_cpu(A* y, const A* W, const A* x, int64_t M, int64_t N) {
  std::fill_n(y, N, A(0));
  sum_over_rows(y, N, M, [&](int64_t begin, int64_t end, A* partial) {
    for (int64_t r = begin; r < end; ++r) {
#pragma omp simd
      for (int64_t c = 0; c < N; ++c) partial[c] += x[r] * W[r * N + c];
    }
  });
}

// y (M) = W x
template <class A>
void times_cpu(A* y, const A* W, const A* x, int64_t M, int64_t N) {
#pragma omp parallel for
  for (int64_t r = 0; r < M; ++r) {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < N; ++c) sum += W[r * N + c] * x[c];
    y[r] = sum;
  }
}

template <class A>
void power_iteration_cpu(const Spectral<A>& s, int iterations) {
  std::vector<A> Wv(size_t(s.M));
  if (iterations == 0) times_cpu(Wv.data(), s.weight, s.v, s.M, s.N);
  for (int i = 0; i < iterations; ++i) {
    transpose_times_cpu(s.v, s.weight, s.u, s.M, s.N);
    normalize_cpu(s.v, s.N);
    times_cpu(Wv.data(), s.weight, s.v, s.M, s.N);
    std::copy(Wv.begin(), Wv.end(), s.u);
    normalize_cpu(s.u, s.M);
  }
  double sigma = 0;
  for (int64_t r = 0; r < s.M; ++r) sigma += double(s.u[r]) * double(Wv[size_t(r)]);
  *s.sigma = A(sigma);
}

template <class A>
void spectral_forward_cpu(A* effective, const Spectral<A>& s) {
  const A factor = *s.gamma / *s.sigma;
#pragma omp parallel for simd
  for (int64_t i = 0; i < s.M * s.N; ++i) effective[i] = factor * s.weight[i];
}

// dweight and dgamma are added to. g: the gradient of W_hat.
template <class A>
void spectral_backward_cpu(A* dweight, A* dgamma, const A* g, const Spectral<A>& s) {
  A inner = 0;
  sum_over_rows(&inner, 1, s.M * s.N, [&](int64_t begin, int64_t end, A* partial) {
    const A *g_0 = g + begin, *W_0 = s.weight + begin;  // as in sum_of_squares_cpu, adamw.cu
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < end - begin; ++i) sum += g_0[i] * W_0[i];
    *partial += sum;
  });
  const A factor = *s.gamma / *s.sigma, along = inner / *s.sigma;
  *dgamma += along;
#pragma omp parallel for
  for (int64_t r = 0; r < s.M; ++r) {
#pragma omp simd
    for (int64_t c = 0; c < s.N; ++c) {
      dweight[r * s.N + c] += factor * (g[r * s.N + c] - along * s.u[r] * s.v[c]);
    }
  }
}

// (3) The kernels ---------------------------------------------------------------------------------

// All read W or G once, 4 bytes per element. A weight is small beside the activations, so these are
// bound by being launched, not by memory; nothing waits for the host.

// partials (parts, N): the sums of W' u over a part of the rows, in a ColumnGrid.
template <int V>
__global__ void __launch_bounds__(256)
    transpose_times_kernel(float* partials, const float* W, const float* u, int64_t M, int64_t N) {
  const ColumnPlace at(V, M);
  float sum[V] = {};
  if (at.c < N) {
    for (int64_t r = at.begin + threadIdx.y; r < at.end; r += blockDim.y) {
      const Pack<float, V> in = load<V>(W + r * N + at.c);
#pragma unroll
      for (int i = 0; i < V; ++i) sum[i] += u[r] * in.v[i];
    }
  }
  write_column_sums<V>(partials + blockIdx.y * N, sum, N);
}

// One block: v (N) = the sum of the parts, over its norm.
__global__ void normalize_parts_kernel(float* v, const float* partials, int64_t parts, int64_t N) {
  float squares = 0;
  for (int64_t c = threadIdx.x; c < N; c += blockDim.x) {
    float sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += partials[part * N + c];
    v[c] = sum;
    squares += sum * sum;
  }
  const float norm = fmaxf(sqrtf(block_sum(squares)), float(smallest_norm));
  for (int64_t c = threadIdx.x; c < N; c += blockDim.x) v[c] /= norm;
}

// A warp for each row: Wv (M) = W v.
__global__ void times_kernel(float* Wv, const float* W, const float* v, int64_t M, int64_t N) {
  const int64_t r = int64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (r >= M) return;
  float sum = 0;
  for (int64_t c = threadIdx.x % 32; c < N; c += 32) sum += W[r * N + c] * v[c];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) Wv[r] = sum;
}

// One block: u = Wv / |Wv| if it is to move, and sigma = u' Wv.
__global__ void sigma_kernel(float* sigma, float* u, const float* Wv, bool move, int64_t M) {
  float squares = 0, product = 0;
  for (int64_t r = threadIdx.x; r < M; r += blockDim.x) squares += Wv[r] * Wv[r];
  const float norm = fmaxf(sqrtf(block_sum(squares)), float(smallest_norm));
  for (int64_t r = threadIdx.x; r < M; r += blockDim.x) {
    if (move) u[r] = Wv[r] / norm;
    product += u[r] * Wv[r];
  }
  product = block_sum(product);
  if (threadIdx.x == 0) *sigma = product;
}

// One thread per element: reads 4 bytes, writes 2 or 4.
template <class T>
__global__ void spectral_forward_kernel(T* effective, Spectral<float> s) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < s.M * s.N) effective[i] = T(*s.gamma / *s.sigma * s.weight[i]);
}

constexpr unsigned inner_parts = 64;

// partials (gridDim): <g, W> over every gridDim-th stretch.
__global__ void inner_product_kernel(float* partials, const float* g, const float* W, int64_t n) {
  float sum = 0;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += int64_t(gridDim.x) * blockDim.x) {
    sum += g[i] * W[i];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// One thread per element; every block adds up the parts of the inner product again.
__global__ void spectral_backward_kernel(float* dweight, float* dgamma, const float* g,
                                         const float* partials, unsigned parts, Spectral<float> s) {
  const float inner = block_sum(threadIdx.x < parts ? partials[threadIdx.x] : 0.0f);
  const float factor = *s.gamma / *s.sigma, along = inner / *s.sigma;
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i == 0) *dgamma += along;
  if (i < s.M * s.N) dweight[i] += factor * (g[i] - along * s.u[i / s.N] * s.v[i % s.N]);
}

void power_iteration_gpu(Tape& tape, const Spectral<float>& s, int iterations) {
  float* Wv = tape.scratch<float>(s.M);
  const ColumnGrid g = column_grid<float>(s.M, s.N);
  float* partials = tape.scratch<float>(g.parts * s.N);
  const auto times = [&] {
    launch(times_kernel, blocks_for(s.M, 8), 256)(Wv, s.weight, s.v, s.M, s.N);
    launch(sigma_kernel, 1, 256)(s.sigma, s.u, Wv, iterations > 0, s.M);
  };
  if (iterations == 0) times();
  for (int i = 0; i < iterations; ++i) {
    launch(g.V == 4 ? transpose_times_kernel<4> : transpose_times_kernel<1>, g.grid, g.block)(
        partials, s.weight, s.u, s.M, s.N);
    launch(normalize_parts_kernel, 1, 256)(s.v, partials, g.parts, s.N);
    times();
  }
}

void spectral_backward_gpu(Tape& tape, float* dweight, float* dgamma, const float* g,
                           const Spectral<float>& s) {
  const int64_t n = s.M * s.N;
  const unsigned parts = std::min(blocks_for(n, 4 * 256), inner_parts);
  float* partials = tape.scratch<float>(parts);
  launch(inner_product_kernel, parts, 256)(partials, g, s.weight, n);
  launch(spectral_backward_kernel, blocks_for(n, 256), 256)(dweight, dgamma, g, partials, parts, s);
}

// (4) The op --------------------------------------------------------------------------------------

void check_spectral(const SpectralParameters& p, int64_t M, int64_t N) {
  require(p.gamma->size() == 1, "spectral_weight: parameter ", p.gamma->name, " has ",
          p.gamma->size(), " elements, not one");
  require(p.u->size() == M && p.v->size() == N, "spectral_weight: ", p.u->name, " ",
          p.u->shape.text(), " and ", p.v->name, " ", p.v->shape.text(), " for a weight ",
          p.weight->name, " ", p.weight->shape.text(), " of ", M, " rows of ", N);
}

template <class T>
Spectral<Acc<T>> pointers(const SpectralParameters& p, const Tensor& sigma) {
  using A = Acc<T>;
  const int64_t M = p.weight->shape[0];
  return {p.weight->master_as<A>(),
          p.gamma->master_as<A>(),
          p.u->as<A>(),
          p.v->as<A>(),
          sigma.as<A>(),
          M,
          p.weight->size() / M};
}

}  // namespace

void spectral_weight(Tape& tape, Parameter& effective, const SpectralParameters& p,
                     int iterations) {
  const Shape shape = p.weight->shape;
  check_spectral(p, shape[0], shape.size() / shape[0]);
  const Tensor sigma = tape.constant({1}, accumulator_of(p.weight->dtype));
  const Tensor y = tape.empty(shape, p.weight->dtype);
  static_cast<Tensor&>(effective) = y;
  effective.name = p.weight->name;
  on_either(tape, y.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    const Spectral<A> s = pointers<T>(p, sigma);
    const int steps = tape.training ? iterations : 0;
    if (tape.training) {  // a parameter's gradient is added to: it starts at 0
      y.grad->data = tape.scratch<A>(y.size()), y.grad->filled = true;
      fill_zero(tape.device(), y.grad->data, size_t(y.size()) * sizeof(A));
    }
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        power_iteration_cpu(s, steps);
        return spectral_forward_cpu(y.as<T>(), s);
      }
    }
    if constexpr (gpu_computes<T>) {
      power_iteration_gpu(tape, s, steps);
      launch(spectral_forward_kernel<T>, blocks_for(y.size(), 256), 256)(y.as<T>(), s);
    }
  });
  tape.record(y, [=, &tape] {
    on_either(tape, y.dtype, [&](auto t) {
      using T = decltype(t);
      const Spectral<Acc<T>> s = pointers<T>(p, sigma);
      const Acc<T>* g = static_cast<const Acc<T>*>(y.grad->data);
      if constexpr (cpu_computes<T>) {
        if (tape.on_cpu()) {
          return spectral_backward_cpu(gradient_of<T>(p.weight), gradient_of<T>(p.gamma), g, s);
        }
      }
      if constexpr (gpu_computes<T>) {
        spectral_backward_gpu(tape, gradient_of<T>(p.weight), gradient_of<T>(p.gamma), g, s);
      }
    });
  });
}

// (5) The weight of a model -----------------------------------------------------------------------

namespace {

// Unless u and v are there already, from a checkpoint: puts them at the first singular vectors of
// the weight as it starts, by enough iterations from random ones, and gamma at sigma; in f64 on the
// host, so equal on every device.
void start_spectral(Parameters& parameters, const SpectralParameters& p) {
  constexpr int enough = 50;
  const int64_t M = p.weight->shape[0], N = p.weight->size() / M;
  const std::vector<double> W = parameters.values(*p.weight), gamma = {1};
  std::vector<double> u = parameters.values(*p.u), v(static_cast<size_t>(N));
  if (std::any_of(u.begin(), u.end(), [](double x) { return x != 0; })) return;
  RandomSequence random(static_cast<uint64_t>(M), static_cast<uint64_t>(N));
  for (double& x : u) x = random.normal();
  double sigma = 0;
  power_iteration_cpu<double>({W.data(), gamma.data(), u.data(), v.data(), &sigma, M, N}, enough);
  require(sigma > 0, "sigmaReparam needs a weight that starts with a number other than 0, which ",
          p.weight->name, " does not");
  parameters.set_values(*p.u, u);
  parameters.set_values(*p.v, v);
  parameters.set_values(*p.gamma, {sigma});
}

}  // namespace

Weight::Weight(Parameters& parameters, const std::string& name, Shape shape, Init init,
               bool spectral) {
  p_.weight = &parameters.add(name, shape, init);
  if (!spectral) return;
  const std::string layer = name.substr(0, name.rfind('.') + 1);
  p_.gamma = &parameters.add(layer + "gamma", {1}, Init::ones());
  p_.u = &parameters.add_buffer(layer + "u", {shape[0]}, 0);
  p_.v = &parameters.add_buffer(layer + "v", {shape.size() / shape[0]}, 0);
  parameters_ = &parameters;
}

const Parameter& Weight::operator()(Tape& tape) const {
  if (!p_.gamma) return *p_.weight;
  if (!started_) start_spectral(*parameters_, p_);
  started_ = true;
  spectral_weight(tape, effective_, p_);
  return effective_;
}

}  // namespace dyt
