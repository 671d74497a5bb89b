// Dropout (Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting",
// JMLR 2014), with the survivors scaled up, so that nothing has to be scaled when the model is
// used.
//
// (1) The mathematics. x, y of any shape, element i; drop in [0, 1); u(i) uniform in [0, 1):
//
//       keep(i) = 1 if u(i) >= drop, else 0         y = x keep / (1 - drop)
//       dx = dy keep / (1 - drop)
//
//     u is a pure function of (seed, step, op, i), see core/philox.h: the backward pass draws it
//     again and no mask is stored. Four elements share one draw of 128 bits.
#include <cmath>

#include "core/dispatch.h"
#include "core/kernel.h"
#include "layers/layers.h"

namespace dyt {
namespace {

struct Dropout {
  RandomStream random;
  float drop;
  template <class A>
  HOST_DEVICE A scale() const {
    return 1 / (1 - A(drop));
  }
  // uniform01(bits) >= drop if and only if bits >= limit(): u is the upper 24 of the bits, times
  // 2^-24, and what is compared are whole numbers.
  uint32_t limit() const { return uint32_t(std::ceil(drop * 0x1p24f)) << 8; }
};

// (2) The CPU loop --------------------------------------------------------------------------------

// y = x keep / (1 - drop) on n elements, added to y if `add`: both passes.
template <class T>
void dropout_cpu(T* y, bool add, const T* x, Dropout d, int64_t n) {
  const T scale = d.scale<T>();
#pragma omp parallel for
  for (int64_t quad = 0; quad < n / 4; ++quad) {
    const Random4 bits = d.random.bits(uint64_t(quad));
    for (int k = 0; k < 4; ++k) {
      const int64_t i = quad * 4 + k;
      y[i] = (add ? y[i] : T(0)) + (uniform01(bits.x[k]) >= d.drop ? x[i] * scale : T(0));
    }
  }
  for (int64_t i = n / 4 * 4; i < n; ++i) {
    const bool keep = uniform01(d.random.bits(uint64_t(i / 4)).x[i % 4]) >= d.drop;
    y[i] = (add ? y[i] : T(0)) + (keep ? x[i] * scale : T(0));
  }
}

// (3) The kernel ----------------------------------------------------------------------------------

// One thread per pack of V elements. Moves 4 bytes per element in bf16, 6 if y is added to. There
// is time for 28 instructions an element, and Philox takes 10 of them, although four elements share
// it: so nothing is divided here, and no bits become a float.
template <bool add, int V, class T>
__global__ void dropout_kernel(T* y, const T* x, RandomStream random, uint32_t limit, float scale,
                               int64_t packs) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const RandomStream now = random.settled();
  const Pack<T, V> in = load<V>(x + p * V);
  Pack<T, V> before{};
  if (add) before = load<V>(y + p * V);
  Random4 bits{};
  float out[V];
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const uint64_t element = uint64_t(p) * V + i;
    if (i % 4 == 0) bits = now.bits(element / 4);
    const uint32_t mine = V == 1 ? bits.x[element % 4] : bits.x[i % 4];
    const float kept = mine >= limit ? float(in.v[i]) * scale : 0.0f;
    out[i] = add ? float(before.v[i]) + kept : kept;
  }
  store<V>(y + p * V, out);
}

template <bool add, class T>
void dropout_gpu(T* y, const T* x, const Dropout& d, int64_t n) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(n);
  launch(V == full ? dropout_kernel<add, full, T> : dropout_kernel<add, 1, T>,
         blocks_for(n / V, 256), 256)(y, x, d.random, d.limit(), d.scale<float>(), n / V);
}

template <class T>
void apply_dropout(const Tape& tape, T* y, bool add, const T* x, Dropout d, int64_t n) {
  if constexpr (cpu_computes<T>) {
    if (tape.on_cpu()) return dropout_cpu(y, add, x, d, n);
  }
  if constexpr (gpu_computes<T>) {
    with_bool(add, [&](auto adds) { dropout_gpu<adds(), T>(y, x, d, n); });
  }
}

}  // namespace

// (4) The op --------------------------------------------------------------------------------------

Tensor dropout(Tape& tape, const Tensor& x, float drop) {
  require(drop >= 0 && drop < 1, "dropout: drop is a probability in [0, 1), not ", drop);
  if (!tape.training || drop == 0) return x;
  const Dropout d{tape.random(), drop};
  const Tensor y = tape.empty(x.shape, x.dtype);
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    apply_dropout(tape, y.as<T>(), false, static_cast<const T*>(x.as<T>()), d, x.size());
  });
  tape.record(y, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const auto dx = tape.gradient<T>(x);
      if (dx) apply_dropout(tape, dx.data, dx.add, tape.gradient_of_output<T>(y), d, x.size());
    });
  });
  return y;
}

}  // namespace dyt
