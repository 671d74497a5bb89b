#include "core/kernel.h"
#include "core/reduce.h"

namespace dyt {
namespace {

// A block of 32 x 8 threads sums 32 columns: thread (x, y) adds parts y, y + 8, y + 16 ... of
// column x, so a warp reads 128 consecutive bytes; then the 8 sums of a column meet in shared
// memory. Moves 4 * parts * n bytes.
__global__ void add_partials_kernel(float* sums, const float* partials, int64_t parts, int64_t n) {
  SHARED(float, tile, [8][32]);
  const int64_t i = int64_t(blockIdx.x) * 32 + threadIdx.x;
  float sum = 0;
  if (i < n) {
    for (int64_t part = threadIdx.y; part < parts; part += 8) sum += partials[part * n + i];
  }
  tile[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && i < n) {
    sum = 0;
    for (int y = 0; y < 8; ++y) sum += tile[y][threadIdx.x];
    sums[i] += sum;
  }
}

}  // namespace

void add_partials_gpu(float* sums, const float* partials, int64_t parts, int64_t n) {
  launch(add_partials_kernel, blocks_for(n, 32), dim3(32, 8))(sums, partials, parts, n);
}

}  // namespace dyt
