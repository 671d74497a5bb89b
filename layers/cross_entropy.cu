// The loss of a classifier or a language model: softmax and cross-entropy in one, with label
// smoothing as in "Rethinking the Inception Architecture" (arXiv 1512.00567, section 7).
//
// (1) The mathematics. logits l (rows, K); label (rows); smoothing s in [0, 1]:
//
//       p(k) = exp(l(k)) / sum over j of exp(l(j))          q(k) = (1 - s) [k = label] + s / K
//       loss = mean over rows of  -sum over k of q(k) log p(k)
//
//     With max = max over k of l(k), which keeps exp from overflowing, and since q sums to 1:
//
//       log_sum = log of the sum over k of exp(l(k) - max)
//       loss of a row = log_sum - (1 - s) (l(label) - max) - s (mean of l - max)
//
//     Backward, p being computed again as exp(l(k) - max - log_sum) rather than stored:
//
//       dl(k) = dloss / rows (p(k) - q(k))
//
//     With soft targets t (rows, K), as mixup makes them, q = t, which need not sum to 1:
//
//       loss of a row = (sum of t) log_sum - sum over k of t(k) (l(k) - max)
//       dl(k) = dloss / rows ((sum of t) p(k) - t(k))
//
//     A label that is not in {0 .. K-1} is an Error on the CPU. A kernel can't throw: there the
//     loss and the row's gradient become NaN, so that it does not go unnoticed.
#include <algorithm>
#include <cfloat>

#include "core/cpu_math.h"
#include "core/dispatch.h"
#include "core/kernel.h"
#include "layers/layers.h"

namespace dyt {
namespace {

// (2) The CPU loops -------------------------------------------------------------------------------

void check_labels(const int32_t* labels, int64_t rows, int64_t K) {
  for (int64_t r = 0; r < rows; ++r) {
    require(labels[r] >= 0 && labels[r] < K, "cross_entropy: the label of row ", r, " is ",
            labels[r], ", but there are ", K, " classes, 0 to ", K - 1);
  }
}

// max, log_sum and losses are (rows).
template <class T>
void cross_entropy_forward_cpu(T* loss, T* losses, T* max, T* log_sum, const T* logits,
                               const int32_t* labels, T smoothing, int64_t rows, int64_t K) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T* l = logits + r * K;
    T m = l[0], sum = 0, sum_l = 0;
#pragma omp simd reduction(max : m)
    for (int64_t k = 0; k < K; ++k) m = l[k] > m ? l[k] : m;
#pragma omp simd reduction(+ : sum, sum_l)
    for (int64_t k = 0; k < K; ++k) {
      sum += cpu::exp(l[k] - m);
      sum_l += l[k] - m;
    }
    max[r] = m;
    log_sum[r] = std::log(sum);
    losses[r] = log_sum[r] - (1 - smoothing) * (l[labels[r]] - m);
    if (smoothing > 0) losses[r] -= smoothing * sum_l / T(K);
  }
  double total = 0;
  for (int64_t r = 0; r < rows; ++r) total += double(losses[r]);
  *loss = T(total / double(rows));
}

// dlogits = ..., or added to if `add`.
template <class T>
void cross_entropy_backward_cpu(T* dlogits, bool add, const T* dloss, const T* max,
                                const T* log_sum, const T* logits, const int32_t* labels,
                                T smoothing, int64_t rows, int64_t K) {
  const T scale = *dloss / T(rows), off_label = smoothing / T(K);
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T *l = logits + r * K, m = max[r], s = log_sum[r];
    T* dl = dlogits + r * K;
    if (!add) std::fill_n(dl, K, T(0));
#pragma omp simd
    for (int64_t k = 0; k < K; ++k) dl[k] += scale * (cpu::exp(l[k] - m - s) - off_label);
    dl[labels[r]] -= scale * (1 - smoothing);
  }
}

// target_sums is (rows), too.
template <class T>
void cross_entropy_soft_forward_cpu(T* loss, T* losses, T* max, T* log_sum, T* target_sums,
                                    const T* logits, const float* targets, int64_t rows,
                                    int64_t K) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T* l = logits + r * K;
    const float* t = targets + r * K;
    T m = l[0], sum = 0, sum_t = 0, sum_tl = 0;
#pragma omp simd reduction(max : m)
    for (int64_t k = 0; k < K; ++k) m = l[k] > m ? l[k] : m;
#pragma omp simd reduction(+ : sum, sum_t, sum_tl)
    for (int64_t k = 0; k < K; ++k) {
      sum += cpu::exp(l[k] - m);
      sum_t += T(t[k]);
      sum_tl += t[k] == 0 ? T(0) : T(t[k]) * (l[k] - m);  // 0, too, for a logit of -infinity
    }
    max[r] = m;
    log_sum[r] = std::log(sum);
    target_sums[r] = sum_t;
    losses[r] = sum_t * log_sum[r] - sum_tl;
  }
  double total = 0;
  for (int64_t r = 0; r < rows; ++r) total += double(losses[r]);
  *loss = T(total / double(rows));
}

template <class T>
void cross_entropy_soft_backward_cpu(T* dlogits, bool add, const T* dloss, const T* max,
                                     const T* log_sum, const T* target_sums, const T* logits,
                                     const float* targets, int64_t rows, int64_t K) {
  const T scale = *dloss / T(rows);
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T *l = logits + r * K, m = max[r], s = log_sum[r], sum_t = target_sums[r];
    const float* t = targets + r * K;
    T* dl = dlogits + r * K;
    if (!add) std::fill_n(dl, K, T(0));
#pragma omp simd
    for (int64_t k = 0; k < K; ++k) dl[k] += scale * (sum_t * cpu::exp(l[k] - m - s) - T(t[k]));
  }
}

// (3) The kernels ---------------------------------------------------------------------------------

// Maximum over a block; every thread gets the result. As block_sum in core/kernel.h.
__device__ inline float block_max(float v) {
  SHARED(float, partial, [32]);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int warps = int(blockDim.x) / 32;
  v = warp_max(v);
  if (lane == 0) partial[warp] = v;
  __syncthreads();
  v = warp_max(lane < warps ? partial[lane] : -FLT_MAX);
  __syncthreads();
  return v;
}

// One block per row. Each thread walks over its packs of the row once, with a running maximum and a
// sum of exponentials relative to it: when the maximum rises, the sum so far is scaled down. Then
// the threads agree on the maximum and add up. Reads each logit once: 2 bytes in bf16.
template <int V, class T>
__global__ void cross_entropy_forward_kernel(float* losses, float* max, float* log_sum,
                                             const T* logits, const int32_t* labels,
                                             float smoothing, int K) {
  const int64_t r = blockIdx.x;
  const T* l = logits + r * K;
  float m = -FLT_MAX, sum = 0, sum_l = 0;  // finite: m - m must not be NaN
  for (int k = int(threadIdx.x) * V; k < K; k += int(blockDim.x) * V) {
    const Pack<T, V> in = load<V>(l + k);
    float risen = m;
#pragma unroll
    for (int i = 0; i < V; ++i) risen = fmaxf(risen, float(in.v[i]));
    sum *= expf(m - risen);
    m = risen;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      sum += expf(float(in.v[i]) - m);
      sum_l += float(in.v[i]);
    }
  }
  const float row_max = block_max(m);
  const float row_sum = block_sum(sum * expf(m - row_max)), row_sum_l = block_sum(sum_l);
  if (threadIdx.x > 0) return;
  const int label = labels[r];
  float loss = NAN;
  if (label >= 0 && label < K) {
    loss = logf(row_sum) - (1 - smoothing) * (float(l[label]) - row_max);
    if (smoothing > 0) loss -= smoothing * (row_sum_l / float(K) - row_max);
  }
  max[r] = row_max;
  log_sum[r] = logf(row_sum);
  losses[r] = loss;
}

// The second stage: one block adds up the losses of all rows.
__global__ void mean_kernel(float* mean, const float* values, int64_t n) {
  float sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += values[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *mean = sum / float(n);
}

// One block per row; reads and writes each element once, 4 bytes in bf16.
template <int V, class T>
__global__ void cross_entropy_backward_kernel(T* dlogits, bool add, const float* dloss,
                                              const float* max, const float* log_sum,
                                              const T* logits, const int32_t* labels,
                                              float smoothing, int64_t rows, int K) {
  const int64_t r = blockIdx.x;
  const T* l = logits + r * K;
  T* dl = dlogits + r * K;
  const int label = labels[r];
  const float m = max[r], s = log_sum[r], off_label = smoothing / float(K);
  const float scale = label >= 0 && label < K ? *dloss / float(rows) : NAN;
  for (int k = int(threadIdx.x) * V; k < K; k += int(blockDim.x) * V) {
    const Pack<T, V> in = load<V>(l + k);
    Pack<T, V> out;
    if (add) out = load<V>(dl + k);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float p = expf(float(in.v[i]) - m - s);
      const float q = (k + i == label ? 1 - smoothing : 0.0f) + off_label;
      out.v[i] = T((add ? float(out.v[i]) : 0.0f) + scale * (p - q));
    }
    store<V>(dl + k, out);
  }
}

// The same with soft targets: the sum of t (l - m) follows the running maximum m as well. Reads
// logits and targets once: 6 bytes an element in bf16.
template <int V, class T>
__global__ void cross_entropy_soft_forward_kernel(float* losses, float* max, float* log_sum,
                                                  float* target_sums, const T* logits,
                                                  const float* targets, int K) {
  const int64_t r = blockIdx.x;
  const T* l = logits + r * K;
  const float* t = targets + r * K;
  float m = -FLT_MAX, sum = 0, sum_t = 0, sum_tl = 0;
  for (int k = int(threadIdx.x) * V; k < K; k += int(blockDim.x) * V) {
    const Pack<T, V> in = load<V>(l + k);
    const Pack<float, V> target = load<V>(t + k);
    float risen = m;
#pragma unroll
    for (int i = 0; i < V; ++i) risen = fmaxf(risen, float(in.v[i]));
    sum *= expf(m - risen);
    if (sum_t != 0) sum_tl -= sum_t * (risen - m);
    m = risen;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      sum += expf(float(in.v[i]) - m);
      sum_t += target.v[i];
      if (target.v[i] != 0) sum_tl += target.v[i] * (float(in.v[i]) - m);
    }
  }
  const float row_max = block_max(m);
  const float row_sum = block_sum(sum * expf(m - row_max)), row_sum_t = block_sum(sum_t);
  const float row_sum_tl = block_sum(sum_t != 0 ? sum_tl - sum_t * (row_max - m) : 0.0f);
  if (threadIdx.x > 0) return;
  max[r] = row_max;
  log_sum[r] = logf(row_sum);
  target_sums[r] = row_sum_t;
  losses[r] = row_sum_t * logf(row_sum) - row_sum_tl;
}

// One block per row; 8 bytes an element in bf16.
template <int V, class T>
__global__ void cross_entropy_soft_backward_kernel(T* dlogits, bool add, const float* dloss,
                                                   const float* max, const float* log_sum,
                                                   const float* target_sums, const T* logits,
                                                   const float* targets, int64_t rows, int K) {
  const int64_t r = blockIdx.x;
  const T* l = logits + r * K;
  const float* t = targets + r * K;
  T* dl = dlogits + r * K;
  const float m = max[r], s = log_sum[r], sum_t = target_sums[r], scale = *dloss / float(rows);
  for (int k = int(threadIdx.x) * V; k < K; k += int(blockDim.x) * V) {
    const Pack<T, V> in = load<V>(l + k);
    const Pack<float, V> target = load<V>(t + k);
    Pack<T, V> out;
    if (add) out = load<V>(dl + k);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float p = expf(float(in.v[i]) - m - s);
      out.v[i] = T((add ? float(out.v[i]) : 0.0f) + scale * (sum_t * p - target.v[i]));
    }
    store<V>(dl + k, out);
  }
}

// Threads for a row of K logits: one warp does for a few hundred classes.
inline unsigned threads_for(int64_t K) { return K <= 512 ? 32 : K <= 4096 ? 256 : 1024; }

template <class T>
void cross_entropy_forward_gpu(float* loss, float* losses, float* max, float* log_sum,
                               const T* logits, const int32_t* labels, float smoothing,
                               int64_t rows, int64_t K) {
  constexpr int full = 16 / sizeof(T);
  const auto kernel = vector_width<T>(K) == full ? cross_entropy_forward_kernel<full, T>
                                                 : cross_entropy_forward_kernel<1, T>;
  launch(kernel, unsigned(rows), threads_for(K))(losses, max, log_sum, logits, labels, smoothing,
                                                 int(K));
  launch(mean_kernel, 1, 512)(loss, losses, rows);
}

template <class T>
void cross_entropy_backward_gpu(T* dlogits, bool add, const float* dloss, const float* max,
                                const float* log_sum, const T* logits, const int32_t* labels,
                                float smoothing, int64_t rows, int64_t K) {
  constexpr int full = 16 / sizeof(T);
  const auto kernel = vector_width<T>(K) == full ? cross_entropy_backward_kernel<full, T>
                                                 : cross_entropy_backward_kernel<1, T>;
  launch(kernel, unsigned(rows), threads_for(K))(dlogits, add, dloss, max, log_sum, logits, labels,
                                                 smoothing, rows, int(K));
}

template <class T>
void cross_entropy_soft_forward_gpu(float* loss, float* losses, float* max, float* log_sum,
                                    float* target_sums, const T* logits, const float* targets,
                                    int64_t rows, int64_t K) {
  constexpr int full = 16 / sizeof(T);
  const auto kernel = vector_width<T>(K) == full ? cross_entropy_soft_forward_kernel<full, T>
                                                 : cross_entropy_soft_forward_kernel<1, T>;
  launch(kernel, unsigned(rows), threads_for(K))(losses, max, log_sum, target_sums, logits, targets,
                                                 int(K));
  launch(mean_kernel, 1, 512)(loss, losses, rows);
}

template <class T>
void cross_entropy_soft_backward_gpu(T* dlogits, bool add, const float* dloss, const float* max,
                                     const float* log_sum, const float* target_sums,
                                     const T* logits, const float* targets, int64_t rows,
                                     int64_t K) {
  constexpr int full = 16 / sizeof(T);
  const auto kernel = vector_width<T>(K) == full ? cross_entropy_soft_backward_kernel<full, T>
                                                 : cross_entropy_soft_backward_kernel<1, T>;
  launch(kernel, unsigned(rows), threads_for(K))(dlogits, add, dloss, max, log_sum, target_sums,
                                                 logits, targets, rows, int(K));
}

}  // namespace

// (4) The op --------------------------------------------------------------------------------------

Tensor cross_entropy(Tape& tape, const Tensor& logits, const Tensor& labels, float smoothing) {
  const int64_t rows = logits.rows(), K = logits.channels();
  require(labels.size() == rows, "cross_entropy: ", labels.size(), " labels for ", rows,
          " rows of logits ", logits.shape.text());
  require(smoothing >= 0 && smoothing <= 1, "cross_entropy: smoothing is a share in [0, 1], not ",
          smoothing);
  require(rows < (int64_t(1) << 31) && K < (1 << 30), "cross_entropy: logits ", logits.shape.text(),
          " are more than a kernel can count");
  const DType acc = accumulator_of(logits.dtype);
  const Tensor loss = tape.empty({1}, acc);
  const Tensor max = tape.constant({rows}, acc), log_sum = tape.constant({rows}, acc);
  on_either(tape, logits.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    A* losses = tape.scratch<A>(rows);
    const int32_t* label = labels.as<int32_t>();
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        check_labels(label, rows, K);
        return cross_entropy_forward_cpu(loss.as<A>(), losses, max.as<A>(), log_sum.as<A>(),
                                         logits.as<T>(), label, T(smoothing), rows, K);
      }
    }
    if constexpr (gpu_computes<T>) {
      cross_entropy_forward_gpu(loss.as<A>(), losses, max.as<A>(), log_sum.as<A>(), logits.as<T>(),
                                label, smoothing, rows, K);
    }
  });
  tape.record(loss, [=, &tape] {
    on_either(tape, logits.dtype, [&](auto t) {
      using T = decltype(t);
      using A = Acc<T>;
      const auto dlogits = tape.gradient<T>(logits);
      if (!dlogits) return;
      const A* dloss = tape.gradient_of_output<A>(loss);
      const int32_t* label = labels.as<int32_t>();
      if constexpr (cpu_computes<T>) {
        if (tape.on_cpu()) {
          return cross_entropy_backward_cpu(dlogits.data, dlogits.add, dloss, max.as<A>(),
                                            log_sum.as<A>(), logits.as<T>(), label, T(smoothing),
                                            rows, K);
        }
      }
      if constexpr (gpu_computes<T>) {
        cross_entropy_backward_gpu(dlogits.data, dlogits.add, dloss, max.as<A>(), log_sum.as<A>(),
                                   logits.as<T>(), label, smoothing, rows, K);
      }
    });
  });
  return loss;
}

Tensor cross_entropy_soft(Tape& tape, const Tensor& logits, const Tensor& targets) {
  const int64_t rows = logits.rows(), K = logits.channels();
  require(targets.size() == logits.size() && targets.channels() == K,
          "cross_entropy_soft: targets ", targets.shape.text(), " for logits ",
          logits.shape.text());
  require(rows < (int64_t(1) << 31) && K < (1 << 30), "cross_entropy_soft: logits ",
          logits.shape.text(), " are more than a kernel can count");
  const DType acc = accumulator_of(logits.dtype);
  const Tensor loss = tape.empty({1}, acc);
  const Tensor max = tape.constant({rows}, acc), log_sum = tape.constant({rows}, acc);
  const Tensor target_sums = tape.constant({rows}, acc);
  on_either(tape, logits.dtype, [&](auto v) {
    using T = decltype(v);
    using A = Acc<T>;
    A* losses = tape.scratch<A>(rows);
    const float* t = targets.as<float>();
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        return cross_entropy_soft_forward_cpu(loss.as<A>(), losses, max.as<A>(), log_sum.as<A>(),
                                              target_sums.as<A>(), logits.as<T>(), t, rows, K);
      }
    }
    if constexpr (gpu_computes<T>) {
      cross_entropy_soft_forward_gpu(loss.as<A>(), losses, max.as<A>(), log_sum.as<A>(),
                                     target_sums.as<A>(), logits.as<T>(), t, rows, K);
    }
  });
  tape.record(loss, [=, &tape] {
    on_either(tape, logits.dtype, [&](auto v) {
      using T = decltype(v);
      using A = Acc<T>;
      const auto dlogits = tape.gradient<T>(logits);
      if (!dlogits) return;
      const A* dloss = tape.gradient_of_output<A>(loss);
      const float* t = targets.as<float>();
      if constexpr (cpu_computes<T>) {
        if (tape.on_cpu()) {
          return cross_entropy_soft_backward_cpu(dlogits.data, dlogits.add, dloss, max.as<A>(),
                                                 log_sum.as<A>(), target_sums.as<A>(),
                                                 logits.as<T>(), t, rows, K);
        }
      }
      if constexpr (gpu_computes<T>) {
        cross_entropy_soft_backward_gpu(dlogits.data, dlogits.add, dloss, max.as<A>(),
                                        log_sum.as<A>(), target_sums.as<A>(), logits.as<T>(), t,
                                        rows, K);
      }
    });
  });
  return loss;
}

}  // namespace dyt
