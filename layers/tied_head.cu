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
//     Smoothed labels and rows that are left out are as in cross_entropy.cu.
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
#include "core/cpu_math.h"
#include "core/dispatch.h"
#include "core/matmul.h"
#include "layers/row_loss.h"

namespace dyt {
namespace {

// (2) The CPU loops -------------------------------------------------------------------------------

// losses of a chunk's rows; with_gradient: the logits become `scale` (p - q).
template <bool with_gradient, class T>
void row_losses_cpu(T* losses, T* logits, const int32_t* labels, T scale,
                    const LossOptions& options, int64_t rows, int64_t V) {
  const T on_label = T(1 - options.smoothing), off_label = T(options.smoothing) / T(V);
#pragma omp parallel for
  for (int64_t r = 0; r < rows; ++r) {
    T* l = logits + r * V;
    if (left_out(labels[r], options.ignores)) {
      losses[r] = 0;
      if (with_gradient) std::fill_n(l, V, T(0));
      continue;
    }
    T max = l[0], sum = 0, sum_l = 0;
#pragma omp simd reduction(max : max)
    for (int64_t k = 0; k < V; ++k) max = l[k] > max ? l[k] : max;
    if (off_label > 0) {
#pragma omp simd reduction(+ : sum_l)
      for (int64_t k = 0; k < V; ++k) sum_l += l[k] - max;
    }
    const T at_label = l[labels[r]] - max;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < V; ++k) {
      const T e = cpu::exp(l[k] - max);
      if (with_gradient) l[k] = e;
      sum += e;
    }
    losses[r] = std::log(sum) - on_label * at_label - off_label * sum_l;
    if (!with_gradient) continue;
    const T share = scale / sum, off = scale * off_label;
#pragma omp simd
    for (int64_t k = 0; k < V; ++k) l[k] = l[k] * share - off;
    l[labels[r]] -= scale * on_label;
  }
}

// to = dloss * rows / counted * from, or += if `add`: from was made for dloss = 1 and all rows.
template <class T>
void scale_cpu(T* to, bool add, const T* from, const T* dloss, T rows, const T* counted,
               int64_t n) {
  const T f = *dloss * (rows / *counted);
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i) to[i] = (add ? to[i] : T(0)) + f * from[i];
}

// (3) The kernels ---------------------------------------------------------------------------------

// One block per row of a chunk; rows lie `apart` numbers apart, a multiple of V, and what is
// between them is not looked at: a word beyond the vocabulary has probability 0, and up to the word
// `stored` a gradient of 0. The first pass over the row finds the maximum and the sum of the
// exponentials together: when a thread's maximum rises, its sum so far is scaled down. The second,
// which finds the row in the cache (a row of GPT-2 takes 100 KB), puts dl in its place. Reads 2
// bytes per logit in bf16, and in training writes 2.
template <bool with_gradient, int V, class T>
__global__ void __launch_bounds__(1024)
    row_losses_kernel(float* losses, T* logits, const int32_t* labels, float scale,
                      LossOptions options, int vocabulary, int stored, int64_t apart) {
  const int64_t r = blockIdx.x;
  T* l = logits + r * apart;
  const int label = labels[r];
  const bool known = label >= 0 && label < vocabulary;
  const bool without = left_out(label, options.ignores);
  const float on_label = 1 - options.smoothing, off_label = options.smoothing / float(vocabulary);
  const float at_label = known ? float(l[label]) : NAN;
  float max = -FLT_MAX, sum = 0, sum_l = 0;  // finite: max - max must not be NaN
  for (int k = int(threadIdx.x) * V; k < vocabulary; k += int(blockDim.x) * V) {
    const Pack<T, V> in = load<V>(l + k);
    const int within = vocabulary - k;  // of the last pack, only so many are words
    float v[V], risen = max;
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = float(in.v[i]);
    if (off_label > 0) {
#pragma unroll
      for (int i = 0; i < V; ++i) sum_l += i < within ? v[i] : 0.0f;
    }
    if (within < V) {
#pragma unroll
      for (int i = 0; i < V; ++i) v[i] = i < within ? v[i] : -FLT_MAX;
    }
#pragma unroll
    for (int i = 0; i < V; ++i) risen = fmaxf(risen, v[i]);
    sum *= exp_approx(max - risen);
    max = risen;
#pragma unroll
    for (int i = 0; i < V; ++i) sum += exp_approx(v[i] - max);
  }
  const float row_max = block_max(max);
  const float log_sum = logf(block_sum(sum * exp_approx(max - row_max)));
  float loss = log_sum - on_label * (at_label - row_max);
  if (off_label > 0) loss -= off_label * block_sum(sum_l) - options.smoothing * row_max;
  if (threadIdx.x == 0) losses[r] = without ? 0.0f : loss;
  if (!with_gradient) return;
  // The barriers of block_sum lie between every thread's reading of l[label] and this.
  const float factor = known ? scale : NAN;
  const auto gradient = [&](float logit, float q) {
    return factor * (exp2_approx(log2_e * (logit - row_max) - log2_e * log_sum) - q);
  };
  for (int k = int(threadIdx.x) * V; k < stored; k += int(blockDim.x) * V) {
    const Pack<T, V> in = load<V>(l + k);
    float out[V];
#pragma unroll
    for (int i = 0; i < V; ++i) out[i] = gradient(float(in.v[i]), off_label);
    if (without || k + V > vocabulary) {
#pragma unroll
      for (int i = 0; i < V; ++i) out[i] = without || k + i >= vocabulary ? 0.0f : out[i];
    }
    store<V>(l + k, out);
    // One pack of the row has the label in it, and its thread writes that number again.
    if (known && unsigned(label - k) < unsigned(V)) {
      l[label] = T(gradient(at_label, on_label + off_label));
    }
  }
}

// One thread per pack of V: as scale_cpu. In bf16 4 bytes per number, 6 if `add`.
template <int V, class T>
__global__ void scale_kernel(T* to, bool add, const T* from, const float* dloss, float rows,
                             const float* counted, int64_t packs) {
  const int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const float factor = *dloss * (rows / *counted);
  const Pack<T, V> in = load<V>(from + p * V);
  Pack<T, V> out{};
  if (add) out = load<V>(to + p * V);
#pragma unroll
  for (int i = 0; i < V; ++i) out.v[i] = T(float(out.v[i]) + factor * float(in.v[i]));
  store<V>(to + p * V, out);
}

template <class T>
void row_losses_gpu(float* losses, T* logits, const int32_t* labels, float scale,
                    const LossOptions& options, bool with_gradient, int64_t rows, int64_t V,
                    int64_t stored, int64_t apart) {
  constexpr int full = 16 / sizeof(T);
  const auto kernel =
      with_gradient ? row_losses_kernel<true, full, T> : row_losses_kernel<false, full, T>;
  const unsigned threads = V <= 512 ? 32 : V <= 4096 ? 256 : 1024;
  launch(kernel, unsigned(rows), threads)(losses, logits, labels, scale, options, int(V),
                                          int(stored), apart);
}

template <class T>
void scale_gpu(T* to, bool add, const T* from, const float* dloss, float rows, const float* counted,
               int64_t n) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(n);
  launch(V == full ? scale_kernel<full, T> : scale_kernel<1, T>, blocks_for(n / V, 256), 256)(
      to, add, from, dloss, rows, counted, n / V);
}

// (4) The op --------------------------------------------------------------------------------------

// Rows of a chunk. On the CPU its logits should stay in the cache between the product that makes
// them and the two that use them. But every chunk packs the weight twice and reads and writes all
// of dweight in f32, 154 MB for GPT-2: so it has 512 rows at least. A GPU wants many: its 2^29
// logits take 1 GiB in bf16.
int64_t default_chunk(const Tape& tape, int64_t rows, int64_t V) {
  const int64_t logits = tape.on_cpu() ? int64_t(1) << 20 : int64_t(1) << 29;
  return std::min(rows, std::max<int64_t>(512, logits / V / 64 * 64));
}

// How far rows of logits lie apart: on a GPU, on whole packs of 128 bytes. GPT-2's vocabulary is
// odd, and without this nothing could read its logits by more than 2 bytes at a time.
template <class T>
int64_t row_distance(const Tape& tape, int64_t stored) {
  constexpr int64_t pack = 128 / sizeof(T);
  return tape.on_cpu() ? stored : (stored + pack - 1) / pack * pack;
}
// Words of the logits and of dweight: on a GPU with the rows of zeros that may follow in weight.
int64_t stored_words(const Tape& tape, const Parameter& weight) {
  return tape.on_cpu() ? weight.shape[0] : weight.rows_in_memory();
}

// What the forward pass leaves for the backward pass: gradients for dloss = 1; null if not
// training.
template <class T>
struct HeadGradients {
  T* dx = nullptr;
  Acc<T>* dweight = nullptr;
};

// A product, one of whose matrices is the logits, with rows as far apart as theirs are.
template <class T, class TC>
void head_product(const Tape& tape, Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a,
                  int64_t a_row, const T* b, float beta, TC* c, int64_t c_row) {
  if constexpr (gpu_computes<T>) {
    if (!tape.on_cpu()) {
      return matmul_with_rows(op_a, op_b, m, n, k, a, a_row, b, beta, c, c_row);
    }
  }
  matmul(tape.device(), op_a, op_b, m, n, k, a, b, beta, c);
}

template <class T>
void tied_head_forward(Tape& tape, Acc<T>* loss, Acc<T>* counted, HeadGradients<T> out, const T* x,
                       const Parameter& weight_of, const int32_t* labels,
                       const LossOptions& options, int64_t rows, int64_t C, int64_t chunk) {
  using A = Acc<T>;
  const int64_t V = weight_of.shape[0], stored = stored_words(tape, weight_of);
  const T* weight = weight_of.as<T>();
  const int64_t apart = row_distance<T>(tape, stored);
  T* logits = tape.scratch<T>(chunk * apart);
  A* losses = tape.scratch<A>(rows);
  const double scale = 1 / double(rows);
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t n = std::min(chunk, rows - first);
    const T* x_chunk = x + first * C;
    head_product(tape, Op::none, Op::transpose, n, stored, C, x_chunk, C, weight, 0.0f, logits,
                 apart);
    if constexpr (cpu_computes<T>) {
      if (tape.on_cpu()) {
        const auto row_losses = out.dweight ? row_losses_cpu<true, T> : row_losses_cpu<false, T>;
        row_losses(losses + first, logits, labels + first, T(scale), options, n, V);
      }
    }
    if constexpr (gpu_computes<T>) {
      if (!tape.on_cpu()) {
        row_losses_gpu(losses + first, logits, labels + first, float(scale), options,
                       out.dweight != nullptr, n, V, stored, apart);
      }
    }
    const T* dlogits = logits;
    if (out.dx) {
      head_product(tape, Op::none, Op::none, n, C, stored, dlogits, apart, weight, 0.0f,
                   out.dx + first * C, C);
    }
    if (out.dweight) {
      head_product(tape, Op::transpose, Op::none, stored, C, n, dlogits, apart, x_chunk,
                   first ? 1.0f : 0.0f, out.dweight, C);
    }
  }
  mean_loss(tape, loss, counted, losses, options.ignores ? labels : nullptr, rows);
}

template <class T>
void scale_into(const Tape& tape, T* to, bool add, const T* from, const Acc<T>* dloss, int64_t rows,
                const Acc<T>* counted, int64_t n) {
  if constexpr (cpu_computes<T>) {
    if (tape.on_cpu()) return scale_cpu(to, add, from, dloss, T(rows), counted, n);
  }
  if constexpr (gpu_computes<T>) scale_gpu(to, add, from, dloss, float(rows), counted, n);
}

void check_head(const Tensor& x, const Parameter& weight) {
  require(weight.shape.rank() == 2 && weight.shape[1] == x.channels(), "tied_head: weight ",
          weight.name, " ", weight.shape.text(), " does not take ", x.channels(), " channels");
}

}  // namespace

Tensor tied_head(Tape& tape, const Tensor& x, const Parameter& weight, const Tensor& labels,
                 const LossOptions& options, int64_t chunk_rows) {
  check_head(x, weight);
  const int64_t rows = x.rows(), C = x.channels(), V = weight.shape[0];
  require(labels.size() == rows, "tied_head: ", labels.size(), " labels for ", rows, " rows of x ",
          x.shape.text());
  require(options.smoothing >= 0 && options.smoothing <= 1,
          "tied_head: smoothing is a share in [0, 1], not ", options.smoothing);
  require(chunk_rows >= 0, "tied_head: chunk_rows is ", chunk_rows, "; 0 chooses one");
  require(rows < (int64_t(1) << 31) && V < (1 << 30), "tied_head: ", rows, " rows of ", V,
          " logits are more than a kernel can count");
  const int64_t chunk = chunk_rows ? std::min(chunk_rows, rows) : default_chunk(tape, rows, V);
  const DType acc = accumulator_of(x.dtype);
  const Tensor loss = tape.empty({1}, acc), counted = tape.constant({1}, acc);
  Tensor dx, dweight;  // for dloss = 1
  if (tape.training) {
    if (x.grad) dx = tape.constant(x.shape, x.dtype);
    dweight = tape.constant({stored_words(tape, weight), C}, acc);
  }
  const Parameter* w = &weight;
  on_either(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    const int32_t* label = labels.as<int32_t>();
    if (tape.on_cpu()) {
      check_labels("tied_head", "the vocabulary has " + std::to_string(V) + " words", label, rows,
                   V, options.ignores);
    }
    const HeadGradients<T> out{static_cast<T*>(dx.data), static_cast<A*>(dweight.data)};
    tied_head_forward<T>(tape, loss.as<A>(), counted.as<A>(), out, x.as<T>(), *w, label, options,
                         rows, C, chunk);
  });
  tape.record(loss, [=, &tape] {
    on_either(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      using A = Acc<T>;
      const A* dloss = tape.gradient_of_output<A>(loss);
      const A* count = counted.as<A>();
      scale_into<A>(tape, gradient_of<T>(w), true, dweight.as<A>(), dloss, rows, count,
                    dweight.size());
      if (const auto target = tape.gradient<T>(x)) {
        scale_into<T>(tape, target.data, target.add, dx.as<T>(), dloss, rows, count, rows * C);
      }
    });
  });
  return loss;
}

Tensor tied_head(Tape& tape, const Tensor& x, const Parameter& weight, const Tensor& labels,
                 int64_t chunk_rows) {
  return tied_head(tape, x, weight, labels, LossOptions{}, chunk_rows);
}

Tensor tied_logits(Tape& tape, const Tensor& x, const Parameter& weight) {
  check_head(x, weight);
  return linear(tape, x, weight, nullptr);
}

}  // namespace dyt
