// From tokens to vectors: a table with one row per word of the vocabulary, and one per position.
//
// (1) The mathematics. token (B, T) in {0 .. V-1}; weight (V, C); position (P, C); scale a scalar:
//
//       y[b, t] = scale weight[token[b, t]] + position[first + t]
//
//     position and scale are optional: GPT-2 learns positions; DyT's LLaMA has no norm that would
//     bring the small embeddings to size, and learns a factor instead, sqrt(C) at first (arXiv
//     2503.10622, section 5). Backward, over the rows r = (b, t):
//
//       dweight[v]           = scale  sum over the rows with token v of  dy[r]
//       dposition[first + t] = sum over b of  dy[b, t]
//       dscale               = sum over rows of  dy[r] . weight[token[r]]
//
//     Many rows add to the same row of dweight: of a text's bytes every sixth is a space. Adding
//     them with atomics would give other bits in every run, so the rows are sorted by token first,
//     and the rows of a token are added in the order they have in the batch.
//
//     A token that is not in {0 .. V-1} is an Error on the CPU. A kernel can't throw: there its row
//     of y becomes NaN.
#include <numeric>

#include "core/dispatch.h"
#include "core/kernel.h"
#include "core/reduce.h"
#include "layers/layers.h"

namespace dyt {
namespace {

// (2) The CPU loops -------------------------------------------------------------------------------

void check_tokens(const int32_t* tokens, int64_t rows, int64_t V) {
  for (int64_t r = 0; r < rows; ++r) {
    require(tokens[r] >= 0 && tokens[r] < V, "token_embedding: token ", r, " of the batch is ",
            tokens[r], ", but the vocabulary has ", V, " words, 0 to ", V - 1);
  }
}

template <class T>
void token_embedding_forward_cpu(T* y, const int32_t* tokens, const T* weight, const T* position,
                                 const T* scale, int64_t rows, int64_t tokens_per_sample,
                                 int64_t C) {
  const T s = scale ? *scale : T(1);
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T* w = weight + tokens[r] * C;
    const T* p = position ? position + r % tokens_per_sample * C : nullptr;
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) y[r * C + c] = s * w[c] + (p ? p[c] : T(0));
  }
}

// The rows in the order of their tokens (a counting sort, which keeps equal ones in order):
// order[start[v]] .. order[start[v + 1] - 1] are the rows with token v.
struct RowsByToken {
  std::vector<int64_t> start, order;
  RowsByToken(const int32_t* tokens, int64_t rows, int64_t V)
      : start(size_t(V + 1), 0), order(static_cast<size_t>(rows)) {
    for (int64_t r = 0; r < rows; ++r) ++start[size_t(tokens[r] + 1)];
    std::partial_sum(start.begin(), start.end(), start.begin());
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t r = 0; r < rows; ++r) order[size_t(next[size_t(tokens[r])]++)] = r;
  }
};

// All gradients are added to; dposition and dscale may be null.
template <class T>
void token_embedding_backward_cpu(T* dweight, T* dposition, T* dscale, const T* dy,
                                  const int32_t* tokens, const T* weight, const T* scale,
                                  int64_t rows, int64_t tokens_per_sample, int64_t C, int64_t V) {
  const T s = scale ? *scale : T(1);
  const RowsByToken sorted(tokens, rows, V);
#pragma omp parallel for schedule(dynamic, 8)
  for (int64_t v = 0; v < V; ++v) {
    for (int64_t i = sorted.start[size_t(v)]; i < sorted.start[size_t(v + 1)]; ++i) {
      const T* dy_r = dy + sorted.order[size_t(i)] * C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) dweight[v * C + c] += s * dy_r[c];
    }
  }
  if (dposition) {
#pragma omp parallel for
    for (int64_t t = 0; t < tokens_per_sample; ++t) {
      for (int64_t r = t; r < rows; r += tokens_per_sample) {
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) dposition[t * C + c] += dy[r * C + c];
      }
    }
  }
  if (dscale) {
    sum_over_rows(dscale, 1, rows, [&](int64_t begin, int64_t end, T* partial) {
      T sum = 0;
      for (int64_t r = begin; r < end; ++r) {
        const T* w = weight + tokens[r] * C;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < C; ++c) sum += dy[r * C + c] * w[c];
      }
      *partial += sum;
    });
  }
}

// (3) The kernels ---------------------------------------------------------------------------------

// One thread per pack of V channels of a row. Reads the row of the table and writes y: 4 bytes per
// element in bf16, and 2 for the position (from the cache, all samples having the same).
template <int V, class T>
__global__ void token_embedding_forward_kernel(T* y, const int32_t* tokens, const T* weight,
                                               const T* position, const float* scale, int64_t packs,
                                               int tokens_per_sample, int C, int vocabulary) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const int64_t r = p * V / C;
  const int c = int(p * V % C), token = tokens[r];
  const float s = scale ? *scale : 1.0f;
  const bool known = token >= 0 && token < vocabulary;
  Pack<T, V> row{}, place{}, out;
  if (known) row = load<V>(weight + int64_t(token) * C + c);
  if (position) place = load<V>(position + r % tokens_per_sample * C + c);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    out.v[i] = T(known ? s * float(row.v[i]) + (position ? float(place.v[i]) : 0.0f) : NAN);
  }
  store<V>(y + p * V, out);
}

// --- Sorting the rows by token. A key is (token, row), so no two are equal and every way of
// sorting ends in the same order. A bitonic network (Batcher, 1968) sorts 2^n keys in n (n + 1) / 2
// steps of compare-and-swap between places that differ in one bit; steps whose partners are less
// than a tile apart are done in shared memory, many in one launch. Moves 16 bytes per key and
// launch.

using Key = unsigned long long;
constexpr int sort_tile = 2048;  // 16 KiB of shared memory
constexpr int part_rows = 32;    // of the sorted rows, that one thread adds up
constexpr int rows_ahead = 8;    // of them, that it has asked memory for

__device__ inline unsigned token_of(Key key) { return unsigned(key >> 32); }
__device__ inline int64_t row_of(Key key) { return int64_t(key & 0xffffffffu); }

// keys (padded): those of the rows, then keys larger than any. One thread per key.
__global__ void make_keys_kernel(Key* keys, const int32_t* tokens, int64_t rows, int64_t padded) {
  const int64_t r = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (r < padded) keys[r] = r < rows ? (Key(unsigned(tokens[r])) << 32) | Key(r) : ~Key(0);
}

// Pair p of a step: the two places whose numbers differ in bit `distance`, in rising order where
// bit `run` of the place is 0, so that neighbouring runs of that length rise and fall by turns.
// Both are powers of two: where the pair lies takes two instructions, and dividing two hundred.
__device__ inline void compare_and_swap(Key* keys, unsigned p, unsigned distance, unsigned run,
                                        unsigned offset) {
  const unsigned low = 2 * p - (p & (distance - 1)), high = low + distance;
  const bool rising = ((low + offset) & run) == 0;
  const Key a = keys[low], b = keys[high];
  if ((a > b) == rising) keys[low] = b, keys[high] = a;
}

// The steps within a tile for runs of `run`, or with `all`, those of every run up to it. A block
// per tile; in each step its threads take the pairs in turn.
__global__ void __launch_bounds__(sort_tile / 2)
    sort_tile_kernel(Key* keys, unsigned tile, unsigned run, bool all) {
  SHARED(Key, shared, [sort_tile]);
  const unsigned offset = blockIdx.x * tile;
  for (unsigned i = threadIdx.x; i < tile; i += blockDim.x) shared[i] = keys[offset + i];
  __syncthreads();
  for (unsigned k = all ? 2 : run; k <= run; k *= 2) {
    for (unsigned distance = min(k, tile) / 2; distance > 0; distance /= 2) {
      for (unsigned p = threadIdx.x; p < tile / 2; p += blockDim.x) {
        compare_and_swap(shared, p, distance, k, offset);
      }
      __syncthreads();
    }
  }
  for (unsigned i = threadIdx.x; i < tile; i += blockDim.x) keys[offset + i] = shared[i];
}

// One step in device memory: one thread per pair.
__global__ void sort_step_kernel(Key* keys, unsigned distance, unsigned run, unsigned pairs) {
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p < pairs) compare_and_swap(keys, p, distance, run, 0);
}

// --- Adding up the rows of a token, in two stages. The sorted rows are cut into parts of 32. A run
// of equal tokens inside a part is added to dweight at once, nobody else writes there. Of a run
// that crosses into other parts, each part writes its share: `heads` if the run began before this
// part, else `tails`. The second stage adds a tail and the heads that follow it.

// to[i] += sum[i], or = sum[i].
template <int V>
__device__ inline void put_sums(float* to, bool add, const float (&sum)[V]) {
  Pack<float, V> pack{};
  if (add) pack = load<V>(to);
#pragma unroll
  for (int i = 0; i < V; ++i) pack.v[i] += sum[i];
  store<V>(to, pack);
}

// One thread per pack of V channels and part. Reads dy once: 2 bytes per element in bf16. Where a
// row lies is known only when its key has come: so a block fetches the keys of its part first, and
// then each thread has 8 rows under way.
template <int V, class T>
__global__ void add_runs_kernel(float* dweight, float* heads, float* tails, const T* dy,
                                const Key* keys, const float* scale, int64_t rows, int C,
                                unsigned vocabulary) {
  SHARED(Key, key, [part_rows + 2]);  // from the one before the part to the one after
  const int64_t part = blockIdx.x, begin = part * part_rows;
  const int n = int(min(int64_t(part_rows), rows - begin));
  for (int i = int(threadIdx.x); i < n + 2; i += int(blockDim.x)) {
    key[i] = keys[min(rows - 1, max(int64_t(0), begin - 1 + i))];
  }
  __syncthreads();
  const int c = (int(blockIdx.y) * int(blockDim.x) + int(threadIdx.x)) * V;
  if (c >= C) return;
  const float s = scale ? *scale : 1.0f;
  bool began_before = begin > 0 && token_of(key[0]) == token_of(key[1]);
  float sum[V] = {};
  for (int first = 0; first < n; first += rows_ahead) {
    Pack<T, V> up[rows_ahead];
#pragma unroll
    for (int u = 0; u < rows_ahead; ++u) {
      if (first + u < n) up[u] = load<V>(dy + row_of(key[1 + first + u]) * C + c);
    }
#pragma unroll
    for (int u = 0; u < rows_ahead; ++u) {
      const int i = first + u;
      if (i >= n) continue;
      const unsigned token = token_of(key[1 + i]);
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += s * float(up[u].v[k]);
      const bool last_of_run = begin + i + 1 == rows || token_of(key[2 + i]) != token;
      if (!last_of_run && i + 1 < n) continue;
      if (began_before) {
        put_sums<V>(heads + part * C + c, false, sum);
      } else if (!last_of_run) {
        put_sums<V>(tails + part * C + c, false, sum);
      } else if (token < vocabulary) {
        put_sums<V>(dweight + int64_t(token) * C + c, true, sum);
      }
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] = 0;
      began_before = false;
    }
  }
}

// One thread per channel and part in which a run begins that goes on in the next. Where it ends is
// found by halving, so that the loop over its parts doesn't have to ask. At most 4 bytes per
// channel and part, and 8 per channel of such a run.
__global__ void join_runs_kernel(float* dweight, const float* heads, const float* tails,
                                 const Key* keys, int64_t rows, int C, unsigned vocabulary) {
  const int c = int(blockIdx.y) * int(blockDim.x) + int(threadIdx.x);
  const int64_t part = blockIdx.x, begin = part * part_rows, end = begin + part_rows;
  if (c >= C || end >= rows) return;
  const unsigned token = token_of(keys[end - 1]);
  const bool goes_on = token_of(keys[end]) == token;
  const bool begins_here = begin == 0 || token_of(keys[begin - 1]) != token;
  if (!goes_on || !begins_here || token >= vocabulary) return;
  int64_t last = end, beyond = rows;  // `last` has the token
  while (beyond - last > 1) {
    const int64_t middle = (last + beyond) / 2;
    (token_of(keys[middle]) == token ? last : beyond) = middle;
  }
  float sum = tails[part * C + c];
#pragma unroll 8
  for (int64_t next = part + 1; next <= last / part_rows; ++next) sum += heads[next * C + c];
  dweight[int64_t(token) * C + c] += sum;
}

// One thread per pack of V channels of a position, which adds up the samples: 2 bytes per element
// of dy in bf16.
template <int V, class T>
__global__ void position_backward_kernel(float* dposition, const T* dy, int64_t samples,
                                         int64_t packs) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;  // over (T, C)
  if (p >= packs) return;
  float sum[V] = {};
#pragma unroll 4
  for (int64_t b = 0; b < samples; ++b) {
    const Pack<T, V> up = load<V>(dy + (b * packs + p) * V);
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] += float(up.v[i]);
  }
  put_sums<V>(dposition + p * V, true, sum);
}

// A block per part of the rows, a warp per row; one partial sum per block. Reads dy and the rows'
// words of the table: 4 bytes per element in bf16, at most.
template <class T>
__global__ void scale_backward_kernel(float* partials, const T* dy, const int32_t* tokens,
                                      const T* weight, int64_t rows, int C, int vocabulary) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int warps = int(blockDim.x) / 32;
  float sum = 0;
  for (int64_t r = int64_t(blockIdx.x) * warps + warp; r < rows; r += int64_t(gridDim.x) * warps) {
    const int token = tokens[r];
    if (token < 0 || token >= vocabulary) continue;
    for (int c = lane; c < C; c += 32) {
      sum += float(dy[r * C + c]) * float(weight[int64_t(token) * C + c]);
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

template <class T>
void token_embedding_forward_gpu(T* y, const int32_t* tokens, const T* weight, const T* position,
                                 const float* scale, int64_t rows, int64_t tokens_per_sample,
                                 int64_t C, int64_t vocabulary) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(C);
  const auto kernel =
      V == full ? token_embedding_forward_kernel<full, T> : token_embedding_forward_kernel<1, T>;
  launch(kernel, blocks_for(rows * C / V, 256), 256)(y, tokens, weight, position, scale,
                                                     rows * C / V, int(tokens_per_sample), int(C),
                                                     int(vocabulary));
}

// The keys of the rows, sorted.
Key* sort_rows_gpu(Tape& tape, const int32_t* tokens, int64_t rows) {
  unsigned padded = 2;
  while (padded < rows) padded *= 2;
  Key* keys = tape.scratch<Key>(padded);
  launch(make_keys_kernel, blocks_for(padded, 256), 256)(keys, tokens, rows, padded);
  const unsigned tile = std::min<unsigned>(padded, sort_tile), tiles = padded / tile;
  const unsigned threads = std::max(tile / 2, 32u);
  launch(sort_tile_kernel, tiles, threads)(keys, tile, tile, true);
  for (unsigned run = 2 * tile; run <= padded && run > 0; run *= 2) {
    for (unsigned distance = run / 2; distance >= tile; distance /= 2) {
      launch(sort_step_kernel, blocks_for(padded / 2, 256), 256)(keys, distance, run, padded / 2);
    }
    launch(sort_tile_kernel, tiles, threads)(keys, tile, run, false);
  }
  return keys;
}

template <class T>
void token_embedding_backward_gpu(Tape& tape, float* dweight, float* dposition, float* dscale,
                                  const T* dy, const int32_t* tokens, const T* weight,
                                  const float* scale, int64_t rows, int64_t tokens_per_sample,
                                  int64_t C, int64_t vocabulary) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(C);
  const bool wide = V == full;
  const Key* keys = sort_rows_gpu(tape, tokens, rows);
  const unsigned parts = blocks_for(rows, part_rows);
  float *heads = tape.scratch<float>(parts * C), *tails = tape.scratch<float>(parts * C);
  launch(wide ? add_runs_kernel<full, T> : add_runs_kernel<1, T>,
         dim3(parts, blocks_for(C, 64 * V)),
         64)(dweight, heads, tails, dy, keys, scale, rows, int(C), unsigned(vocabulary));
  launch(join_runs_kernel, dim3(parts, blocks_for(C, 128)), 128)(dweight, heads, tails, keys, rows,
                                                                 int(C), unsigned(vocabulary));
  if (dposition) {
    const int64_t packs = tokens_per_sample * C / V;
    launch(wide ? position_backward_kernel<full, T> : position_backward_kernel<1, T>,
           blocks_for(packs, 128), 128)(dposition, dy, rows / tokens_per_sample, packs);
  }
  if (dscale) {
    const unsigned blocks = unsigned(row_parts(rows, 1, 32));
    float* partials = tape.scratch<float>(blocks);
    launch(scale_backward_kernel<T>, blocks, 256)(partials, dy, tokens, weight, rows, int(C),
                                                  int(vocabulary));
    add_partials_gpu(dscale, partials, blocks, 1);
  }
}

}  // namespace

// (4) The op --------------------------------------------------------------------------------------

Tensor token_embedding(Tape& tape, const Tensor& tokens, const Parameter& weight,
                       const Parameter* position, const Parameter* scale, int64_t first) {
  require(tokens.shape.rank() == 2, "token_embedding: tokens are (B, T), not ",
          tokens.shape.text());
  require(weight.shape.rank() == 2, "token_embedding: ", weight.name, " is (V, C), not ",
          weight.shape.text());
  const int64_t B = tokens.shape[0], T_ = tokens.shape[1], V = weight.shape[0], C = weight.shape[1];
  require(!position || (position->shape.rank() == 2 && position->shape[1] == C && first >= 0 &&
                        first + T_ <= position->shape[0]),
          "token_embedding: ", position ? position->name : "", " ",
          position ? position->shape.text() : "", " has no row of ", C,
          " numbers for each of the positions ", first, " to ", first + T_ - 1);
  require(!scale || scale->size() == 1, "token_embedding: ", scale ? scale->name : "",
          " is one number, not ", scale ? scale->size() : 0);
  require(B * T_ < (int64_t(1) << 31) && C < (1 << 24), "token_embedding: tokens ",
          tokens.shape.text(), " of width ", C, " are more than a kernel can count");
  const Tensor y = tape.empty({B, T_, C});
  const int64_t rows = B * T_;
  const Parameter* w = &weight;
  on_either(tape, y.dtype, [&](auto t) {
    using T = decltype(t);
    const int32_t* token = tokens.as<int32_t>();
    const T* place = position ? position->as<T>() + first * C : nullptr;
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        check_tokens(token, rows, V);
        return token_embedding_forward_cpu(y.as<T>(), token, w->as<T>(), place, values_of<T>(scale),
                                           rows, T_, C);
      }
    }
    if constexpr (gpu_computes<T>) {
      token_embedding_forward_gpu(y.as<T>(), token, w->as<T>(), place, values_of<T>(scale), rows,
                                  T_, C, V);
    }
  });
  tape.record(y, [=, &tape] {
    on_either(tape, y.dtype, [&](auto t) {
      using T = decltype(t);
      using A = Acc<T>;
      A* dposition = position ? gradient_of<T>(position) + first * C : nullptr;
      const T* dy = tape.gradient_of_output<T>(y);
      if constexpr (cpu_computes<T>) {
        if (tape.on_cpu()) {
          return token_embedding_backward_cpu(gradient_of<T>(w), dposition, gradient_of<T>(scale),
                                              dy, tokens.as<int32_t>(), w->as<T>(),
                                              values_of<T>(scale), rows, T_, C, V);
        }
      }
      if constexpr (gpu_computes<T>) {
        token_embedding_backward_gpu(tape, gradient_of<T>(w), dposition, gradient_of<T>(scale), dy,
                                     tokens.as<int32_t>(), w->as<T>(), values_of<T>(scale), rows,
                                     T_, C, V);
      }
    });
  });
  return y;
}

}  // namespace dyt
