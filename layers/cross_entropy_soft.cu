// Cross-entropy with soft targets, as mixup makes them (arXiv 1710.09412): cross_entropy.cu with
// other targets than a label for each row.
//
// (1) The mathematics. logits l (rows, K); targets t (rows, K), which need not sum to 1:
//
//       p(k) = exp(l(k)) / sum over j of exp(l(j))
//       loss = mean over rows of  -sum over k of t(k) log p(k)
//
//     With max = max over k of l(k), and log_sum = log of the sum over k of exp(l(k) - max):
//
//       loss of a row = (sum of t) log_sum - sum over k of t(k) (l(k) - max)
//
//     Backward, p being computed again:
//
//       dl(k) = dloss / rows ((sum of t) p(k) - t(k))
#include <algorithm>

#include "core/cpu_math.h"
#include "core/dispatch.h"
#include "layers/row_loss.h"

namespace dyt {
namespace {

// (2) The CPU loops -------------------------------------------------------------------------------

// max, log_sum, target_sums and losses are (rows).
template <class T>
void cross_entropy_soft_forward_cpu(T* losses, T* max, T* log_sum, T* target_sums, const T* logits,
                                    const float* targets, int64_t rows, int64_t K) {
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

// One block per row, as in cross_entropy.cu: the sum of t (l - m) follows the running maximum m as
// well. Reads logits and targets once: 6 bytes an element in bf16.
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
    sum *= exp_approx(m - risen);
    if (sum_t != 0) sum_tl -= sum_t * (risen - m);
    m = risen;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      sum += exp_approx(float(in.v[i]) - m);
      sum_t += target.v[i];
      if (target.v[i] != 0) sum_tl += target.v[i] * (float(in.v[i]) - m);
    }
  }
  const float row_max = block_max(m);
  const float row_sum = block_sum(sum * exp_approx(m - row_max)), row_sum_t = block_sum(sum_t);
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
      const float p = exp_approx(float(in.v[i]) - m - s);
      out.v[i] = T((add ? float(out.v[i]) : 0.0f) + scale * (sum_t * p - target.v[i]));
    }
    store<V>(dl + k, out);
  }
}

template <class T>
void cross_entropy_soft_forward_gpu(float* losses, float* max, float* log_sum, float* target_sums,
                                    const T* logits, const float* targets, int64_t rows,
                                    int64_t K) {
  constexpr int full = 16 / sizeof(T);
  const auto kernel = vector_width<T>(K) == full ? cross_entropy_soft_forward_kernel<full, T>
                                                 : cross_entropy_soft_forward_kernel<1, T>;
  launch(kernel, unsigned(rows), threads_for(K))(losses, max, log_sum, target_sums, logits, targets,
                                                 int(K));
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
  const Tensor target_sums = tape.constant({rows}, acc), counted = tape.constant({1}, acc);
  on_either(tape, logits.dtype, [&](auto v) {
    using T = decltype(v);
    using A = Acc<T>;
    A* losses = tape.scratch<A>(rows);
    const float* t = targets.as<float>();
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        cross_entropy_soft_forward_cpu(losses, max.as<A>(), log_sum.as<A>(), target_sums.as<A>(),
                                       logits.as<T>(), t, rows, K);
      }
    }
    if constexpr (gpu_computes<T>) {
      if (!tape.on_cpu()) {
        cross_entropy_soft_forward_gpu(losses, max.as<A>(), log_sum.as<A>(), target_sums.as<A>(),
                                       logits.as<T>(), t, rows, K);
      }
    }
    mean_loss<A>(tape, loss.as<A>(), counted.as<A>(), losses, nullptr, rows);
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
