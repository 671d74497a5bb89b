// Tests of the tests: kernels with a planted bug, which the emulator must catch.
#include <gtest/gtest.h>

#include "core/device.h"
#include "core/kernel.h"
#include "core/poison.h"
#include "tests/on_device.h"
#include "tests/thread_order.h"

#if defined(DYT_EMULATED)

namespace dyt::test {
namespace {

#if !defined(DYT_WATCHED)  // these are races, see emulator_watch_test.cu

// Every thread reads what its neighbour wrote; `with_barrier` says whether it waits for it.
__global__ void neighbour(float* out, bool with_barrier) {
  SHARED(float, tile, [64]);
  const int t = int(threadIdx.x);
  tile[t] = float(t);
  if (with_barrier) __syncthreads();
  out[t] = tile[(t + 1) % 64];
}

TEST(EmulatorKernels, MissingBarrierShowsInEveryThreadOrder) {
  const OnDevice<float> out(64);
  const auto wrong = [&](bool with_barrier) {
    launch(neighbour, 1, 64)(out.data(), with_barrier);
    int n = 0;
    const std::vector<float> values = out.host();
    for (int t = 0; t < 64; ++t) n += values[size_t(t)] != float((t + 1) % 64);  // NaN differs too
    return n;
  };
  EXPECT_EQ(wrong(true), 0);
  EXPECT_EQ(wrong(false), 63);  // only the last thread finds its neighbour's number
  for_other_thread_orders([&](const char* order) {
    EXPECT_EQ(wrong(true), 0) << order;
    EXPECT_GT(wrong(false), 0) << order;
  });
}

// Both warps read the box, and the first writes it again; `with_barrier` says whether it waits for
// the other. A shuffle between the two keeps only the threads of a warp together.
__global__ void reuse(float* out, bool with_barrier) {
  SHARED(float, box, [1]);
  if (threadIdx.x == 0) box[0] = 1;
  __syncthreads();
  out[threadIdx.x] = warp_max(box[0]);
  if (with_barrier) __syncthreads();
  if (threadIdx.x == 0) box[0] = 2;
}

TEST(EmulatorKernels, AWarpThatOverwritesWhatAnotherHasNotReadShows) {
  const OnDevice<float> out(64);
  const auto wrong = [&](bool with_barrier) {
    launch(reuse, 1, 64)(out.data(), with_barrier);
    int n = 0;
    for (float v : out.host()) n += v != 1;
    return n;
  };
  EXPECT_EQ(wrong(true), 0);
  EXPECT_EQ(wrong(false), 0);  // in step, the warps hide it
  int seen = 0;
  for_other_thread_orders([&](const char* order) {
    EXPECT_EQ(wrong(true), 0) << order;
    seen += wrong(false) > 0;
  });
  EXPECT_GT(seen, 0);
}

#endif

__global__ void divergent(float* out) {
  if (threadIdx.x != 37) __syncthreads();
  out[threadIdx.x] = 1;
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(EmulatorKernels, DivergentBarrierIsReportedWithTheThread) {
  const OnDevice<float> out(64);
  const std::string message = message_of([&] { launch(divergent, 2, 64)(out.data()); });
  EXPECT_NE(message.find("divergent barrier"), std::string::npos) << message;
  EXPECT_NE(message.find("thread (37,0,0)"), std::string::npos) << message;
  EXPECT_NE(message.find("emulator_test.cu"), std::string::npos) << message;
}

__global__ void first_half_waits(float* out) {
  if (threadIdx.x >= 32) return;
  wait_for_kernel_before();
  out[threadIdx.x] = 1;
}

TEST(EmulatorKernels, AKernelLaunchedEarlyThatDoesNotWaitIsReported) {
  const OnDevice<float> out(64);
  const std::string message =
      message_of([&] { launch_early(first_half_waits, 1, 64)(out.data()); });
  EXPECT_NE(message.find("without wait_for_kernel_before()"), std::string::npos) << message;
  EXPECT_NE(message.find("thread (32,0,0)"), std::string::npos) << message;
  EXPECT_NE(message.find("emulator_test.cu"), std::string::npos) << message;
}

// Two groups of two warps, of which the second has more rounds than the first: each thread leaves
// its number for the other warp of its group, `late` warps come to no barrier.
__global__ void two_groups(float* out, int late) {
  SHARED(float, tile, [2][128]);
  const int t = int(threadIdx.x), group = t / 64;
  float sum = 0;
  for (int round = 0; round < 2 + group; ++round) {
    tile[round % 2][t] = float(t + round);
    if (t / 32 >= late) sync_warps(1 + group, 2);
    sum += tile[round % 2][t ^ 32];
  }
  out[t] = sum;
}

TEST(EmulatorKernels, GroupsOfWarpsHaveBarriersOfTheirOwn) {
  const OnDevice<float> out(128);
  const auto check = [&](const char* order) {
    launch(two_groups, 1, 128)(out.data(), 0);
    const std::vector<float> sums = out.host();
    for (int t = 0; t < 128; ++t) {
      const int other = t ^ 32;
      EXPECT_EQ(sums[size_t(t)], float(t < 64 ? 2 * other + 1 : 3 * other + 3)) << order << t;
    }
  };
  check("ascending");
  for_other_thread_orders(check);
  const std::string message = message_of([&] { launch(two_groups, 1, 128)(out.data(), 1); });
  EXPECT_NE(message.find("divergent barrier: thread (32,0,0)"), std::string::npos) << message;
}

__global__ void far_apart() {
  if (threadIdx.x / 32 != 1) sync_warps(1, 2);
}
__global__ void barrier_of_the_block() { sync_warps(0, 2); }

TEST(EmulatorKernels, BarriersThatNoGroupCanHaveAreReported) {
  EXPECT_NE(message_of([] { launch(far_apart, 1, 96)(); }).find("no neighbours"),
            std::string::npos);
  EXPECT_NE(message_of([] { launch(barrier_of_the_block, 1, 64)(); }).find("1 to 15"),
            std::string::npos);
}

__global__ void half_a_warp(float* out) {
  float v = 1;
  if (threadIdx.x < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
  out[threadIdx.x] = v;
}

TEST(EmulatorKernels, DivergentShuffleIsReported) {
  const OnDevice<float> out(32);
  const std::string message = message_of([&] { launch(half_a_warp, 1, 32)(out.data()); });
  EXPECT_NE(message.find("divergent barrier"), std::string::npos) << message;
  EXPECT_NE(message.find("(16,0,0)"), std::string::npos) << message;
}

__global__ void two_barriers(float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

TEST(EmulatorKernels, BarriersOnDifferentLinesAreReported) {
  const OnDevice<float> out(64);
  const std::string message = message_of([&] { launch(two_barriers, 1, 64)(out.data()); });
  EXPECT_NE(message.find("divergent barrier"), std::string::npos) << message;
}

__global__ void read_at(float* out, const float* in, int offset) {
  out[threadIdx.x] = in[int(threadIdx.x) + offset];
}

__global__ void overrun_shared(float* out, int n) {
  SHARED(float, tile, [32]);
  for (int i = int(threadIdx.x); i < n; i += 32) tile[i] = 0;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

void read_past_the_end() {
  const OnDevice<float> in(64);
  const OnDevice<float> out(64);
  launch(read_at, 1, 64)(out.data(), in.data(), 3);
}
void read_past_the_end_inside_an_arena() {
  Arena arena(kernel_device);
  float* in = static_cast<float*>(arena.allocate(64 * sizeof(float)));
  float* out = static_cast<float*>(arena.allocate(64 * sizeof(float)));
  launch(read_at, 1, 64)(out, in, 3);
}
void write_past_a_shared_array() {
  const OnDevice<float> out(32);
  launch(overrun_shared, 1, 32)(out.data(), 40);
}
void read_device_memory_on_the_host() {
  const OnDevice<float> x(64);
  volatile float v = x.data()[5];
  static_cast<void>(v);
}

class EmulatorKernelsDeathTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

// The buffer ends at a guard page, so this is caught with and without AddressSanitizer.
TEST_F(EmulatorKernelsDeathTest, OutOfBoundsReadNamesTheThread) {
  EXPECT_DEATH(read_past_the_end(), "block \\(0,0,0\\), thread \\(61,0,0\\)");
}

// A neighbour in the same arena: only AddressSanitizer sees that.
TEST_F(EmulatorKernelsDeathTest, OutOfBoundsReadInsideAnArenaIsCaughtBySanitizer) {
  if (!sanitized) GTEST_SKIP() << "needs make SANITIZE=address";
  EXPECT_DEATH(read_past_the_end_inside_an_arena(), "thread \\(61,0,0\\)[^$]*use-after-poison");
}

TEST_F(EmulatorKernelsDeathTest, SharedMemoryOverrunIsCaughtBySanitizer) {
  if (!sanitized) GTEST_SKIP() << "needs make SANITIZE=address";
  EXPECT_DEATH(write_past_a_shared_array(), "thread \\(0,0,0\\)");
}

TEST_F(EmulatorKernelsDeathTest, HostCodeThatTouchesDeviceMemoryFaults) {
  EXPECT_DEATH(read_device_memory_on_the_host(), "by host code");
}

__global__ void reads_before_it_waits(float* out, const float* in) {
  const float early = threadIdx.x == 5 ? in[3] : 0.0f;
  wait_for_kernel_before();
  out[threadIdx.x] = early;
}
void launch_one_that_reads_before_it_waits() {
  const OnDevice<float> out(64), in(64);
  launch_early(reads_before_it_waits, 2, 64)(out.data(), in.data());
}

// On a GPU the kernel before it might not have written it yet.
TEST_F(EmulatorKernelsDeathTest, AKernelLaunchedEarlyThatReadsBeforeItWaitsIsReported) {
  EXPECT_DEATH(
      launch_one_that_reads_before_it_waits(),
      "thread \\(5,0,0\\): before wait_for_kernel_before\\(\\), an access .* 12 bytes into");
}

__global__ void half_meets_before_it_waits(float* out) {
  if (threadIdx.x >= 32) __syncthreads();
  wait_for_kernel_before();
  out[threadIdx.x] = 1;
}

TEST(EmulatorKernels, ABarrierThatSomePassByIntoTheWaitIsReported) {
  const OnDevice<float> out(64);
  const std::string message =
      message_of([&] { launch_early(half_meets_before_it_waits, 3, 64)(out.data()); });
  EXPECT_NE(message.find("thread (32,0,0) waits at"), std::string::npos) << message;
  EXPECT_NE(message.find("it is in wait_for_kernel_before()"), std::string::npos) << message;
}

__global__ void misaligned(float* out) { store<4>(out + 1, load<4>(out)); }

TEST(EmulatorKernels, MisalignedVectorAccessIsReported) {
  const OnDevice<float> out(64);
  const std::string message = message_of([&] { launch(misaligned, 1, 1)(out.data()); });
  EXPECT_NE(message.find("misaligned vector store"), std::string::npos) << message;
}

TEST(EmulatorKernels, FreshMemoryIsNan) {
  for (float v : OnDevice<float>(100).host()) EXPECT_TRUE(std::isnan(v));
}

__global__ void sums(float* out, const float* in, int n) {
  float sum = 0;
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) sum += in[blockIdx.x * n + i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// Indices, shuffles, barriers and shared memory together, over a grid.
TEST(EmulatorKernels, BlockSumsAreRight) {
  const int blocks = 7, n = 301;
  std::vector<float> in(size_t(blocks * n));
  for (size_t i = 0; i < in.size(); ++i) in[i] = float(i % 17);
  const OnDevice<float> device_in(in.size()), out(blocks);
  copy_to_device(kernel_device, device_in.data(), in.data(), in.size() * sizeof(float));
  launch(sums, blocks, 256)(out.data(), device_in.data(), n);
  for (int b = 0; b < blocks; ++b) {
    float expected = 0;
    for (int i = 0; i < n; ++i) expected += in[size_t(b * n + i)];
    EXPECT_EQ(out.host()[size_t(b)], expected);  // small integers: exact in any order
  }
}

}  // namespace
}  // namespace dyt::test

#endif
