// The CPU loop of layers/residual.cu, which explains and calls it.
#pragma once
#include <algorithm>

#include "core/bf16_cpu.h"
#include "layers/drop_path.h"

namespace dyt {

// y = x + f keep(b) / (1 - drop) on B samples of n elements. x may be null (zeros), or y itself.
// What a dropped sample has in f is not looked at.
template <class T>
void residual_cpu(T* y, const T* x, const T* f, DropPath path, int64_t B, int64_t n) {
  using A = Acc<T>;
  const A scale = path.scale<A>();
  const int64_t piece = 4096, pieces = (n + piece - 1) / piece;
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t p = 0; p < pieces; ++p) {
      const int64_t begin = b * n + p * piece, count = std::min(piece, n - p * piece);
      const T *in = x + begin, *more = f + begin;
      T* const out = y + begin;
      if (path.keeps(b)) {
        if (x) {
          cpu::put_row(out, count, [=](int64_t i) { return A(in[i]) + A(more[i]) * scale; });
        } else {
          cpu::put_row(out, count, [=](int64_t i) { return A(more[i]) * scale; });
        }
      } else if (!x) {
        std::fill_n(out, count, T(0));
      } else if (x != y) {
        std::copy_n(in, count, out);
      }
    }
  }
}

// For bf16 it is made in layers/activations_bf16.cpp.
extern template void residual_cpu(bf16*, const bf16*, const bf16*, DropPath, int64_t, int64_t);

}  // namespace dyt
