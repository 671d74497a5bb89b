// Sinusoidal positions ("Attention Is All You Need", arXiv 1706.03762, sections 3.4 and 3.5): what
// tells a Transformer where in a text a token stands, without anything to learn.
//
// (1) The mathematics. x, y (B, T, C); a factor, sqrt(C) in the paper, which brings embeddings of
//     variance 1 / C to the size of the waves; i in {0 .. C/2 - 1}:
//
//       wave(t, 2i)     = sin(t / 10000^(2i / C))
//       wave(t, 2i + 1) = cos(t / 10000^(2i / C))
//       y[b, t] = factor x[b, t] + wave(first + t)          dx = factor dy
//
//     The waves are the same for all samples: they are computed once, in f64, and kept.
#include <cmath>

#include "core/dispatch.h"
#include "core/kernel.h"
#include "layers/texts.h"

namespace dyt {
namespace {

HOST_DEVICE inline double wave(int64_t t, int64_t c, int64_t C) {
  const double angle = double(t) * pow(10000.0, -double(c / 2 * 2) / double(C));
  return c % 2 == 0 ? sin(angle) : cos(angle);
}

// (2) The CPU loops -------------------------------------------------------------------------------

template <class T>
void waves_cpu(T* waves, int64_t tokens, int64_t C, int64_t first) {
#pragma omp parallel for
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < C; ++c) waves[t * C + c] = T(wave(first + t, c, C));
  }
}

// y = factor x + waves, of `sample` numbers each; without waves: y += factor x if `add`.
template <class T>
void add_sinusoids_cpu(T* y, bool add, const T* x, const T* waves, T factor, int64_t samples,
                       int64_t sample) {
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < samples; ++b) {
    for (int64_t i = 0; i < sample; ++i) {
      const int64_t n = b * sample + i;
      y[n] = (add ? y[n] : T(0)) + factor * x[n] + (waves ? waves[i] : T(0));
    }
  }
}

// (3) The kernels ---------------------------------------------------------------------------------

// One thread per number.
__global__ void waves_kernel(float* waves, int64_t tokens, int64_t C, int64_t first) {
  const int64_t n = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n < tokens * C) waves[n] = float(wave(first + n / C, n % C, C));
}

// One thread per pack of V numbers, both passes. Moves 4 bytes per number in bf16, and 4 for the
// wave, from the cache after the first sample.
template <int V, class T>
__global__ void add_sinusoids_kernel(T* y, bool add, const T* x, const float* waves, float factor,
                                     int64_t packs, int64_t sample) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const Pack<T, V> in = load<V>(x + p * V);
  const int64_t i = p * V % sample;
  Pack<T, V> out{};
  if (add) out = load<V>(y + p * V);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const float before = add ? float(out.v[k]) : 0.0f;
    out.v[k] = T(before + factor * float(in.v[k]) + (waves ? waves[i + k] : 0.0f));
  }
  store<V>(y + p * V, out);
}

template <class T>
void add_sinusoids_gpu(T* y, bool add, const T* x, const float* waves, float factor,
                       int64_t samples, int64_t sample) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(sample);
  const int64_t packs = samples * sample / V;
  launch(V == full ? add_sinusoids_kernel<full, T> : add_sinusoids_kernel<1, T>,
         blocks_for(packs, 256), 256)(y, add, x, waves, factor, packs, sample);
}

}  // namespace

// (4) The op --------------------------------------------------------------------------------------

Tensor add_sinusoids(Tape& tape, const Tensor& x, float factor, int64_t first) {
  require(x.shape.rank() == 3 && first >= 0, "add_sinusoids: x is (B, T, C), not ", x.shape.text(),
          ", and its first token at place 0 or later, not ", first);
  const int64_t B = x.shape[0], tokens = x.shape[1], C = x.shape[2];
  const Tensor y = tape.empty(x.shape, x.dtype);
  const Tensor waves = tape.constant({tokens, C}, accumulator_of(x.dtype));
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        waves_cpu(waves.as<T>(), tokens, C, first);
        return add_sinusoids_cpu<T>(y.as<T>(), false, x.as<T>(), waves.as<T>(), T(factor), B,
                                    tokens * C);
      }
    }
    if constexpr (gpu_computes<T>) {
      launch(waves_kernel, blocks_for(tokens * C, 256), 256)(waves.as<float>(), tokens, C, first);
      add_sinusoids_gpu<T>(y.as<T>(), false, x.as<T>(), waves.as<float>(), factor, B, tokens * C);
    }
  });
  tape.record(y, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const auto dx = tape.gradient<T>(x);
      if (!dx) return;
      const T* dy = tape.gradient_of_output<T>(y);
      if constexpr (cpu_computes<T>) {
        if (tape.on_cpu()) {
          return add_sinusoids_cpu<T>(dx.data, dx.add, dy, nullptr, T(factor), B, tokens * C);
        }
      }
      if constexpr (gpu_computes<T>) {
        add_sinusoids_gpu<T>(dx.data, dx.add, dy, nullptr, factor, B, tokens * C);
      }
    });
  });
  return y;
}

}  // namespace dyt
