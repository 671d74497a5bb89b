// The kernels of dyt.cu, which has the mathematics. Only .cu files include this.
#pragma once
#include "layers/column_walk.h"
#include "layers/drop_path.h"
#include "layers/squash_kernel.h"

namespace dyt {

// (3) The kernels ---------------------------------------------------------------------------------

// A pack is up to 16 bytes of neighbouring channels, V of them (core/kernel.h). Each kernel's first
// two lines are for launch_early (core/launch.h): they let its launch overlap the end of the kernel
// before. InKernel<Phi> is phi with the GPU's fast instructions (squash_kernel.h).

// v1: one thread per number. Reads x once, writes y once: 4 bytes per element in bf16; gamma and
// beta come from the cache, 8 bytes per element. For widths that don't divide into full packs.
template <class Phi, class T>
__global__ void dyt_forward_kernel_v1(T* y, const T* x, const float* alpha, const float* shift,
                                      const float* gamma, const float* beta, int64_t n, int64_t C) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int64_t c = i % C;
  const float a = alpha ? *alpha : 1.0f, s = shift ? *shift : 0.0f;
  const float f = InKernel<Phi>::value(a * float(x[i]) + s);
  y[i] = T((gamma ? gamma[c] : 1.0f) * f + (beta ? beta[c] : 0.0f));
}

// v2: a thread walks down the rows of one pack of channels. Gamma and beta are read once for all of
// them and kept in registers, and 4 rows are asked for at a time. With `adds`, the layer's input is
// x + f, which is written on the way: 8 bytes per element instead of 4.
template <class Phi, bool adds, int V, class T>
__global__ void __launch_bounds__(256)
    dyt_forward_kernel(T* y, const T* x, Branch<T> branch, const float* alpha, const float* shift,
                       const float* gamma, const float* beta, int64_t rows, int64_t C) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  const ColumnPlace at(V, rows);
  if (at.c >= C) return;
  const float a = alpha ? *alpha : 1.0f, s = shift ? *shift : 0.0f;
  float scale[V], offset[V];
  load_channels(scale, gamma, at.c, 1);
  load_channels(offset, beta, at.c, 0);
  const auto use = [&](int64_t r, const Pack<T, V>& in) {
    float out[V];
#pragma unroll
    for (int i = 0; i < V; ++i)
      out[i] = scale[i] * InKernel<Phi>::value(a * float(in.v[i]) + s) + offset[i];
    store<V>(y + r * C + at.c, out);
  };
  if constexpr (adds) {
    walk_rows<2>(
        at,
        [&](int64_t r) {
          return TwoPacks<T, V>{load<V>(x + r * C + at.c), load<V>(branch.f + r * C + at.c)};
        },
        [&](int64_t r, const TwoPacks<T, V>& in) {
          const float kept = branch.scale_of(r);
          Pack<T, V> sum;
#pragma unroll
          for (int i = 0; i < V; ++i) {
            sum.v[i] = T(float(in.first.v[i]) + (kept != 0 ? kept * float(in.second.v[i]) : 0.0f));
          }
          store<V>(branch.sum + r * C + at.c, sum);
          use(r, sum);
        });
  } else {
    walk_rows<4>(
        at, [&](int64_t r) { return load<V>(x + r * C + at.c); }, use);
  }
}

inline constexpr int backward_stages = 3;

// What a thread of the backward pass holds on its way down the rows of one pack of channels, so
// that dy and x are read once for all five gradients: 6 bytes per element in bf16, and 8 if dx is
// added to. At the end the sums of a block's threads meet in shared memory; each block writes two
// partial sums per channel, and two for alpha and shift, all of which one more kernel adds up.
template <class Phi, int V>
struct BackwardSums {
  float a, s, scale[V], gamma[V] = {}, beta[V] = {}, alpha = 0, shift = 0;

  __device__ BackwardSums(const float* alpha_at, const float* shift_at, const float* gamma_at,
                          int64_t c, int64_t C)
      : a(alpha_at ? *alpha_at : 1.0f), s(shift_at ? *shift_at : 0.0f) {
    load_channels(scale, c < C ? gamma_at : nullptr, c, 1);
  }
  // dx of one pack, added to `before` if `add`.
  template <class T>
  __device__ void add_row(float (&dx)[V], const Pack<T, V>& x, const Pack<T, V>& dy,
                          const Pack<T, V>& before, bool add) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float x_rc = x.v[i], dy_rc = dy.v[i];
      const float z = a * x_rc + s, f = InKernel<Phi>::value(z);
      const float dz = dy_rc * scale[i] * InKernel<Phi>::slope(z, f);
      gamma[i] += dy_rc * f;
      beta[i] += dy_rc;
      alpha += x_rc * dz;
      shift += dz;
      dx[i] = (add ? float(before.v[i]) : 0.0f) + a * dz;
    }
  }
  __device__ void write(float* dgamma_partials, float* dbeta_partials, float* scalar_partials,
                        int64_t C) {
    write_column_sums<V>(dgamma_partials + blockIdx.y * C, gamma, dbeta_partials + blockIdx.y * C,
                         beta, C);
    // The 256 sums for alpha and shift: a butterfly in each warp, then over the 8 warps.
    SHARED(float, tile, [8][2]);
    const int thread = int(threadIdx.y * blockDim.x + threadIdx.x);
    alpha = warp_sum(alpha);
    shift = warp_sum(shift);
    if (thread % 32 == 0) tile[thread / 32][0] = alpha, tile[thread / 32][1] = shift;
    __syncthreads();
    if (thread >= 2) return;
    float sum = 0;
    for (int w = 0; w < 8; ++w) sum += tile[w][thread];
    scalar_partials[(blockIdx.y * gridDim.x + blockIdx.x) * 2 + unsigned(thread)] = sum;
  }
};

// v1: rows are loaded into registers, two at a time. For widths that no full pack divides.
template <class Phi, bool add, int V, class T>
__global__ void __launch_bounds__(256)
    dyt_backward_kernel_v1(T* dx, float* dgamma_partials, float* dbeta_partials,
                           float* scalar_partials, const T* dy, const T* x, const float* alpha,
                           const float* shift, const float* gamma, int64_t rows, int64_t C) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  const ColumnPlace at(V, rows);
  BackwardSums<Phi, V> sums(alpha, shift, gamma, at.c, C);
  const auto load_row = [&](int64_t r) {
    ThreePacks<T, V> in{};
    in.first = load<V>(x + r * C + at.c);
    in.second = load<V>(dy + r * C + at.c);
    if (add) in.third = load<V>(dx + r * C + at.c);
    return in;
  };
  const auto use = [&](int64_t r, const ThreePacks<T, V>& in) {
    float out[V];
    sums.add_row(out, in.first, in.second, in.third, add);
    if (dx) store<V>(dx + r * C + at.c, out);
  };
  if (at.c < C) walk_rows<2>(at, load_row, use);
  sums.write(dgamma_partials, dbeta_partials, scalar_partials, C);
}

// v2: rows come through shared memory by asynchronous copies: while one is worked on, `stages` - 1
// are under way. Every thread copies its own packs and waits for nobody else.
template <class Phi, bool add, int V, class T>
__global__ void __launch_bounds__(256, 3)
    dyt_backward_kernel(T* dx, float* dgamma_partials, float* dbeta_partials,
                        float* scalar_partials, const T* dy, const T* x, const float* alpha,
                        const float* shift, const float* gamma, int64_t rows, int64_t C) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  constexpr int stages = backward_stages, streams = add ? 3 : 2;
  DYNAMIC_SHARED(uint4, ring);  // (stages, streams, 256): x, dy and what is in dx
  const ColumnPlace at(V, rows, RowOrder::stripes);
  const int self = int(threadIdx.y * blockDim.x + threadIdx.x);
  const int64_t step = at.step;
  const auto place = [&](int stage, int stream) {
    return reinterpret_cast<T*>(ring + (stage * streams + stream) * 256 + self);
  };
  const auto ask_for = [&](int64_t r, int stage) {
    if (at.c < C && r < at.end) {
      copy_async<16>(place(stage, 0), x + r * C + at.c, true);
      copy_async<16>(place(stage, 1), dy + r * C + at.c, true);
      if (add) copy_async<16>(place(stage, 2), dx + r * C + at.c, true);
    }
    commit_copies();  // also of a row that doesn't exist: groups are counted
  };
  int64_t r = at.begin + threadIdx.y;
  for (int stage = 0; stage < stages; ++stage) ask_for(r + stage * step, stage);
  BackwardSums<Phi, V> sums(alpha, shift, gamma, at.c, C);
  for (int stage = 0; at.c < C && r < at.end; r += step) {
    wait_for_copies<stages - 1>();
    const Pack<T, V> in = load<V>(place(stage, 0)), up = load<V>(place(stage, 1));
    Pack<T, V> before{};
    if (add) before = load<V>(place(stage, 2));
    float out[V];
    sums.add_row(out, in, up, before, add);
    if (dx) store<V>(dx + r * C + at.c, out);
    ask_for(r + stages * step, stage);
    stage = stage + 1 == stages ? 0 : stage + 1;
  }
  sums.write(dgamma_partials, dbeta_partials, scalar_partials, C);
}

template <class Phi, bool adds, class T>
void dyt_forward_gpu(T* y, const T* x, const Branch<T>& branch, const float* alpha,
                     const float* shift, const float* gamma, const float* beta, int64_t rows,
                     int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const ColumnGrid g = column_map_grid<T>(rows, C);
  if (g.V == full) {
    launch_early(dyt_forward_kernel<Phi, adds, full, T>, g.grid, g.block)(
        y, x, branch, alpha, shift, gamma, beta, rows, C);
    return;
  }
  if (adds) add_branch_gpu(x, branch, rows, C);
  const int64_t n = rows * C;
  launch_early(dyt_forward_kernel_v1<Phi, T>, blocks_for(n, 256), 256)(
      y, adds ? branch.sum : x, alpha, shift, gamma, beta, n, C);
}

template <class Phi, bool add, class T>
void dyt_backward_gpu(Tape& tape, T* dx, float* dalpha, float* dshift, float* dgamma, float* dbeta,
                      const T* dy, const T* x, const float* alpha, const float* shift,
                      const float* gamma, int64_t rows, int64_t C) {
  constexpr int full = 16 / sizeof(T);
  const ColumnGrid g = column_grid<T>(rows, C);
  const int64_t blocks = g.parts * g.grid.x;
  float* partials = tape.scratch<float>(2 * g.parts * C);
  float* scalars = tape.scratch<float>(2 * blocks);
  const auto kernel =
      g.V == full ? dyt_backward_kernel<Phi, add, full, T> : dyt_backward_kernel_v1<Phi, add, 1, T>;
  const size_t ring = g.V == full ? size_t(backward_stages * (add ? 3 : 2)) * 256 * 16 : 0;
  launch_early(kernel, g.grid, g.block, ring)(dx, partials, partials + g.parts * C, scalars, dy, x,
                                              alpha, shift, gamma, rows, C);
  add_partials_gpu({{dgamma, partials, g.parts, C, C},
                    {dbeta, partials + g.parts * C, g.parts, C, C},
                    {dalpha, scalars, blocks, 1, 2},
                    {dshift, scalars + 1, blocks, 1, 2}});
}

}  // namespace dyt
