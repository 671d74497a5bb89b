// The output of a language model and its loss in one: logits from the token embedding ("Using the
// Output Embedding to Improve Language Models", arXiv 1608.05859), softmax, cross-entropy.
//
// (1) The mathematics. x (rows, C); weight (V, C), the token embedding or a matrix of its own;
//     label (rows) in {0 .. V-1}:
//
//       l = x weight'                                          (rows, V)
//       p(r, k) = exp(l(r, k) - max - log_sum)                 as in cross_entropy.cu
//       loss = mean over rows of  log_sum - (l(r, label) - max)
//
//       dl(r, k) = dloss / rows (p(r, k) - [k = label])
//       dx = dl weight         dweight = dl' x
//
//     With a vocabulary of 50,257 words the logits are the largest thing in the model: 16 texts of
//     1,024 tokens have 1.6 GB of them in bf16, and their gradient is as large. But a row of logits
//     is needed only until its row of dx and its share of dweight are known. So the rows are cut
//     into chunks, and each chunk goes all the way at once: logits, loss, dlogits in their place,
//     dx, and dweight added up over the chunks. What is kept for the backward pass is dx and
//     dweight for dloss = 1, and it only has to multiply them by dloss: memory is chunk x V + V x
//     C, whatever the rows, and no product is done twice. When the tape isn't training, there is
//     only the loss.
//
//     A label that is not in {0 .. V-1} is an Error on the CPU. A kernel can't throw: there the
//     loss and the row's gradient become NaN.
#include <cfloat>

#include "core/cpu_math.h"
#include "core/dispatch.h"
#include "core/kernel.h"
#include "core/matmul.h"
#include "layers/layers.h"

namespace dyt {
namespace {

// (2) The CPU loops -------------------------------------------------------------------------------

void check_labels(const int32_t* labels, int64_t rows, int64_t V) {
  for (int64_t r = 0; r < rows; ++r) {
    require(labels[r] >= 0 && labels[r] < V, "tied_head: the label of row ", r, " is ", labels[r],
            ", but the vocabulary has ", V, " words, 0 to ", V - 1);
  }
}

// losses of a chunk's rows; with_gradient: the logits become `scale` (p - [k = label]).
template <bool with_gradient, class T>
void row_losses_cpu(T* losses, T* logits, const int32_t* labels, T scale, int64_t rows, int64_t V) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    T* l = logits + r * V;
    T max = l[0], sum = 0;
#pragma omp simd reduction(max : max)
    for (int64_t k = 0; k < V; ++k) max = l[k] > max ? l[k] : max;
    const T at_label = l[labels[r]] - max;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < V; ++k) {
      const T e = cpu::exp(l[k] - max);
      if (with_gradient) l[k] = e;
      sum += e;
    }
    losses[r] = std::log(sum) - at_label;
    if (!with_gradient) continue;
    const T share = scale / sum;
#pragma omp simd
    for (int64_t k = 0; k < V; ++k) l[k] *= share;
    l[labels[r]] -= scale;
  }
}

template <class T>
void mean_cpu(T* mean, const T* values, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += double(values[i]);
  *mean = T(total / double(n));
}

// to = factor * from, or += if `add`.
template <class T>
void scale_cpu(T* to, bool add, const T* from, const T* factor, int64_t n) {
  const T f = *factor;
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i) to[i] = (add ? to[i] : T(0)) + f * from[i];
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

// One block per row of a chunk. The first pass over the row finds the maximum and the sum of the
// exponentials together: when a thread's maximum rises, its sum so far is scaled down. The second,
// which finds the row in the cache (a row of GPT-2 takes 100 KB), puts dl in its place. Reads 2
// bytes per logit in bf16, and in training writes 2.
template <bool with_gradient, int V, class T>
__global__ void row_losses_kernel(float* losses, T* logits, const int32_t* labels, float scale,
                                  int vocabulary) {
  const int64_t r = blockIdx.x;
  T* l = logits + r * vocabulary;
  const int label = labels[r];
  const bool known = label >= 0 && label < vocabulary;
  const float at_label = known ? float(l[label]) : NAN;
  float max = -FLT_MAX, sum = 0;  // finite: max - max must not be NaN
  for (int k = int(threadIdx.x) * V; k < vocabulary; k += int(blockDim.x) * V) {
    const Pack<T, V> in = load<V>(l + k);
    float risen = max;
#pragma unroll
    for (int i = 0; i < V; ++i) risen = fmaxf(risen, float(in.v[i]));
    sum *= expf(max - risen);
    max = risen;
#pragma unroll
    for (int i = 0; i < V; ++i) sum += expf(float(in.v[i]) - max);
  }
  const float row_max = block_max(max);
  const float log_sum = logf(block_sum(sum * expf(max - row_max)));
  if (threadIdx.x == 0) losses[r] = log_sum - (at_label - row_max);
  if (!with_gradient) return;
  // The barriers of block_sum lie between every thread's reading of l[label] and this.
  const float factor = known ? scale : NAN;
  for (int k = int(threadIdx.x) * V; k < vocabulary; k += int(blockDim.x) * V) {
    Pack<T, V> pack = load<V>(l + k);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float p = expf(float(pack.v[i]) - row_max - log_sum);
      pack.v[i] = T(factor * (p - (k + i == label ? 1.0f : 0.0f)));
    }
    store<V>(l + k, pack);
  }
}

// One block adds up the losses of all rows.
__global__ void mean_kernel(float* mean, const float* values, int64_t n) {
  float sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += values[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *mean = sum / float(n);
}

// One thread per pack of V: to = factor * from, or +=.
template <int V, class T>
__global__ void scale_kernel(T* to, bool add, const T* from, const float* factor, int64_t packs) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const Pack<T, V> in = load<V>(from + p * V);
  Pack<T, V> out{};
  if (add) out = load<V>(to + p * V);
#pragma unroll
  for (int i = 0; i < V; ++i) out.v[i] = T(float(out.v[i]) + *factor * float(in.v[i]));
  store<V>(to + p * V, out);
}

template <class T>
void row_losses_gpu(float* losses, T* logits, const int32_t* labels, float scale,
                    bool with_gradient, int64_t rows, int64_t V) {
  constexpr int full = 16 / sizeof(T);
  const bool wide = vector_width<T>(V) == full;
  const auto kernel = with_gradient
                          ? wide ? row_losses_kernel<true, full, T> : row_losses_kernel<true, 1, T>
                      : wide ? row_losses_kernel<false, full, T>
                             : row_losses_kernel<false, 1, T>;
  const unsigned threads = V <= 512 ? 32 : V <= 4096 ? 256 : 1024;
  launch(kernel, unsigned(rows), threads)(losses, logits, labels, scale, int(V));
}

template <class T>
void scale_gpu(T* to, bool add, const T* from, const float* factor, int64_t n) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(n);
  launch(V == full ? scale_kernel<full, T> : scale_kernel<1, T>, blocks_for(n / V, 256), 256)(
      to, add, from, factor, n / V);
}

// (4) The op --------------------------------------------------------------------------------------

// Rows of a chunk. On the CPU its logits should stay in the cache between the product that makes
// them and the two that use them; a GPU wants enough rows to be busy.
int64_t default_chunk(const Tape& tape, int64_t rows, int64_t V) {
  const int64_t logits = tape.on_cpu() ? int64_t(1) << 20 : int64_t(1) << 26;
  return std::min(rows, std::max<int64_t>(64, logits / V / 64 * 64));
}

// What the forward pass leaves for the backward pass: gradients for dloss = 1; null if not
// training.
template <class T>
struct HeadGradients {
  T* dx = nullptr;
  Acc<T>* dweight = nullptr;
};

template <class T>
void tied_head_forward(Tape& tape, Acc<T>* loss, HeadGradients<T> out, const T* x, const T* weight,
                       const int32_t* labels, int64_t rows, int64_t C, int64_t V, int64_t chunk) {
  using A = Acc<T>;
  const Device device = tape.device();
  T* logits = tape.scratch<T>(chunk * V);
  A* losses = tape.scratch<A>(rows);
  const double scale = 1 / double(rows);
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t n = std::min(chunk, rows - first);
    const T* x_chunk = x + first * C;
    matmul(device, Op::none, Op::transpose, n, V, C, x_chunk, weight, 0.0f, logits);
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        const auto row_losses = out.dweight ? row_losses_cpu<true, T> : row_losses_cpu<false, T>;
        row_losses(losses + first, logits, labels + first, T(scale), n, V);
      }
    }
    if constexpr (gpu_computes<T>) {
      if (!tape.on_cpu()) {
        row_losses_gpu(losses + first, logits, labels + first, float(scale), out.dweight != nullptr,
                       n, V);
      }
    }
    if (out.dx) {
      matmul(device, Op::none, Op::none, n, C, V, static_cast<const T*>(logits), weight, 0.0f,
             out.dx + first * C);
    }
    if (out.dweight) {
      matmul(device, Op::transpose, Op::none, V, C, n, static_cast<const T*>(logits), x_chunk,
             first ? 1.0f : 0.0f, out.dweight);
    }
  }
  if constexpr (cpu_computes<T>) {
    if (tape.on_cpu()) return mean_cpu(loss, losses, rows);
  }
  if constexpr (gpu_computes<T>) launch(mean_kernel, 1, 1024)(loss, losses, rows);
}

// to += factor * from, or = without `add`.
template <class T>
void scale_into(const Tape& tape, T* to, bool add, const T* from, const Acc<T>* factor, int64_t n) {
  if constexpr (cpu_computes<T>) {
    if (tape.on_cpu()) return scale_cpu(to, add, from, factor, n);
  }
  if constexpr (gpu_computes<T>) scale_gpu(to, add, from, factor, n);
}

void check_head(const Tensor& x, const Parameter& weight) {
  require(weight.shape.rank() == 2 && weight.shape[1] == x.channels(), "tied_head: weight ",
          weight.name, " ", weight.shape.text(), " does not take ", x.channels(), " channels");
}

}  // namespace

Tensor tied_head(Tape& tape, const Tensor& x, const Parameter& weight, const Tensor& labels,
                 int64_t chunk_rows) {
  check_head(x, weight);
  const int64_t rows = x.rows(), C = x.channels(), V = weight.shape[0];
  require(labels.size() == rows, "tied_head: ", labels.size(), " labels for ", rows, " rows of x ",
          x.shape.text());
  require(chunk_rows >= 0, "tied_head: chunk_rows is ", chunk_rows, "; 0 chooses one");
  require(rows < (int64_t(1) << 31) && V < (1 << 30), "tied_head: ", rows, " rows of ", V,
          " logits are more than a kernel can count");
  const int64_t chunk = chunk_rows ? std::min(chunk_rows, rows) : default_chunk(tape, rows, V);
  const DType acc = accumulator_of(x.dtype);
  const Tensor loss = tape.empty({1}, acc);
  Tensor dx, dweight;  // for dloss = 1
  if (tape.training) {
    if (x.grad) dx = tape.constant(x.shape, x.dtype);
    dweight = tape.constant(weight.shape, acc);
  }
  const Parameter* w = &weight;
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    const int32_t* label = labels.as<int32_t>();
    if (tape.on_cpu()) check_labels(label, rows, V);
    const HeadGradients<T> out{static_cast<T*>(dx.data), static_cast<A*>(dweight.data)};
    tied_head_forward<T>(tape, loss.as<A>(), out, x.as<T>(), w->as<T>(), label, rows, C, V, chunk);
  });
  tape.record(loss, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      using A = Acc<T>;
      const A* dloss = tape.gradient_of_output<A>(loss);
      scale_into<A>(tape, gradient_of<T>(w), true, dweight.as<A>(), dloss, V * C);
      if (const auto target = tape.gradient<T>(x)) {
        scale_into<T>(tape, target.data, target.add, dx.as<T>(), dloss, rows * C);
      }
    });
  });
  return loss;
}

Tensor tied_logits(Tape& tape, const Tensor& x, const Parameter& weight) {
  check_head(x, weight);
  return linear(tape, x, weight, nullptr);
}

}  // namespace dyt
