// (1) The mathematics, with g the gradient, lr the step's learning rate, and decay = weight_decay
//     for matrices and 0 for vectors and scalars (heavy-ball momentum, as PyTorch's SGD has it: the
//     velocity is a sum of gradients, and lr multiplies all of it):
//
//       v <- momentum v + g + decay w
//       w <- w - lr v
//
//     One pass over flat buffers: 20 bytes a parameter (w, v read and written, g read), and 2 more
//     to refresh a bf16 copy.
#include "core/dispatch.h"
#include "core/kernel.h"
#include "training/sgd.h"

namespace dyt {
namespace {

template <class A>
HOST_DEVICE inline void update(A& w, A& v, A g, A decay, A momentum, A lr) {
  v = momentum * v + g + decay * w;
  w -= lr * v;
}

// (2) The CPU loop --------------------------------------------------------------------------------

template <class A>
void sgd_cpu(A* w, A* v, const A* g, int64_t n, int64_t decayed, A decay, A momentum, A lr) {
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i)
    update(w[i], v[i], g[i], i < decayed ? decay : A(0), momentum, lr);
}

// (3) The kernel ----------------------------------------------------------------------------------

// One thread per element: consecutive threads, consecutive addresses in all three buffers.
__global__ void sgd_kernel(float* w, bf16* copy, float* v, const float* g, int64_t n,
                           int64_t decayed, float decay, float momentum, const float* lr) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float w_i = w[i], v_i = v[i];
  update(w_i, v_i, g[i], i < decayed ? decay : 0.0f, momentum, *lr);
  w[i] = w_i;
  v[i] = v_i;
  if (copy) copy[i] = bf16(w_i);
}

}  // namespace

// (4) The optimizer -------------------------------------------------------------------------------

Sgd::Sgd(Parameters& parameters, const SgdOptions& options)
    : parameters_(parameters),
      options_(options),
      velocity_(parameters.device(),
                size_t(parameters.flat_size()) * size_of(accumulator_of(parameters.dtype()))),
      lr_(parameters.device(), sizeof(float)) {
  require(options.momentum >= 0 && options.momentum < 1, "momentum must be in [0, 1), not ",
          options.momentum);
  fill_zero(parameters.device(), velocity_.data(), velocity_.bytes());
}

void Sgd::prepare(float lr) { put_on_device(parameters_.device(), lr_.data(), &lr, sizeof lr); }

void Sgd::update() {
  const float* lr = static_cast<const float*>(lr_.data());
  const int64_t n = parameters_.flat_size(), decayed = parameters_.decayed_size();
  if (parameters_.device() == Device::cpu) {
    on_cpu(parameters_.dtype(), [&](auto t) {
      using A = decltype(t);
      sgd_cpu(static_cast<A*>(parameters_.masters()), static_cast<A*>(velocity_.data()),
              static_cast<const A*>(parameters_.gradients()), n, decayed, A(options_.weight_decay),
              A(options_.momentum), A(*lr));
    });
    return;
  }
  launch(sgd_kernel, blocks_for(n, 256), 256)(
      static_cast<float*>(parameters_.masters()), static_cast<bf16*>(parameters_.copies()),
      static_cast<float*>(velocity_.data()), static_cast<const float*>(parameters_.gradients()), n,
      decayed, options_.weight_decay, options_.momentum, lr);
}

}  // namespace dyt
