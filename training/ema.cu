#include <algorithm>
#include <utility>

#include "core/dispatch.h"
#include "core/kernel.h"
#include "training/ema.h"

namespace dyt {
namespace {

// (1) The CPU loops -------------------------------------------------------------------------------

template <class A>
void average_cpu(A* average, const A* w, A share, int64_t n) {
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i) average[i] += share * (w[i] - average[i]);
}

template <class A>
void swap_cpu(A* average, A* w, int64_t n) {
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i) {
    const A v = w[i];
    w[i] = average[i];
    average[i] = v;
  }
}

// (2) The kernels ---------------------------------------------------------------------------------

// One thread per 4 elements; 12 bytes an element: both read, the average written.
__global__ void average_kernel(float* average, const float* w, const float* share_of_w, int64_t n) {
  const int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
  if (i >= n) return;
  const float share = *share_of_w;
  Pack<float> a = load<4>(average + i);
  const Pack<float> v = load<4>(w + i);
#pragma unroll
  for (int k = 0; k < 4; ++k) a.v[k] += share * (v.v[k] - a.v[k]);
  store<4>(average + i, a);
}

// One thread per 4 elements; 16 bytes an element, and 2 for a copy.
__global__ void swap_kernel(float* average, float* w, bf16* copy, int64_t n) {
  const int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
  if (i >= n) return;
  const Pack<float> a = load<4>(average + i), v = load<4>(w + i);
  store<4>(average + i, v);
  store<4>(w + i, a);
  if (!copy) return;
  Pack<bf16, 4> narrow;
#pragma unroll
  for (int k = 0; k < 4; ++k) narrow.v[k] = bf16(a.v[k]);
  store<4>(copy + i, narrow);
}

}  // namespace

// (3) The average ---------------------------------------------------------------------------------

WeightAverage::WeightAverage(Parameters& parameters, double decay, bool warm_up)
    : parameters_(parameters), decay_(decay), warm_up_(warm_up) {
  require(decay >= 0 && decay < 1, "the decay of a weight average is in [0, 1), not ", decay);
  const size_t size = size_of(accumulator_of(parameters.dtype()));
  const size_t weights = size_t(parameters.flat_size()) * size;
  const size_t buffers = size_t(parameters.buffer_size()) * size;
  averages_ = Buffer(parameters.device(), weights + buffers);
  share_ = Buffer(parameters.device(), size);
  restart();
  if (buffers == 0) return;
  copy_on_device(parameters.device(), static_cast<char*>(averages_.data()) + weights,
                 parameters.buffer_values(), buffers);
}

// The buffers' averages go on as they are: what was measured for alpha doesn't concern them.
void WeightAverage::restart() {
  const size_t size = size_of(accumulator_of(parameters_.dtype()));
  copy_on_device(parameters_.device(), averages_.data(), parameters_.masters(),
                 size_t(parameters_.flat_size()) * size);
}

// Calls body(average, live, copy, n) for the weights, and for the buffers if there are any.
template <class A, class Body>
void WeightAverage::for_both(Body&& body) {
  A* average = static_cast<A*>(averages_.data());
  const int64_t n = parameters_.flat_size();
  body(average, static_cast<A*>(parameters_.masters()), static_cast<bf16*>(parameters_.copies()),
       n);
  if (parameters_.buffer_size() == 0) return;
  body(average + n, static_cast<A*>(parameters_.buffer_values()), static_cast<bf16*>(nullptr),
       parameters_.buffer_size());
}

void WeightAverage::prepare() {
  require(!swapped_, "the weights are exchanged with their average: swap() back before step()");
  const double t = double(updates_++);
  const double share = 1 - (warm_up_ ? std::min(decay_, (1 + t) / (10 + t)) : decay_);
  const float share_f32 = float(share);
  const bool wide = parameters_.dtype() == DType::f64;
  put_on_device(parameters_.device(), share_.data(),
                wide ? static_cast<const void*>(&share) : &share_f32, share_.bytes());
}

void WeightAverage::update() {
  if (parameters_.device() == Device::cpu) {
    on_cpu(parameters_.dtype(), [&](auto v) {
      using A = decltype(v);
      const A share = *static_cast<const A*>(share_.data());
      for_both<A>(
          [&](A* average, const A* w, bf16*, int64_t n) { average_cpu(average, w, share, n); });
    });
  } else {
    for_both<float>([&](float* average, const float* w, bf16*, int64_t n) {
      launch(average_kernel, blocks_for(n, 4 * 256), 256)(
          average, w, static_cast<const float*>(share_.data()), n);
    });
  }
  copy_counts();
}

// What counts batches is the same for the average, and a whole number.
void WeightAverage::copy_counts() {
  const int64_t from = parameters_.counts_from(), n = parameters_.buffer_size() - from;
  if (n == 0) return;
  const size_t size = size_of(accumulator_of(parameters_.dtype()));
  copy_on_device(
      parameters_.device(),
      static_cast<char*>(averages_.data()) + size_t(parameters_.flat_size() + from) * size,
      static_cast<char*>(parameters_.buffer_values()) + size_t(from) * size, size_t(n) * size);
}

void WeightAverage::swap() {
  swapped_ = !swapped_;
  if (parameters_.device() == Device::cpu) {
    return on_cpu(parameters_.dtype(), [&](auto v) {
      using A = decltype(v);
      for_both<A>([&](A* average, A* w, bf16*, int64_t n) { swap_cpu(average, w, n); });
    });
  }
  for_both<float>([&](float* average, float* w, bf16* copy, int64_t n) {
    launch(swap_kernel, blocks_for(n, 4 * 256), 256)(average, w, copy, n);
  });
}

}  // namespace dyt
