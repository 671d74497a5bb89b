// The kernels of batch and group normalization; grouped_norm_cpu.h has the mathematics and the CPU
// loops. Only .cu files include this.
#pragma once
#include "core/dispatch.h"
#include "layers/column_walk.h"
#include "layers/grouped_norm_cpu.h"

namespace dyt {

// (3) The kernels ---------------------------------------------------------------------------------

// All but two work in a ColumnGrid, one sample per blockIdx.z.

// Where statistics go: mean and rstd (B, G), and the running ones, if every channel is a group of
// its own. Else what is known of the channels (B, C), whose moments a second kernel merges.
struct GroupedStatistics {
  float *mean, *rstd;
  Running<float> running;
  float epsilon;
  float *channel_mean = nullptr, *channel_squares = nullptr;

  __device__ void write_group(int64_t group, const Moments<float>& m) const {
    mean[group] = m.mean;
    rstd[group] = rsqrtf(m.squares / m.n + epsilon);
  }
  __device__ void write_channel(int64_t b, int64_t c, const Moments<float>& m,
                                const GroupedShape& s) const {
    if (channel_mean) {
      channel_mean[b * s.C + c] = m.mean, channel_squares[b * s.C + c] = m.squares;
      return;
    }
    write_group(b * s.C + c, m);
    if (running.mean) running.follow(c, m.mean, m.squares / m.n, s.R);
  }
};

// Mean and squares of the rows of one part. A thread sums what its column's rows differ from the
// first of them, which is as good as any mean of theirs to keep the sums small; then the threads of
// a column merge, in the warp by shuffles, and the 8 warps in shared memory. Reads x once: 2 bytes
// per element in bf16. means, squares (B, parts, C). The last block of a column merges the parts.
template <int V, class T>
__global__ void __launch_bounds__(256)
    grouped_moments_kernel(float* means, float* squares, unsigned* arrived, GroupedStatistics to,
                           const T* x, GroupedShape s) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  SHARED(float, tile_mean, [8][32 * V]);
  SHARED(float, tile_squares, [8][32 * V]);
  SHARED(float, tile_n, [8][32]);
  const ColumnPlace at(V, s.R, RowOrder::stripes);
  const T* x_b = x + blockIdx.z * s.R * s.C;
  float n = 0, pivot[V] = {}, sum[V] = {}, square[V] = {};
  if (at.c < s.C && at.begin + threadIdx.y < at.end) {
    const auto load_row = [&](int64_t r) { return load<V>(x_b + r * s.C + at.c); };
    const Pack<T, V> first = load_row(at.begin + threadIdx.y);
#pragma unroll
    for (int i = 0; i < V; ++i) pivot[i] = float(first.v[i]);
    walk_rows<4>(at, load_row, [&](int64_t, const Pack<T, V>& in) {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const float d = float(in.v[i]) - pivot[i];
        sum[i] += d;
        square[i] += d * d;
      }
      n += 1;
    });
  }
  const int X = int(blockDim.x), thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  const int warp = thread / 32, lane = thread % 32;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    Moments<float> held;
    if (n > 0) {
      const float mean = __fdividef(sum[i], n), rest = square[i] - sum[i] * mean;
      held = {n, pivot[i] + mean, rest > 0 ? rest : 0};
    }
    for (int m = 16; m >= X; m /= 2) {
      const float other_n = __shfl_xor_sync(all_lanes, held.n, m);
      const float other_mean = __shfl_xor_sync(all_lanes, held.mean, m);
      const float other_squares = __shfl_xor_sync(all_lanes, held.squares, m);
      held.merge({other_n, other_mean, other_squares});
    }
    if (lane < X) {
      tile_mean[warp][place_in_tile<V>(i, lane, X)] = held.mean;
      tile_squares[warp][place_in_tile<V>(i, lane, X)] = held.squares;
      tile_n[warp][lane] = held.n;
    }
  }
  __syncthreads();
  for (int k = thread; k < X * V; k += 256) {
    Moments<float> all;
    const int place = place_in_tile<V>(k % V, k / V, X);
    for (int w = 0; w < 8; ++w) {
      all.merge({tile_n[w][k / V], tile_mean[w][place], tile_squares[w][place]});
    }
    const int64_t c = int64_t(blockIdx.x) * X * V + k;
    const int64_t part = int64_t(blockIdx.z) * gridDim.y + blockIdx.y;
    if (c < s.C) means[part * s.C + c] = all.mean, squares[part * s.C + c] = all.squares;
  }
  if (!is_last_of_column(arrived)) return;
  const StripeRows rows(int(s.R), int(gridDim.y), int(blockDim.y));
  const int64_t first = int64_t(blockIdx.z) * gridDim.y;
  over_parts<V, Moments<float>>(
      s.C,
      [&](int part, int64_t c) {
        const int64_t at_part = (first + part) * s.C + c;
        return Moments<float>{float(rows.of(part)), __ldcg(means + at_part),
                              __ldcg(squares + at_part)};
      },
      [&](int64_t c, const Moments<float>& all) { to.write_channel(blockIdx.z, c, all, s); });
}

// One warp merges the channels of one group. Tiny.
static __global__ void __launch_bounds__(256)
    grouped_merge_kernel(GroupedStatistics to, GroupedShape s) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  const int64_t group = int64_t(blockIdx.x) * 8 + threadIdx.y;
  if (group >= s.B * s.G) return;  // all lanes of the warp
  const int64_t first = group * s.width();
  Moments<float> held;
  for (int64_t i = first + threadIdx.x; i < first + s.width(); i += 32) {
    held.merge({float(s.R), to.channel_mean[i], to.channel_squares[i]});
  }
  for (int m = 16; m > 0; m /= 2) {
    const float other_n = __shfl_xor_sync(all_lanes, held.n, m);
    const float other_mean = __shfl_xor_sync(all_lanes, held.mean, m);
    const float other_squares = __shfl_xor_sync(all_lanes, held.squares, m);
    held.merge({other_n, other_mean, other_squares});
  }
  if (threadIdx.x == 0) to.write_group(group, held);
}

// of_group[the group of channel first + i], for the thread's V channels.
template <int V>
__device__ inline void load_of_groups(float (&numbers)[V], const float* of_group, int64_t b,
                                      int64_t first, const GroupedShape& s) {
  if (s.G == s.C) return load_channels(numbers, of_group, b * s.C + first, 0);
#pragma unroll
  for (int i = 0; i < V; ++i) numbers[i] = of_group ? of_group[s.group(b, first + i)] : 0.0f;
}

// Statistics and parameters of V channels, in registers.
template <int V>
struct HeldNormalization {
  float mean[V], rstd[V], scale[V], offset[V];
  __device__ HeldNormalization(const Normalization<float>& n, int64_t b, int64_t first,
                               const GroupedShape& s) {
    load_of_groups(mean, n.mean, b, first, s);
    load_of_groups(rstd, n.rstd, b, first, s);
    load_channels(scale, n.gamma, first, 1);
    load_channels(offset, n.beta, first, 0);
#pragma unroll
    for (int i = 0; i < V; ++i) scale[i] *= rstd[i];
  }
  __device__ float operator()(float x, int i) const { return (x - mean[i]) * scale[i] + offset[i]; }
};

// Reads x and writes y, 4 bytes per element in bf16; what belongs to its channels a thread reads
// once and keeps in registers on its way down.
template <bool relu, int V, class T>
__global__ void __launch_bounds__(256)
    grouped_normalize_kernel(T* y, const T* x, Normalization<float> n, GroupedShape s) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  const ColumnPlace at(V, s.R, RowOrder::backward);  // the moments were taken from the beginning on
  if (at.c >= s.C) return;
  const int64_t b = blockIdx.z;
  const HeldNormalization<V> held(n, b, at.c, s);
  const int64_t first = b * s.R * s.C + at.c;
  walk_rows<4>(
      at, [&](int64_t r) { return load<V>(x + first + r * s.C); },
      [&](int64_t r, const Pack<T, V>& in) {
        float out[V];
#pragma unroll
        for (int i = 0; i < V; ++i) {
          out[i] = held(float(in.v[i]), i);
          if constexpr (relu) out[i] = relu_value(out[i]);
        }
        store<V>(y + first + r * s.C, out);
      });
}

// The sums over a sample's rows of dy and of dy xhat, and what follows of them.
struct GroupedSums {
  float *dy, *dyx;          // (B, C)
  const float* gamma;       // (C), or null
  float *dgamma, *dbeta;    // (C): added to if there is one sample, and not null
  float *mean_g, *mean_gx;  // (B, G), if every channel is a group of its own; else null

  __device__ void write(int64_t b, int64_t c, float sum, float product,
                        const GroupedShape& s) const {
    const int64_t at = b * s.C + c;
    dy[at] = sum, dyx[at] = product;
    if (s.B == 1 && dbeta) dbeta[c] += sum;
    if (s.B == 1 && dgamma) dgamma[c] += product;
    if (!mean_g) return;
    const float weight = (gamma ? gamma[c] : 1.0f) / float(s.R);
    mean_g[at] = weight * sum, mean_gx[at] = weight * product;
  }
};
struct SumAndProduct {
  float sum = 0, product = 0;
  __device__ void merge(const SumAndProduct& other) { sum += other.sum, product += other.product; }
};

// Sums over the rows of a part, sum_dy and sum_dyx (B, parts, C); the last block of a column adds
// up the parts. Reads 4 bytes per element in bf16.
template <bool relu, int V, class T>
__global__ void __launch_bounds__(256)
    grouped_sums_kernel(float* sum_dy, float* sum_dyx, unsigned* arrived, GroupedSums to,
                        const T* dy, const T* x, Normalization<float> n, GroupedShape s) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  const ColumnPlace at(V, s.R, RowOrder::stripes);
  const int64_t b = blockIdx.z;
  float sum[V] = {}, product[V] = {};
  if (at.c < s.C) {
    const HeldNormalization<V> held(n, b, at.c, s);
    const int64_t first = b * s.R * s.C + at.c;
    walk_rows<2>(
        at,
        [&](int64_t r) {
          return TwoPacks<T, V>{load<V>(x + first + r * s.C), load<V>(dy + first + r * s.C)};
        },
        [&](int64_t, const TwoPacks<T, V>& in) {
#pragma unroll
          for (int i = 0; i < V; ++i) {
            const float x_rc = in.first.v[i];
            float up = in.second.v[i];
            if constexpr (relu) up = held(x_rc, i) > 0 ? up : 0.0f;
            sum[i] += up;
            product[i] += up * (x_rc - held.mean[i]);
          }
        });
#pragma unroll
    for (int i = 0; i < V; ++i) product[i] *= held.rstd[i];
  }
  const int64_t part = b * gridDim.y + blockIdx.y;
  write_column_sums<V>(sum_dy + part * s.C, sum, sum_dyx + part * s.C, product, s.C);
  if (!is_last_of_column(arrived)) return;
  over_parts<V, SumAndProduct>(
      s.C,
      [&](int part, int64_t c) {
        const int64_t at_part = (b * gridDim.y + part) * s.C + c;
        return SumAndProduct{__ldcg(sum_dy + at_part), __ldcg(sum_dyx + at_part)};
      },
      [&](int64_t c, const SumAndProduct& all) { to.write(b, c, all.sum, all.product, s); });
}

// One thread for each group: mean(g) and mean(g xhat), from the sums of its channels. Tiny.
static __global__ void grouped_means_kernel(float* mean_g, float* mean_gx, const float* sum_dy,
                                            const float* sum_dyx, const float* gamma,
                                            GroupedShape s) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  const int64_t group = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (group >= s.B * s.G) return;
  const int64_t b = group / s.G, first = group % s.G * s.width();
  float g = 0, gx = 0;
  for (int64_t c = first; c < first + s.width(); ++c) {
    const float weight = gamma ? gamma[c] : 1.0f;
    g += weight * sum_dy[b * s.C + c];
    gx += weight * sum_dyx[b * s.C + c];
  }
  mean_g[group] = g / float(s.R * s.width());
  mean_gx[group] = gx / float(s.R * s.width());
}

// dx, from x and dy: 6 bytes per element in bf16, and 8 if dx is added to. mean_g and mean_gx are
// null if mean and rstd are constants.
template <bool relu, bool add, int V, class T>
__global__ void __launch_bounds__(256)
    grouped_backward_kernel(T* dx, const T* dy, const T* x, Normalization<float> n,
                            const float* mean_g, const float* mean_gx, GroupedShape s) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  const ColumnPlace at(V, s.R, RowOrder::backward);
  if (at.c >= s.C) return;
  const int64_t b = blockIdx.z, first = b * s.R * s.C + at.c;
  const HeldNormalization<V> held(n, b, at.c, s);
  float constant[V], slope[V];  // dx = scale dy + constant - slope x
  load_of_groups(constant, mean_g, b, at.c, s);
  load_of_groups(slope, mean_gx, b, at.c, s);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float r = held.rstd[i];
    slope[i] *= r * r;
    constant[i] = slope[i] * held.mean[i] - r * constant[i];
  }
  walk_rows<2>(
      at,
      [&](int64_t r) {
        ThreePacks<T, V> in{};
        in.first = load<V>(x + first + r * s.C);
        in.second = load<V>(dy + first + r * s.C);
        if constexpr (add) in.third = load<V>(dx + first + r * s.C);
        return in;
      },
      [&](int64_t r, const ThreePacks<T, V>& in) {
        float out[V];
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const float x_rc = in.first.v[i];
          float up = in.second.v[i];
          if constexpr (relu) up = held(x_rc, i) > 0 ? up : 0.0f;
          out[i] = held.scale[i] * up + constant[i] - slope[i] * x_rc;
          if constexpr (add) out[i] += float(in.third.v[i]);
        }
        store<V>(dx + first + r * s.C, out);
      });
}

// The grid of the sums: columns of 32 packs or, so that each of its last block's threads has at
// most some 16 parts to merge, narrower ones, which have fewer parts and more threads for each
// channel.
template <class T>
ColumnGrid grouped_grid(const GroupedShape& s) {
  const int64_t blocks = 3 * multiprocessors();
  int64_t packs = 32;
  const auto parts_of_a_thread = [&] {
    const int64_t channels = packs * 16 / int64_t(sizeof(T));
    return blocks * channels / (s.B * s.C) * channels / 256;
  };
  while (packs > 4 && parts_of_a_thread() > 16) packs /= 2;
  return column_grid<T>(s.R, s.C, s.B, blocks, 4, unsigned(packs));
}

// What is_last_of_column counts with in that grid.
inline unsigned* arrivals(Tape& tape, const ColumnGrid& g) {
  return g.parts > 1 ? tape.zeros(g.grid.x * g.grid.z) : nullptr;
}

template <class T>
void grouped_statistics_gpu(Tape& tape, float* mean, float* rstd, const Running<float>& running,
                            const T* x, float epsilon, const GroupedShape& s) {
  constexpr int full = 16 / sizeof(T);
  const ColumnGrid g = grouped_grid<T>(s);
  float* means = tape.scratch<float>(s.B * g.parts * s.C);
  float* squares = tape.scratch<float>(s.B * g.parts * s.C);
  GroupedStatistics to{mean, rstd, running, epsilon};
  if (s.G != s.C) {
    to.channel_mean = tape.scratch<float>(s.B * s.C);
    to.channel_squares = tape.scratch<float>(s.B * s.C);
  }
  launch_early(g.V == full ? grouped_moments_kernel<full, T> : grouped_moments_kernel<1, T>, g.grid,
               g.block)(means, squares, arrivals(tape, g), to, x, s);
  if (s.G == s.C) return;
  launch_early(grouped_merge_kernel, blocks_for(s.B * s.G, 8), dim3(32, 8))(to, s);
}

template <bool relu, class T>
void grouped_normalize_gpu(T* y, const T* x, const Normalization<float>& n, const GroupedShape& s) {
  constexpr int full = 16 / sizeof(T);
  const ColumnGrid g = column_map_grid<T>(s.R, s.C, s.B);
  launch_early(
      g.V == full ? grouped_normalize_kernel<relu, full, T> : grouped_normalize_kernel<relu, 1, T>,
      g.grid, g.block)(y, x, n, s);
}

template <bool relu, class T>
void grouped_backward_gpu(Tape& tape, T* dx, bool add, float* dgamma, float* dbeta, const T* dy,
                          const T* x, const Normalization<float>& n, bool constant_statistics,
                          const GroupedShape& s) {
  constexpr int full = 16 / sizeof(T);
  const ColumnGrid g = grouped_grid<T>(s);
  const int64_t channels = s.B * s.C, groups = s.B * s.G;
  float* partials = tape.scratch<float>(2 * channels * g.parts);
  GroupedSums sums{tape.scratch<float>(channels),
                   tape.scratch<float>(channels),
                   n.gamma,
                   dgamma,
                   dbeta,
                   nullptr,
                   nullptr};
  float *mean_g = nullptr, *mean_gx = nullptr;
  if (dx && !constant_statistics) {
    mean_g = tape.scratch<float>(groups), mean_gx = tape.scratch<float>(groups);
    if (s.G == s.C) sums.mean_g = mean_g, sums.mean_gx = mean_gx;
  }
  launch_early(g.V == full ? grouped_sums_kernel<relu, full, T> : grouped_sums_kernel<relu, 1, T>,
               g.grid, g.block)(partials, partials + channels * g.parts, arrivals(tape, g), sums,
                                dy, x, n, s);
  if (s.B > 1) {
    add_partials_gpu({{dbeta, sums.dy, s.B, s.C, s.C}, {dgamma, sums.dyx, s.B, s.C, s.C}});
  }
  if (!dx) return;
  if (mean_g && s.G != s.C) {
    launch_early(grouped_means_kernel, blocks_for(groups, 256), 256)(mean_g, mean_gx, sums.dy,
                                                                     sums.dyx, n.gamma, s);
  }
  const ColumnGrid map = column_map_grid<T>(s.R, s.C, s.B);
  with_bool(add, [&](auto adds) {
    launch_early(map.V == full ? grouped_backward_kernel<relu, adds(), full, T>
                               : grouped_backward_kernel<relu, adds(), 1, T>,
                 map.grid, map.block)(dx, dy, x, n, mean_g, mean_gx, s);
  });
}

// (4) Their calls, on either device ---------------------------------------------------------------

template <class T, class A = Acc<T>>
void grouped_statistics(Tape& tape, A* mean, A* rstd, const Running<A>& running, const T* x,
                        float epsilon, const GroupedShape& s) {
  if (tape.on_cpu()) return grouped_statistics_cpu(mean, rstd, running, x, A(epsilon), s);
  if constexpr (gpu_computes<T>) grouped_statistics_gpu(tape, mean, rstd, running, x, epsilon, s);
}

template <bool relu, class T, class A = Acc<T>>
void grouped_normalize(Tape& tape, T* y, const T* x, const Normalization<A>& n,
                       const GroupedShape& s) {
  if (tape.on_cpu()) return grouped_normalize_cpu<relu>(y, x, n, s);
  if constexpr (gpu_computes<T>) grouped_normalize_gpu<relu>(y, x, n, s);
}

template <bool relu, class T, class A = Acc<T>>
void grouped_backward(Tape& tape, GradientTarget<T> dx, A* dgamma, A* dbeta, const T* dy,
                      const T* x, const Normalization<A>& n, bool constant_statistics,
                      const GroupedShape& s) {
  if (tape.on_cpu()) {
    return grouped_backward_cpu<relu>(dx.data, dx.add, dgamma, dbeta, dy, x, n, constant_statistics,
                                      s);
  }
  if constexpr (gpu_computes<T>) {
    grouped_backward_gpu<relu>(tape, dx.data, dx.add, dgamma, dbeta, dy, x, n, constant_statistics,
                               s);
  }
}

}  // namespace dyt
