// Races and traffic that are known beforehand, which the watched emulator must report as they are.
#include <gtest/gtest.h>

#include "core/device.h"
#include "core/kernel.h"
#include "core/traffic.h"
#include "tests/on_device.h"

#if defined(DYT_WATCHED)

namespace dyt::test {
namespace {

std::string race_in(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return "none";
}

// --- Races ---------------------------------------------------------------------------------------

enum class Sync { none, block, warp, shuffle, two_warps, all_warps };

// Every thread reads what its neighbour wrote.
constexpr int line_before_kernel = __LINE__;
__global__ void neighbour(float* out, Sync sync) {
  SHARED(float, tile, [128]);
  const int t = int(threadIdx.x), n = int(blockDim.x);
  tile[t] = float(t);
  if (sync == Sync::block) __syncthreads();
  if (sync == Sync::warp) __syncwarp();
  if (sync == Sync::shuffle) warp_sum(1.0f);
  if (sync == Sync::two_warps) sync_warps(1 + t / 64, 2);
  if (sync == Sync::all_warps) sync_warps(1, 4);
  out[t] = tile[(t + 1) % n];
}

TEST(WatchedKernels, AMissingBarrierIsARaceWithBothThreadsAndLines) {
  const OnDevice<float> out(64);
  EXPECT_EQ(race_in([&] { launch(neighbour, 1, 64)(out.data(), Sync::block); }), "none");
  const std::string race = race_in([&] { launch(neighbour, 1, 64)(out.data(), Sync::none); });
  // The last thread comes to what the first has written long ago, and the others to nothing yet:
  // then it is their neighbour's write that comes too late.
  const auto line = [](int n) {
    return "tests/core/emulator_watch_test.cu:" + std::to_string(line_before_kernel + n);
  };
  EXPECT_NE(race.find("thread (63,0,0) reads shared memory at " + line(10) +
                      " that thread (0,0,0) writes at " + line(4) + ", with no barrier between"),
            std::string::npos)
      << race;
  EXPECT_NE(race.find("thread (1,0,0) writes shared memory at " + line(4) +
                      " that thread (0,0,0) reads at " + line(10)),
            std::string::npos)
      << race;
}

TEST(WatchedKernels, WhomABarrierOrders) {
  const OnDevice<float> out(128);
  const auto races = [&](unsigned threads, Sync sync) {
    bool any = false, all = true;
    for (const auto order :
         {emulator::Order::descending, emulator::Order::shuffled, emulator::Order::ascending}) {
      emulator::order = order;
      const bool race = race_in([&] { launch(neighbour, 1, threads)(out.data(), sync); }) != "none";
      any = any || race, all = all && race;
    }
    EXPECT_EQ(any, all);  // it doesn't depend on the order
    return any;
  };
  EXPECT_FALSE(races(32, Sync::warp));
  EXPECT_TRUE(races(64, Sync::warp));
  EXPECT_TRUE(races(32, Sync::shuffle));  // it orders no memory
  EXPECT_FALSE(races(64, Sync::two_warps));
  EXPECT_TRUE(races(128, Sync::two_warps));
  EXPECT_FALSE(races(128, Sync::all_warps));
}

// What a warp has learnt it hands on: the first two warps meet, then the second and the third.
__global__ void chain(float* out, bool second) {
  SHARED(float, box, [1]);
  const int warp = int(threadIdx.x) / 32;
  if (threadIdx.x == 0) box[0] = 1;
  if (warp <= 1) sync_warps(1, 2);
  if (warp >= 1 && second) sync_warps(2, 2);
  if (threadIdx.x == 95) out[0] = box[0];
}

TEST(WatchedKernels, BarriersOfSomeWarpsMakeAChain) {
  const OnDevice<float> out(1);
  EXPECT_EQ(race_in([&] { launch(chain, 1, 96)(out.data(), true); }), "none");
  EXPECT_NE(race_in([&] { launch(chain, 1, 96)(out.data(), false); }), "none");
}

// Half of the block writes; all read.
__global__ void half_written(float* out, int written) {
  SHARED(float, tile, [64]);
  const int t = int(threadIdx.x);
  if (t < written) tile[t] = 1;
  __syncthreads();
  out[t] = tile[t];
}

TEST(WatchedKernels, SharedMemoryThatNobodyHasWrittenIsReported) {
  const OnDevice<float> out(64);
  EXPECT_EQ(race_in([&] { launch(half_written, 1, 64)(out.data(), 64); }), "none");
  const std::string race = race_in([&] { launch(half_written, 1, 64)(out.data(), 63); });
  EXPECT_NE(race.find("thread (63,0,0) reads shared memory"), std::string::npos) << race;
  EXPECT_NE(race.find("that nobody has written"), std::string::npos) << race;
}

// Two rounds with one box: written, read, and, before it is written again, `waits` for the reader.
__global__ void box_twice(float* out, bool waits) {
  SHARED(float, box, [1]);
  for (int round = 0; round < 2; ++round) {
    if (threadIdx.x == 0) box[0] = float(round);
    __syncthreads();
    if (threadIdx.x == 40) out[round] = box[0];
    if (waits) __syncthreads();
  }
}

TEST(WatchedKernels, WritingWhatOthersMayStillReadIsARace) {
  const OnDevice<float> out(2);
  EXPECT_EQ(race_in([&] { launch(box_twice, 1, 64)(out.data(), true); }), "none");
  const std::string race = race_in([&] { launch(box_twice, 1, 64)(out.data(), false); });
  EXPECT_NE(race.find("(0,0,0) writes"), std::string::npos) << race;
  EXPECT_NE(race.find("(40,0,0) reads"), std::string::npos) << race;
}

// Every thread copies a number and reads its neighbour's.
__global__ void copied_neighbour(float* out, const float* in, bool waits_first) {
  SHARED(float, tile, [64]);
  const int t = int(threadIdx.x);
  copy_async<4>(&tile[t], in + t, true);
  commit_copies();
  if (waits_first) wait_for_copies<0>();
  __syncthreads();
  wait_for_copies<0>();
  out[t] = tile[(t + 1) % 64];
}

TEST(WatchedKernels, AnAsynchronousCopyIsDoneWhenItIsWaitedFor) {
  const OnDevice<float> out(64), in(std::vector<float>(64, 1.0f));
  EXPECT_EQ(race_in([&] { launch(copied_neighbour, 1, 64)(out.data(), in.data(), true); }), "none");
  EXPECT_NE(race_in([&] { launch(copied_neighbour, 1, 64)(out.data(), in.data(), false); }),
            "none");
}

__global__ void same_place(float* out, int64_t stride) {
  if (threadIdx.x == 0) out[int64_t(blockIdx.x) * stride] = 1;
}

TEST(WatchedKernels, BlocksThatWriteToOnePlaceAreARace) {
  const OnDevice<float> out(4);
  EXPECT_EQ(race_in([&] { launch(same_place, 4, 32)(out.data(), 1); }), "none");
  const std::string race = race_in([&] { launch(same_place, 4, 32)(out.data(), 0); });
  EXPECT_NE(race.find("that thread (0,0,0) of block (0,0,0) writes"), std::string::npos) << race;
}

// The last block to come adds up what all have written ("Memory Fence Functions" in the CUDA C++
// Programming Guide has this example), but for a piece that is left out.
enum class Piece { none, fence_before, fence_after, barrier_before, barrier_after };

__global__ void last_block_adds(float* sum, float* parts, unsigned* arrived, Piece left_out) {
  SHARED(bool, last, [1]);
  const int t = int(threadIdx.x), n = int(blockDim.x);
  parts[int(blockIdx.x) * n + t] = 1;
  if (left_out != Piece::barrier_before) __syncthreads();
  if (t == 0) {
    if (left_out != Piece::fence_before) __threadfence();
    last[0] = atomicAdd(arrived, 1u) == gridDim.x - 1;
    if (left_out != Piece::fence_after) __threadfence();
  }
  if (left_out != Piece::barrier_after) __syncthreads();
  if (!last[0]) return;
  float total = 0;
  for (int b = 0; b < int(gridDim.x); ++b) total += parts[b * n + t];
  sum[t] = total;
  if (t == 0) *arrived = 0;
}

TEST(WatchedKernels, TheLastBlockNeedsBothFencesAndBothBarriers) {
  const OnDevice<float> sum(64), parts(256);
  const OnDevice<unsigned> arrived(std::vector<unsigned>{0});
  const auto race = [&](Piece left_out) {
    const unsigned zero = 0;
    copy_to_device(kernel_device, arrived.data(), &zero, sizeof zero);
    return race_in([&] {
      launch(last_block_adds, 4, 64)(sum.data(), parts.data(), arrived.data(), left_out);
    });
  };
  EXPECT_EQ(race(Piece::none), "none");
  EXPECT_EQ(sum.host(), std::vector<float>(64, 4.0f));
  EXPECT_NE(race(Piece::fence_before), "none");
  EXPECT_NE(race(Piece::fence_after), "none");
  EXPECT_NE(race(Piece::barrier_before), "none");
  EXPECT_NE(race(Piece::barrier_after), "none");
}

// --- Traffic -------------------------------------------------------------------------------------

// As the CUDA C++ Best Practices Guide has it: 32 threads with neighbouring 4-byte words ask for 4
// sectors of 32 bytes, every second word takes 8, and from 8 words on it is a sector for each.
__global__ void strided(float* out, const float* in, int stride) {
  out[threadIdx.x] = in[int(threadIdx.x) * stride];
}

const SiteTraffic& site(const KernelTraffic& kernel, bool shared, bool writes) {
  for (const SiteTraffic& s : kernel.sites) {
    if (s.shared == shared && s.writes == writes) return s;
  }
  fail("no such access");
}

TEST(WatchedKernels, SectorsOfAStridedAccess) {
  const OnDevice<float> out(64), in(std::vector<float>(64 * 32, 1.0f));
  for (const auto& [stride, sectors] : {std::pair{1, 4}, {2, 8}, {8, 32}, {32, 32}, {0, 1}}) {
    const auto kernels =
        watch_traffic([&] { launch(strided, 1, 64)(out.data(), in.data(), stride); });
    ASSERT_EQ(kernels.size(), 1u);
    const SiteTraffic& reads = site(kernels[0], false, false);
    EXPECT_EQ(reads.requests, 2);
    EXPECT_EQ(reads.bytes, 256);
    EXPECT_EQ(reads.moved, 2 * sectors) << stride;
    EXPECT_EQ(reads.needed, stride ? 8 : 2) << stride;
    EXPECT_EQ(kernels[0].bytes_read, 32 * (stride ? 2 * sectors : 1)) << stride;
    EXPECT_EQ(kernels[0].bytes_written, 256);
    EXPECT_NE(reads.where.find("emulator_watch_test.cu"), std::string::npos) << reads.where;
  }
}

__global__ void packs(bf16* out, const bf16* in) {
  store<8>(out + 8 * threadIdx.x, load<8>(in + 8 * threadIdx.x));
}

TEST(WatchedKernels, APackIsOneAccess) {
  const OnDevice<bf16> out(8 * 32), in(8 * 32);
  const auto kernels = watch_traffic([&] { launch(packs, 1, 32)(out.data(), in.data()); });
  ASSERT_EQ(kernels.size(), 1u);
  ASSERT_EQ(kernels[0].sites.size(), 2u);
  for (const SiteTraffic& s : kernels[0].sites) {
    EXPECT_EQ(s.requests, 1);
    EXPECT_EQ(s.bytes, 512);
    EXPECT_EQ(s.moved, 16);
  }
}

// The transpose of the Best Practices Guide: in a tile 32 wide all of a column is in one bank, in
// one 33 wide it isn't.
template <int W>
__global__ void columns(float* out) {
  SHARED(float, tile, [32][W]);
  const int t = int(threadIdx.x);
  for (int r = 0; r < 32; ++r) tile[r][t] = 1;
  __syncwarp();
  float sum = 0;
  for (int c = 0; c < 32; ++c) sum += tile[t][c];
  out[t] = sum;
}

TEST(WatchedKernels, TurnsOfBankConflicts) {
  const OnDevice<float> out(32);
  const auto turns = [&](auto kernel) {
    const auto kernels = watch_traffic([&] { launch(kernel, 1, 32)(out.data()); });
    const SiteTraffic& reads = site(kernels.at(0), true, false);
    EXPECT_EQ(reads.requests, 32);
    EXPECT_EQ(reads.needed, 32);
    return reads.moved;
  };
  EXPECT_EQ(turns(columns<32>), 32 * 32);
  EXPECT_EQ(turns(columns<33>), 32);
}

// 16 bytes a lane: a quarter of a warp at a time, which is free of conflicts if these are
// neighbours.
__global__ void wide_rows(float* out, int row) {
  DYNAMIC_SHARED(float, tile);
  const int t = int(threadIdx.x);
  float* const place = tile + t * row;
  store<4>(place, Pack<float, 4>{{1, 2, 3, 4}});
  out[t] = load<4>(place).v[3];
}

TEST(WatchedKernels, TurnsOfSixteenBytes) {
  const OnDevice<float> out(32);
  const auto turns = [&](int row) {
    const auto kernels = watch_traffic([&] { launch(wide_rows, 1, 32, 8192)(out.data(), row); });
    return site(kernels.at(0), true, false).moved;
  };
  EXPECT_EQ(turns(4), 4);
  EXPECT_EQ(turns(32), 32);  // 128 bytes apart: all in the same four banks
  EXPECT_EQ(turns(36), 4);   // 16 bytes further each
}

}  // namespace
}  // namespace dyt::test

#endif
