// (1) The mathematics, with g the gradient after clipping, t the step, lr its learning rate, and
//     decay = weight_decay for matrices and 0 for vectors and scalars (algorithm 2 of 1711.05101,
//     in the order of operations of PyTorch, which multiplies the decay by lr):
//
//       g <- g * min(1, max_norm / (|g| + 1e-6))         |g| over all parameters together
//       w <- w - lr decay w
//       m <- beta1 m + (1 - beta1) g         v <- beta2 v + (1 - beta2) g^2
//       w <- w - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + epsilon)
//
//     All of it is one pass over flat buffers: 28 bytes a parameter (w, m, v read and written, g
//     read), and 2 more to refresh a bf16 copy.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/dispatch.h"
#include "core/kernel.h"
#include "core/reduce.h"
#include "training/adamw.h"

namespace dyt {
namespace {

// The numbers of one step.
template <class A>
struct Step {
  A beta1, beta2, epsilon, decay, lr, first_correction, second_correction, max_norm;
};

template <class A>
HOST_DEVICE inline void update(A& w, A& m, A& v, A g, bool decayed, A scale, const Step<A>& s) {
  g *= scale;
  if (decayed) w -= s.lr * s.decay * w;
  m = s.beta1 * m + (1 - s.beta1) * g;
  v = s.beta2 * v + (1 - s.beta2) * g * g;
  w -= s.lr / s.first_correction * m / (sqrt(v / s.second_correction) + s.epsilon);
}

template <class A>
HOST_DEVICE inline A clip_scale(A norm, A max_norm) {
  if (max_norm <= 0 || norm + A(1e-6) <= max_norm) return A(1);
  return max_norm / (norm + A(1e-6));
}

// (2) The CPU loops -------------------------------------------------------------------------------

template <class A>
void sum_of_squares_cpu(A* sum, const A* x, int64_t n) {
  *sum = 0;
  sum_over_rows(sum, 1, n, [&](int64_t begin, int64_t end, A* partial) {
    const A* from = x + begin;  // g++ gathers what a loop from 0 on would read in one piece
    A s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < end - begin; ++i) s += from[i] * from[i];
    *partial += s;
  });
}

template <class A>
void adamw_cpu(A* w, A* m, A* v, const A* g, int64_t n, int64_t decayed, const A* squares,
               Step<A> s) {
  const A scale = clip_scale(A(std::sqrt(*squares)), s.max_norm);
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i) update(w[i], m[i], v[i], g[i], i < decayed, scale, s);
}

// (3) The kernels ---------------------------------------------------------------------------------

// Each block sums a contiguous part, a multiple of 4 numbers; 4 bytes read per element.
__global__ void __launch_bounds__(256)
    sum_of_squares_kernel(float* partials, const float* x, int64_t n, int64_t part) {
  const int64_t begin = blockIdx.x * part, end = begin + part < n ? begin + part : n;
  float sum = 0;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x * 4; i < end; i += 256 * 4) {
    const Pack<float> in = load<4>(x + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += in.v[k] * in.v[k];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// One thread per 4 elements, 16 bytes of each buffer (flat buffers are a multiple of that long).
__global__ void __launch_bounds__(256)
    adamw_kernel(float* w, bf16* copy, float* m, float* v, const float* g, int64_t n,
                 int64_t decayed, const float* squares, const Step<float>* step) {
  const int64_t first = (int64_t(blockIdx.x) * 256 + threadIdx.x) * 4;
  if (first >= n) return;
  const Step<float> s = *step;
  Pack<float> w_i = load<4>(w + first), m_i = load<4>(m + first), v_i = load<4>(v + first);
  const Pack<float> g_i = load<4>(g + first);
  const float scale = clip_scale(sqrtf(*squares), s.max_norm);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    update(w_i.v[k], m_i.v[k], v_i.v[k], g_i.v[k], first + k < decayed, scale, s);
  }
  store<4>(w + first, w_i);
  store<4>(m + first, m_i);
  store<4>(v + first, v_i);
  if (copy) store<4>(copy + first, w_i.v);
}

constexpr int64_t norm_parts = 1024;

}  // namespace

// (4) The optimizer -------------------------------------------------------------------------------

AdamW::AdamW(Parameters& parameters, const AdamWOptions& options)
    : parameters_(parameters), options_(options) {
  const Device device = parameters.device();
  const size_t bytes = size_t(parameters.flat_size()) * size_of(accumulator_of(parameters.dtype()));
  first_ = Buffer(device, bytes);
  second_ = Buffer(device, bytes);
  norm_partials_ = Buffer(device, (norm_parts + 1) * sizeof(double));
  numbers_ = Buffer(device, sizeof(Step<double>));
  fill_zero(device, first_.data(), bytes);
  fill_zero(device, second_.data(), bytes);
  fill_zero(device, norm_partials_.data(), norm_partials_.bytes());
}

void AdamW::prepare(float lr) {
  ++steps_;
  const auto put = [&](auto a) {
    using A = decltype(a);
    const Step<A> step{.beta1 = A(options_.beta1),
                       .beta2 = A(options_.beta2),
                       .epsilon = A(options_.epsilon),
                       .decay = A(options_.weight_decay),
                       .lr = A(lr),
                       .first_correction = A(1 - std::pow(double(options_.beta1), double(steps_))),
                       .second_correction = A(1 - std::pow(double(options_.beta2), double(steps_))),
                       .max_norm = A(options_.max_norm)};
    put_on_device(parameters_.device(), numbers_.data(), &step, sizeof step);
  };
  parameters_.dtype() == DType::f64 ? put(double{}) : put(float{});
}

void AdamW::update() {
  const int64_t n = parameters_.flat_size(), decayed = parameters_.decayed_size();
  if (parameters_.device() == Device::cpu) {
    on_cpu(parameters_.dtype(), [&](auto t) {
      using A = decltype(t);
      A* squares = static_cast<A*>(norm_partials_.data());
      const A* g = static_cast<const A*>(parameters_.gradients());
      sum_of_squares_cpu(squares, g, n);
      adamw_cpu(static_cast<A*>(parameters_.masters()), static_cast<A*>(first_.data()),
                static_cast<A*>(second_.data()), g, n, decayed, squares,
                *static_cast<const Step<A>*>(numbers_.data()));
    });
    return;
  }
  float* squares = static_cast<float*>(norm_partials_.data());
  const float* g = static_cast<const float*>(parameters_.gradients());
  require(n % 4 == 0, "adamw: flat buffers of ", n, " numbers are no whole packs of 4");
  const int64_t part = std::max<int64_t>(4096, (n + norm_parts * 4 - 1) / (norm_parts * 4) * 4);
  const unsigned parts = blocks_for(n, part);
  launch(sum_of_squares_kernel, parts, 256)(squares + 1, g, n, part);
  fill_zero(parameters_.device(), squares, sizeof(float));
  add_partials_gpu(squares, squares + 1, parts, 1);
  launch(adamw_kernel, blocks_for(n, 4 * 256), 256)(
      static_cast<float*>(parameters_.masters()), static_cast<bf16*>(parameters_.copies()),
      static_cast<float*>(first_.data()), static_cast<float*>(second_.data()), g, n, decayed,
      squares, static_cast<const Step<float>*>(numbers_.data()));
}

double AdamW::gradient_norm() const {
  if (parameters_.dtype() == DType::f64) {
    double squares = 0;
    copy_to_host(parameters_.device(), &squares, norm_partials_.data(), sizeof squares);
    return std::sqrt(squares);
  }
  float squares = 0;
  copy_to_host(parameters_.device(), &squares, norm_partials_.data(), sizeof squares);
  return std::sqrt(double(squares));
}

}  // namespace dyt
