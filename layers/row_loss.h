// What the losses over rows have in common: which labels are right, which rows count, the mean.
// Only .cu files include this.
#pragma once
#include <cfloat>
#include <string>

#include "core/dispatch.h"
#include "core/kernel.h"
#include "layers/losses.h"

namespace dyt {

// The maximum over a block; every thread gets the result. As block_sum in core/kernel.h.
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

// Threads for a row of K logits: one warp does for a few hundred classes.
inline unsigned threads_for(int64_t K) { return K <= 512 ? 32 : K <= 4096 ? 256 : 1024; }

HOST_DEVICE inline bool left_out(int32_t label, bool ignores) {
  return ignores && label == ignored_label;
}

// Error unless every label is one of K (`choices`: of what), or its row is left out.
inline void check_labels(const char* op, const std::string& choices, const int32_t* labels,
                         int64_t rows, int64_t K, bool ignores) {
  int64_t counted = 0;
  for (int64_t r = 0; r < rows; ++r) {
    if (left_out(labels[r], ignores)) continue;
    ++counted;
    require(labels[r] >= 0 && labels[r] < K, op, ": the label of row ", r, " is ", labels[r],
            ", but ", choices, ", 0 to ", K - 1);
  }
  require(counted > 0, op, ": all ", rows, " rows are left out (labelled ", ignored_label,
          "), so there is no mean");
}

// *mean of the losses of the rows that count, and *counted, their number. The losses of the others
// are 0. labels: null if all count.
template <class T>
void mean_loss_cpu(T* mean, T* counted, const T* losses, const int32_t* labels, int64_t rows) {
  double total = 0;
  int64_t n = 0;
  for (int64_t r = 0; r < rows; ++r) {
    total += double(losses[r]);
    n += !labels || !left_out(labels[r], true);
  }
  *mean = T(total / double(n));
  *counted = T(n);
}

// The same by one block. If no row counts, the mean is NaN.
static __global__ void mean_loss_kernel(float* mean, float* counted, const float* losses,
                                        const int32_t* labels, int64_t rows) {
  float sum = 0, n = 0;
  for (int64_t r = threadIdx.x; r < rows; r += blockDim.x) {
    sum += losses[r];
    n += !labels || !left_out(labels[r], true) ? 1.0f : 0.0f;
  }
  sum = block_sum(sum);
  n = block_sum(n);
  if (threadIdx.x == 0) *mean = sum / n, *counted = n;
}

// The one of the two for where the tape computes.
template <class A>
void mean_loss(const Tape& tape, A* mean, A* counted, const A* losses, const int32_t* labels,
               int64_t rows) {
  if (tape.on_cpu()) return mean_loss_cpu(mean, counted, losses, labels, rows);
  if constexpr (gpu_computes<A>) {
    launch(mean_loss_kernel, 1, 1024)(mean, counted, losses, labels, rows);
  }
}

}  // namespace dyt
