// The wrappers of core/warpgroup.h, on whatever runs kernels here: the emulator's meaning of each
// instruction and, on a Hopper GPU, the instruction itself. In the emulator, mistakes must show.
#include <gtest/gtest.h>

#include "core/device.h"
#include "core/kernel.h"
#include "core/warpgroup.h"
#include "tests/on_device.h"
#include "tests/op_check.h"
#include "tests/thread_order.h"

namespace dyt::test {
namespace {

constexpr int depth = 128;  // of the products: two panels of 64 if K-major, 16 atoms if MN-major

// By the PTX ISA, "Shared Memory Matrix Layout", K major and MN major 128B swizzling, and not by
// the words of the header: number `column` of row `row` of a panel with rows of 128 bytes.
#if defined(WARPGROUPS)
__device__ inline int in_panel(int row, int column) {
  const int byte = row * 128 + column * 2;
  return (byte ^ (byte & 0x380) >> 3) / 2;
}
#endif

// d (128, 8 J) = the initial d (if A is in registers) + a (128, depth) b (depth, 8 J), row by row
// in memory. Two warpgroups have 64 rows of a each.
template <int J, bool A_IN_REGISTERS, bool B_MN_MAJOR>
__global__ void multiply(float* d_out, const bf16* a_in, const bf16* b_in, const float* d_in) {
#if defined(WARPGROUPS)
  constexpr int N = 8 * J;
  DYNAMIC_SHARED_TILES(bf16, a_tile);
  bf16* const b_tile = a_tile + 128 * depth;
  const int thread = int(threadIdx.x);
  for (int i = thread; i < 128 * depth; i += 256) {
    const int row = i / depth, k = i % depth;
    a_tile[k / 64 * 128 * 64 + in_panel(row, k % 64)] = a_in[i];
  }
  for (int i = thread; i < depth * N; i += 256) {
    const int k = i / N, n = i % N;
    b_tile[B_MN_MAJOR ? n / 64 * depth * 64 + in_panel(k, n % 64)
                      : k / 64 * N * 64 + in_panel(n, k % 64)] = b_in[i];
  }
  fence_async_proxy();
  __syncthreads();

  const int group = thread / 128, row = thread / 32 * 16 + thread % 32 / 4;
  const auto index = [&](int j, int e) {
    return (row + e / 2 * 8) * N + 8 * j + thread % 4 * 2 + e % 2;
  };
  float d[J][4];
  for (int j = 0; j < J; ++j) {
    for (int e = 0; e < 4; ++e) d[j][e] = d_in[index(j, e)];
  }
  const uint64_t a = matrix_descriptor(a_tile + group * 64 * 64, 16);
  const uint64_t b = matrix_descriptor(b_tile, B_MN_MAJOR ? depth * 128 : 16);
  const auto b_at = [&](int k) {
    return advance(b, unsigned(B_MN_MAJOR ? k * 2048 : k / 4 * N * 128 + k % 4 * 32));
  };
  uint32_t left[depth / 16][4];  // until the wait
  if constexpr (A_IN_REGISTERS) {
    for (int k = 0; k < depth / 16; ++k) {
      for (int i = 0; i < 4; ++i) {
        const bf16* const pair =
            a_in + (row + i % 2 * 8) * depth + 16 * k + i / 2 * 8 + thread % 4 * 2;
        left[k][i] = uint32_t(pair[0].bits) | uint32_t(pair[1].bits) << 16;
      }
    }
    warpgroup_fence(d, left);
#pragma unroll
    for (int k = 0; k < depth / 16; ++k) wgmma<B_MN_MAJOR>(d, left[k], b_at(k));
  } else {
    warpgroup_fence(d);
#pragma unroll
    for (int k = 0; k < depth / 16; ++k) {
      const uint64_t a_k = advance(a, unsigned(k / 4 * 128 * 128 + k % 4 * 32));
      if (k == 0) {
        wgmma<false, B_MN_MAJOR>(d, a_k, b_at(k));
      } else {
        wgmma<true, B_MN_MAJOR>(d, a_k, b_at(k));
      }
    }
  }
  warpgroup_commit();
  warpgroup_wait<0>(d);
  for (int j = 0; j < J; ++j) {
    for (int e = 0; e < 4; ++e) d_out[index(j, e)] = d[j][e];
  }
#endif
}

// Small integers: every product and sum is exact in any order.
std::vector<bf16> integers(size_t n, size_t step) {
  std::vector<bf16> v;
  for (size_t i = 0; i < n; ++i) v.push_back(bf16(float(int(i * step % 19) - 9)));
  return v;
}

template <int J, bool A_IN_REGISTERS, bool B_MN_MAJOR>
void check_product() {
  constexpr size_t N = 8 * J, K = depth;
  const std::vector<bf16> a = integers(128 * K, 37), b = integers(K * N, 53);
  std::vector<float> d(128 * N);
  for (size_t i = 0; i < d.size(); ++i) d[i] = A_IN_REGISTERS ? float(i) : NAN;
  const OnDevice<bf16> a_in(a), b_in(b);
  const OnDevice<float> d_in(d), out(d.size());
  const auto in_order = [&](const char* order) {
    launch(multiply<J, A_IN_REGISTERS, B_MN_MAJOR>, 1, 256, (128 + N) * K * sizeof(bf16))(
        out.data(), a_in.data(), b_in.data(), d_in.data());
    const std::vector<float> got = out.host();
    size_t wrong = 0;
    for (size_t row = 0; row < 128; ++row) {
      for (size_t n = 0; n < N; ++n) {
        float expected = A_IN_REGISTERS ? d[row * N + n] : 0;
        for (size_t k = 0; k < K; ++k) expected += float(a[row * K + k]) * float(b[k * N + n]);
        wrong += !(got[row * N + n] == expected);
      }
    }
    EXPECT_EQ(wrong, 0u) << order << ": N " << N << (A_IN_REGISTERS ? ", A in registers" : "")
                         << (B_MN_MAJOR ? ", B MN-major" : ", B K-major");
  };
  in_order("ascending");
  for_other_thread_orders(in_order);
}

TEST(WarpgroupKernels, EveryLayoutGivesTheMatrixProduct) {
  SKIP_WITHOUT_KERNELS();
  if (!warpgroups_run_here()) GTEST_SKIP() << "needs a GPU of compute capability 9.0";
  check_product<8, false, false>();
  check_product<16, false, false>();
  check_product<8, false, true>();
  check_product<16, false, true>();
  check_product<8, true, false>();
  check_product<16, true, false>();
  check_product<8, true, true>();
  check_product<16, true, true>();
}

#if !defined(DYT_EMULATED)
// Code for sm_90a, which this test needs anyhow, has been compiled to wait for the kernel before.
TEST(WarpgroupKernels, MayOverlap) {
  SKIP_WITHOUT_KERNELS();
  if (!warpgroups_run_here()) GTEST_SKIP() << "this GPU, or this build, has no warpgroups";
  EXPECT_TRUE(kernels_may_overlap());
}
#endif

#if defined(DYT_EMULATED)

enum class Bug {
  none,
  no_proxy_fence,  // after the copies
  no_fence,        // for the registers
  fence_without_sums,
  no_wait,           // for the product, before its sums are read
  wait_for_others,   // is told other registers than the product's
  too_early,         // a tile is overwritten before the wait
  left_overwritten,  // registers of A are
  sums_overwritten,
  misaligned,  // a tile at a multiple of 128 bytes
  outside,     // of shared memory
  stride,      // wrong: half of what it is
  half_a_warpgroup,
  different_tiles,  // not the same for all threads
};

// d (64, 64) = a (64, 16) b (16, 64), a product whose sums are 16 in the first 32 columns, where b
// has ones like a, and 0 in the others. Both are copied to tiles (64, 64), zeros but for them.
__global__ void product_with(Bug bug, float* out, const bf16* ones) {
  DYNAMIC_SHARED_TILES(bf16, tiles);
  const int thread = int(threadIdx.x);
  bf16 *const a_tile = tiles + (bug == Bug::misaligned ? 64 : 0), *const b_tile =
                                                                      tiles + 2 * 64 * 64;
  for (int i = thread; i < 512; i += 128) {
    const int row = i / 8, chunk = i % 8;
    copy_async<16>(a_tile + in_panel(row, 8 * chunk), ones, chunk < 2);
    copy_async<16>(b_tile + in_panel(row, 8 * chunk), ones, chunk < 2 && row < 32);
  }
  commit_copies();
  wait_for_copies<0>();
  if (bug != Bug::no_proxy_fence) fence_async_proxy();
  __syncthreads();
  float d[8][4] = {}, others[8][4] = {};
  uint32_t left[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};  // ones
  uint64_t b = matrix_descriptor(bug == Bug::outside ? tiles + 4 * 64 * 64 : b_tile, 16,
                                 bug == Bug::stride ? 512 : 1024);
  if (bug == Bug::different_tiles && thread == 77) b = advance(b, 32);
  if (bug == Bug::fence_without_sums) {
    warpgroup_fence(left);
  } else if (bug != Bug::no_fence) {
    warpgroup_fence(d, left);
  }
  if (bug == Bug::left_overwritten || bug == Bug::sums_overwritten ||
      bug == Bug::fence_without_sums) {
    wgmma<false>(d, left, b);
  } else if (bug != Bug::half_a_warpgroup || thread < 64) {
    wgmma<false, false>(d, matrix_descriptor(a_tile, 16), b);
  }
  warpgroup_commit();
  if (bug == Bug::left_overwritten) left[3] = 0;
  if (bug == Bug::sums_overwritten) d[5][1] = 1;
  if (bug == Bug::too_early) {
    __syncthreads();
    if (thread == 3) a_tile[in_panel(20, 7)] = bf16(2.0f);
    __syncthreads();
  }
  if (bug == Bug::no_wait) {
    for (int i = 0; i < 32; ++i) out[32 * thread + i] = d[i / 4][i % 4];
  }
  if (bug == Bug::wait_for_others) {
    warpgroup_wait<0>(others);
  } else {
    warpgroup_wait<0>(d);
  }
  if (bug == Bug::no_wait) return;
  for (int i = 0; i < 32; ++i) out[32 * thread + i] = d[i / 4][i % 4];
}

// What the emulator says, or "right" or "wrong".
std::string outcome_of(Bug bug) {
  const OnDevice<bf16> ones(std::vector<bf16>(8, bf16(1.0f)));
  const OnDevice<float> out(64 * 64);
  try {
    launch(product_with, 1, 128, 4 * 64 * 64 * sizeof(bf16))(bug, out.data(), ones.data());
  } catch (const Error& e) {
    return e.what();
  }
  const std::vector<float> d = out.host();
  for (size_t i = 0; i < d.size(); ++i) {
    if (d[i] != (i % 32 < 16 ? 16 : 0)) return "wrong";
  }
  return "right";
}

void expect_in_all_orders(Bug bug, const std::string& expected) {
  const auto in_order = [&](const char* order) {
    const std::string outcome = outcome_of(bug);
    EXPECT_NE(outcome.find(expected), std::string::npos)
        << "bug " << int(bug) << ", " << order << ": " << outcome;
  };
  in_order("ascending");
  for_other_thread_orders(in_order);
}

TEST(WarpgroupKernels, MistakesShow) {
  expect_in_all_orders(Bug::none, "right");
  expect_in_all_orders(Bug::no_proxy_fence, "no fence_async_proxy()");
  expect_in_all_orders(Bug::no_fence, "without a warpgroup_fence()");
  expect_in_all_orders(Bug::fence_without_sums, "without a warpgroup_fence()");
  expect_in_all_orders(Bug::no_wait, "wrong");
  expect_in_all_orders(Bug::wait_for_others, "not given the sums");
  expect_in_all_orders(Bug::too_early, "shared memory was written while");
  expect_in_all_orders(Bug::left_overwritten, "registers of the left matrix were written");
  expect_in_all_orders(Bug::sums_overwritten, "registers of sums were written");
  expect_in_all_orders(Bug::misaligned, "multiple of 1024 bytes");
  expect_in_all_orders(Bug::outside, "outside dynamic shared memory");
  expect_in_all_orders(Bug::stride, "wrong");
  expect_in_all_orders(Bug::half_a_warpgroup, "of the 128 threads");
  expect_in_all_orders(Bug::different_tiles, "different operands");
}

// Two products under way; waiting for all but the newest gives the first one's sums alone.
__global__ void two_groups(float* out, const bf16* ones) {
  DYNAMIC_SHARED_TILES(bf16, tiles);
  const int thread = int(threadIdx.x);
  for (int i = thread; i < 512; i += 128) store<8>(tiles + 8 * i, load<8>(ones));
  fence_async_proxy();
  __syncthreads();
  float first[8][4], second[8][4];
  warpgroup_fence(first, second);
  const uint64_t tile = matrix_descriptor(tiles, 16);
  wgmma<false, false>(first, tile, tile);
  warpgroup_commit();
  wgmma<false, false>(second, tile, tile);
  wgmma<true, false>(second, tile, tile);
  warpgroup_commit();
  warpgroup_wait<1>(first);
  out[thread] = first[7][3];
  out[128 + thread] = second[7][3];
  warpgroup_wait<0>(second);
  out[256 + thread] = second[7][3];
}

TEST(WarpgroupKernels, OnlyTheGroupsWaitedForAreDone) {
  const OnDevice<bf16> ones(std::vector<bf16>(8, bf16(1.0f)));
  const OnDevice<float> out(3 * 128);
  launch(two_groups, 1, 128, 64 * 64 * sizeof(bf16))(out.data(), ones.data());
  const std::vector<float> got = out.host();
  for (size_t i = 0; i < 128; ++i) {
    EXPECT_EQ(got[i], 16);
    EXPECT_TRUE(std::isnan(got[128 + i]));
    EXPECT_EQ(got[256 + i], 32);
  }
}

#endif

}  // namespace
}  // namespace dyt::test
