#include "core/dispatch.h"
#include "core/gradient.h"
#include "core/kernel.h"
#include "core/rounding.h"

namespace dyt {
namespace {

// One thread per pack; moves three numbers per element.
template <int V, class T>
__global__ void add_kernel(T* dx, const T* dy, int64_t packs) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  Pack<T, V> sum = load<V>(dx + p * V);
  const Pack<T, V> more = load<V>(dy + p * V);
#pragma unroll
  for (int i = 0; i < V; ++i) sum.v[i] = T(float(sum.v[i]) + float(more.v[i]));
  store<V>(dx + p * V, sum);
}

template <class T>
void add_gpu(T* dx, const T* dy, int64_t n) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(n);
  launch(V == full ? add_kernel<full, T> : add_kernel<1, T>, blocks_for(n / V, 256), 256)(dx, dy,
                                                                                          n / V);
}

}  // namespace

void add_gradient(Tape& tape, const Tensor& y, const Tensor& x) {
  if (!x.grad || tape.pass_gradient(y, x)) return;
  on_either_with_bf16(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    const auto dx = tape.gradient<T>(x);
    const T* dy = tape.gradient_of_output<T>(y);
    if (tape.on_cpu()) return add(dx.data, dy, x.size());
    if constexpr (gpu_computes<T>) add_gpu(dx.data, dy, x.size());
  });
}

}  // namespace dyt
