// Batch normalization, "Batch Normalization: Accelerating Deep Network Training by Reducing
// Internal Covariate Shift" (arXiv 1502.03167, algorithms 1 and 2), as in PyTorch.
//
// (1) The mathematics. x, y (rows, C), rows = B H W; gamma, beta, mean, variance (C):
//
//       training:    mean and variance of each channel over all rows of the batch
//       evaluation:  the running ones
//       y = gamma * (x - mean) / sqrt(variance + epsilon) + beta,   or max(0, that)
//
//     In training an output depends on the other images of its batch: that makes evaluation, and
//     small batches, a different function, and is why networks moved on to norms without a batch.
//     The running statistics are no parameters: nothing is learned, they follow
//
//       running = (1 - momentum) running + momentum (mean; variance * rows / (rows - 1))
//
//     with the unbiased variance. Derivatives, CPU loops and kernels: grouped_norm_cpu.h,
//     grouped_norm.h, with one sample and every channel a group of its own.
#include "layers/grouped_norm.h"
#include "layers/layers.h"

namespace dyt {
namespace {

// (2) The CPU loops -------------------------------------------------------------------------------

template <class A>
void read_running_cpu(A* mean, A* rstd, Running<A> running, A epsilon, int64_t C) {
  for (int64_t c = 0; c < C; ++c) {
    mean[c] = running.mean[c];
    rstd[c] = 1 / std::sqrt(running.variance[c] + epsilon);
  }
}

// (3) The kernels ---------------------------------------------------------------------------------

// One thread per channel, tiny.
__global__ void read_running_kernel(float* mean, float* rstd, Running<float> running, float epsilon,
                                    int64_t C) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= C) return;
  mean[c] = running.mean[c];
  rstd[c] = rsqrtf(running.variance[c] + epsilon);
}

template <class A>
void read_running(const Tape& tape, A* mean, A* rstd, Running<A> running, float epsilon,
                  int64_t C) {
  if (tape.on_cpu()) return read_running_cpu(mean, rstd, running, A(epsilon), C);
  if constexpr (gpu_computes<A>) {
    launch_early(read_running_kernel, blocks_for(C, 128), 128)(mean, rstd, running, epsilon, C);
  }
}

// (4) The op --------------------------------------------------------------------------------------

void check_batchnorm(const Tensor& x, const BatchnormParameters& p, const BatchnormOptions& options,
                     bool of_this_batch) {
  const int64_t rows = x.rows(), C = x.channels();
  for (const Parameter* v : {p.gamma, p.beta}) {
    require(!v || v->size() == C, "batchnorm: parameter ", v ? v->name : "", " has ",
            v ? v->size() : 0, " elements for ", C, " channels");
  }
  for (const ModelBuffer* v : {p.running_mean, p.running_variance}) {
    require(v && v->size() == C, "batchnorm: ", v ? v->name : "a running statistic", " has ",
            v ? v->size() : 0, " elements for ", C, " channels");
  }
  require(options.epsilon >= 0, "batchnorm: epsilon must not be negative, as ", options.epsilon,
          " is");
  require(!of_this_batch || rows > 1, "batchnorm: one value per channel, x ", x.shape.text(),
          ", has no variance to train with; use a larger batch");
}

}  // namespace

Tensor batchnorm(Tape& tape, const Tensor& x, const BatchnormParameters& p,
                 const BatchnormOptions& options) {
  const int64_t rows = x.rows(), C = x.channels();
  const bool of_this_batch = tape.training && !options.frozen;
  check_batchnorm(x, p, options, of_this_batch);
  const GroupedShape shape{.B = 1, .R = rows, .C = C, .G = C};
  const Tensor y = tape.empty(x.shape, x.dtype);
  const Tensor mean = tape.constant({C}, accumulator_of(x.dtype));
  const Tensor rstd = tape.constant({C}, accumulator_of(x.dtype));
  on_either_with_bf16(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    const Running<A> running{p.running_mean->as<A>(), p.running_variance->as<A>(),
                             p.batches ? p.batches->as<A>() : nullptr, options.momentum};
    if (of_this_batch) {
      grouped_statistics(tape, mean.as<A>(), rstd.as<A>(), running, x.as<T>(), options.epsilon,
                         shape);
    } else {
      read_running(tape, mean.as<A>(), rstd.as<A>(), running, options.epsilon, C);
    }
    with_bool(options.relu, [&](auto relu) {
      grouped_normalize<relu(), T>(
          tape, y.as<T>(), x.as<T>(),
          {mean.as<A>(), rstd.as<A>(), values_of<T>(p.gamma), values_of<T>(p.beta)}, shape);
    });
  });
  tape.record(y, [=, &tape] {
    on_either_with_bf16(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      using A = Acc<T>;
      with_bool(options.relu, [&](auto relu) {
        grouped_backward<relu(), T>(
            tape, tape.gradient<T>(x), gradient_of<T>(p.gamma), gradient_of<T>(p.beta),
            tape.gradient_of_output<T>(y), x.as<T>(),
            {mean.as<A>(), rstd.as<A>(), values_of<T>(p.gamma), values_of<T>(p.beta)},
            !of_this_batch, shape);
      });
    });
  });
  return y;
}

}  // namespace dyt
