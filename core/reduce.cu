#include "core/kernel.h"
#include "core/reduce.h"

namespace dyt {
namespace {

constexpr int most_sums = 4;
struct ManySums {
  PartialSums which[most_sums];
};

// Block (x, y) sums 32 columns of sums y. Of its 32 x 32 threads, thread (x, y) adds parts y, y +
// 32, y + 64 ... of column x, so a warp reads 128 consecutive bytes; then the 32 sums of a column
// meet in shared memory. Moves 4 * parts * n bytes; that many threads because a few megabytes are
// sooner read than waited for.
__global__ void __launch_bounds__(1024) add_partials_kernel(ManySums all) {
  wait_for_kernel_before();
  let_next_kernel_begin();
  SHARED(float, tile, [32][33]);
  const PartialSums s = all.which[blockIdx.y];
  const int64_t first = int64_t(blockIdx.x) * 32, i = first + threadIdx.x;
  if (!s.sums || first >= s.n) return;  // the whole block
  float sum = 0;
  if (i < s.n) {
#pragma unroll 4
    for (int64_t part = threadIdx.y; part < s.parts; part += 32) {
      sum += s.partials[part * s.stride + i];
    }
  }
  tile[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  const int64_t column = first + threadIdx.y;  // a warp to each column
  sum = warp_sum(tile[threadIdx.x][threadIdx.y]);
  if (threadIdx.x == 0 && column < s.n) s.sums[column] += sum;
}

}  // namespace

void add_partials_gpu(std::initializer_list<PartialSums> all) {
  require(all.size() <= most_sums, "add_partials_gpu: ", all.size(), " sums, not up to ",
          most_sums);
  ManySums sums{};
  int64_t widest = 0;
  unsigned count = 0;
  for (const PartialSums& s : all) {
    if (!s.sums) continue;
    sums.which[count++] = s;
    widest = std::max(widest, s.n);
  }
  if (count == 0) return;
  launch_early(add_partials_kernel, dim3(blocks_for(widest, 32), count), dim3(32, 32))(sums);
}

}  // namespace dyt
