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
//     Rows that are left out (label -1, where LossOptions::ignores allows it) have no loss and no
//     gradient, and `rows`, by which the sum is divided, is the number of the others. A masked
//     language model's loss is such a one, and that of texts padded to one length.
//
//     A label that is not in {0 .. K-1} is an Error on the CPU. A kernel can't throw: there the
//     loss and the row's gradient become NaN, so that it does not go unnoticed.
#include <algorithm>

#include "core/cpu_math.h"
#include "core/dispatch.h"
#include "layers/row_loss.h"

namespace dyt {
namespace {

// (2) The CPU loops -------------------------------------------------------------------------------

// max, log_sum and losses are (rows).
template <class T>
void cross_entropy_forward_cpu(T* losses, T* max, T* log_sum, const T* logits,
                               const int32_t* labels, const LossOptions& options, int64_t rows,
                               int64_t K) {
  const T smoothing = T(options.smoothing);
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
    losses[r] = 0;
    if (left_out(labels[r], options.ignores)) continue;
    losses[r] = log_sum[r] - (1 - smoothing) * (l[labels[r]] - m);
    if (smoothing > 0) losses[r] -= smoothing * sum_l / T(K);
  }
}

// dlogits = ..., or added to if `add`. counted: the number of rows that count.
template <class T>
void cross_entropy_backward_cpu(T* dlogits, bool add, const T* dloss, const T* counted,
                                const T* max, const T* log_sum, const T* logits,
                                const int32_t* labels, const LossOptions& options, int64_t rows,
                                int64_t K) {
  const T smoothing = T(options.smoothing), scale = *dloss / *counted, off_label = smoothing / T(K);
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    const T *l = logits + r * K, m = max[r], s = log_sum[r];
    T* dl = dlogits + r * K;
    if (!add) std::fill_n(dl, K, T(0));
    if (left_out(labels[r], options.ignores)) continue;
#pragma omp simd
    for (int64_t k = 0; k < K; ++k) dl[k] += scale * (cpu::exp(l[k] - m - s) - off_label);
    dl[labels[r]] -= scale * (1 - smoothing);
  }
}

// (3) The kernels ---------------------------------------------------------------------------------

// At a time a thread takes 16 bytes of a row: of a row of K logits that begins and ends with full
// packs, one pack, and of another that many single numbers, each a block's width from the next.
template <int V, class T>
struct Taken {
  static constexpr int numbers = 16 / sizeof(T);
  // The place of number i of those that begin at k; the next ones begin at k + step().
  __device__ static int at(int k, int i) { return V > 1 ? k + i : k + i * int(blockDim.x); }
  __device__ static int first() { return int(threadIdx.x) * V; }
  __device__ static int step() { return int(blockDim.x) * numbers; }
  __device__ static void load_numbers(float (&v)[numbers], const T* l, int k, int K, float beyond) {
    Pack<T, V> pack;
    if constexpr (V > 1) pack = load<V>(l + k);
#pragma unroll
    for (int i = 0; i < numbers; ++i) {
      if constexpr (V > 1) {
        v[i] = pack.v[i];
      } else {
        v[i] = at(k, i) < K ? float(l[at(k, i)]) : beyond;
      }
    }
  }
};

// One block per row. Each thread walks over the row once, with a running maximum and a sum of
// exponentials relative to it: when the maximum rises, the sum so far is scaled down. Then the
// threads agree on the maximum and add up. Reads each logit once: 2 bytes in bf16.
template <int V, class T>
__global__ void cross_entropy_forward_kernel(float* losses, float* max, float* log_sum,
                                             const T* logits, const int32_t* labels,
                                             LossOptions options, int K) {
  using My = Taken<V, T>;
  const int64_t r = blockIdx.x;
  const T* l = logits + r * K;
  float m = -FLT_MAX, sum = 0, sum_l = 0;  // finite: m - m must not be NaN
  for (int k = My::first(); k < K; k += My::step()) {
    float v[My::numbers], risen = m;
    My::load_numbers(v, l, k, K, -FLT_MAX);
#pragma unroll
    for (int i = 0; i < My::numbers; ++i) risen = fmaxf(risen, v[i]);
    sum *= exp_approx(m - risen);
    m = risen;
#pragma unroll
    for (int i = 0; i < My::numbers; ++i) {
      sum += exp_approx(v[i] - m);
      sum_l += V > 1 || My::at(k, i) < K ? v[i] : 0.0f;
    }
  }
  const float row_max = block_max(m);
  const float row_sum = block_sum(sum * exp_approx(m - row_max)), row_sum_l = block_sum(sum_l);
  if (threadIdx.x > 0) return;
  const int label = labels[r];
  const float smoothing = options.smoothing;
  float loss = NAN;
  if (label >= 0 && label < K) {
    loss = logf(row_sum) - (1 - smoothing) * (float(l[label]) - row_max);
    if (smoothing > 0) loss -= smoothing * (row_sum_l / float(K) - row_max);
  } else if (left_out(label, options.ignores)) {
    loss = 0;
  }
  max[r] = row_max;
  log_sum[r] = logf(row_sum);
  losses[r] = loss;
}

// One block per row; reads and writes each element once, 4 bytes in bf16.
template <int V, class T>
__global__ void cross_entropy_backward_kernel(T* dlogits, bool add, const float* dloss,
                                              const float* counted, const float* max,
                                              const float* log_sum, const T* logits,
                                              const int32_t* labels, LossOptions options, int K) {
  using My = Taken<V, T>;
  const int64_t r = blockIdx.x;
  const T* l = logits + r * K;
  T* dl = dlogits + r * K;
  const int label = labels[r];
  const bool without = left_out(label, options.ignores);
  const float m = max[r], s = log_sum[r], off_label = options.smoothing / float(K);
  const float scale = label >= 0 && label < K ? *dloss / *counted : NAN;
  for (int k = My::first(); k < K; k += My::step()) {
    float v[My::numbers], out[My::numbers] = {};
    My::load_numbers(v, l, k, K, 0);
    if (add) My::load_numbers(out, dl, k, K, 0);
#pragma unroll
    for (int i = 0; i < My::numbers; ++i) {
      const float p = exp_approx(v[i] - m - s);
      const float q = (My::at(k, i) == label ? 1 - options.smoothing : 0.0f) + off_label;
      out[i] += without ? 0.0f : scale * (p - q);
    }
    if constexpr (V > 1) {
      store<V>(dl + k, out);
    } else {
#pragma unroll
      for (int i = 0; i < My::numbers; ++i) {
        if (My::at(k, i) < K) dl[My::at(k, i)] = T(out[i]);
      }
    }
  }
}

template <class T>
void cross_entropy_forward_gpu(float* losses, float* max, float* log_sum, const T* logits,
                               const int32_t* labels, const LossOptions& options, int64_t rows,
                               int64_t K) {
  constexpr int full = 16 / sizeof(T);
  const auto kernel = vector_width<T>(K) == full ? cross_entropy_forward_kernel<full, T>
                                                 : cross_entropy_forward_kernel<1, T>;
  launch(kernel, unsigned(rows), threads_for(K))(losses, max, log_sum, logits, labels, options,
                                                 int(K));
}

template <class T>
void cross_entropy_backward_gpu(T* dlogits, bool add, const float* dloss, const float* counted,
                                const float* max, const float* log_sum, const T* logits,
                                const int32_t* labels, const LossOptions& options, int64_t rows,
                                int64_t K) {
  constexpr int full = 16 / sizeof(T);
  const auto kernel = vector_width<T>(K) == full ? cross_entropy_backward_kernel<full, T>
                                                 : cross_entropy_backward_kernel<1, T>;
  launch(kernel, unsigned(rows), threads_for(K))(dlogits, add, dloss, counted, max, log_sum, logits,
                                                 labels, options, int(K));
}

}  // namespace

// (4) The op --------------------------------------------------------------------------------------

Tensor cross_entropy(Tape& tape, const Tensor& logits, const Tensor& labels,
                     const LossOptions& options) {
  const int64_t rows = logits.rows(), K = logits.channels();
  require(labels.size() == rows, "cross_entropy: ", labels.size(), " labels for ", rows,
          " rows of logits ", logits.shape.text());
  require(options.smoothing >= 0 && options.smoothing <= 1,
          "cross_entropy: smoothing is a share in [0, 1], not ", options.smoothing);
  require(rows < (int64_t(1) << 31) && K < (1 << 30), "cross_entropy: logits ", logits.shape.text(),
          " are more than a kernel can count");
  const DType acc = accumulator_of(logits.dtype);
  const Tensor loss = tape.empty({1}, acc);
  const Tensor max = tape.constant({rows}, acc), log_sum = tape.constant({rows}, acc);
  const Tensor counted = tape.constant({1}, acc);
  on_either(tape, logits.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    A* losses = tape.scratch<A>(rows);
    const int32_t* label = labels.as<int32_t>();
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        check_labels("cross_entropy", "there are " + std::to_string(K) + " classes", label, rows, K,
                     options.ignores);
        cross_entropy_forward_cpu(losses, max.as<A>(), log_sum.as<A>(), logits.as<T>(), label,
                                  options, rows, K);
      }
    }
    if constexpr (gpu_computes<T>) {
      if (!tape.on_cpu()) {
        cross_entropy_forward_gpu(losses, max.as<A>(), log_sum.as<A>(), logits.as<T>(), label,
                                  options, rows, K);
      }
    }
    mean_loss(tape, loss.as<A>(), counted.as<A>(), losses, options.ignores ? label : nullptr, rows);
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
          return cross_entropy_backward_cpu(dlogits.data, dlogits.add, dloss, counted.as<A>(),
                                            max.as<A>(), log_sum.as<A>(), logits.as<T>(), label,
                                            options, rows, K);
        }
      }
      if constexpr (gpu_computes<T>) {
        cross_entropy_backward_gpu(dlogits.data, dlogits.add, dloss, counted.as<A>(), max.as<A>(),
                                   log_sum.as<A>(), logits.as<T>(), label, options, rows, K);
      }
    });
  });
  return loss;
}

Tensor cross_entropy(Tape& tape, const Tensor& logits, const Tensor& labels, float smoothing) {
  return cross_entropy(tape, logits, labels, LossOptions{.smoothing = smoothing});
}

}  // namespace dyt
