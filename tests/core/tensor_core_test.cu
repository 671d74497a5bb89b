// The wrappers of core/tensor_core.h, on whatever runs kernels here: the emulator's meaning of each
// instruction and, where there is a GPU, the instruction itself.
#include <gtest/gtest.h>

#include <cmath>

#include "core/device.h"
#include "core/kernel.h"
#include "core/tensor_core.h"
#include "tests/on_device.h"
#include "tests/op_check.h"
#include "tests/thread_order.h"

namespace dyt::test {
namespace {

// Runs body in every thread order that there is.
void in_all_orders(const std::function<void(const char*)>& body) {
  body("ascending");
  for_other_thread_orders(body);
}

std::vector<bf16> as_bf16(const std::vector<float>& v) {
  std::vector<bf16> out;
  for (float x : v) out.push_back(bf16(x));
  return out;
}

// Four 8 x 8 matrices, one after the other in memory: 1 to 128, then -1 to -128, exact in bf16.
std::vector<float> numbered() {
  std::vector<float> v;
  for (int i = 0; i < 4; ++i) {
    for (int r = 0; r < 8; ++r) {
      for (int c = 0; c < 8; ++c)
        v.push_back(float(64 * (i % 2) + 8 * r + c + 1) * (i < 2 ? 1 : -1));
    }
  }
  return v;
}

__global__ void load_matrices(uint32_t* out, const bf16* in, bool transposed) {
  SHARED(uint4, memory, [32]);
  bf16* const rows = reinterpret_cast<bf16*>(memory);
  const int lane = int(threadIdx.x);
  store<8>(rows + 8 * lane, load<8>(in + 8 * lane));
  __syncwarp();
  uint32_t r[4];
  if (transposed) {
    ldmatrix_transposed(r, rows + 8 * lane);
  } else {
    ldmatrix(r, rows + 8 * lane);
  }
  for (int i = 0; i < 4; ++i) out[4 * lane + i] = r[i];
}

// PTX ISA, "ldmatrix": thread 4 g + t has row g, columns 2t and 2t + 1 of every matrix, with .trans
// of the matrix turned over.
TEST(TensorCoreKernels, LdmatrixGivesEveryLaneItsNumbers) {
  SKIP_WITHOUT_KERNELS();
  const std::vector<float> matrices = numbered();
  const OnDevice<bf16> in(as_bf16(matrices));
  const OnDevice<uint32_t> out(128);
  for (const bool transposed : {false, true}) {
    in_all_orders([&](const char* order) {
      launch(load_matrices, 1, 32)(out.data(), in.data(), transposed);
      const std::vector<uint32_t> got = out.host();
      for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i) {
          for (int e = 0; e < 2; ++e) {
            const int row = transposed ? 2 * t + e : g, column = transposed ? g : 2 * t + e;
            const uint32_t bits = got[size_t(4 * lane + i)] >> 16 * e & 0xffffu;
            EXPECT_EQ(bits, bf16(matrices[size_t(64 * i + 8 * row + column)]).bits)
                << order << " lane " << lane << " register " << i << " half " << e;
          }
        }
      }
    });
  }
}

// Each lane builds its fragments number by number, by the tables in the PTX ISA ("Matrix Fragments
// for mma.m16n8k16 with floating point type"), so neither ldmatrix nor the header's own words come
// into it.
__global__ void multiply(float* c_out, const bf16* a_in, const bf16* b_in, const float* c_in) {
  const int lane = int(threadIdx.x), group = lane >> 2, in_group = lane % 4;
  const auto a_at = [&](int i) {
    const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
    const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    return uint32_t(a_in[row * 16 + column].bits);
  };
  const auto b_at = [&](int i) {
    const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0), column = group;
    return uint32_t(b_in[row * 8 + column].bits);
  };
  const auto c_index = [&](int i) {
    const int row = i < 2 ? group : group + 8, column = in_group * 2 + (i & 1);
    return row * 8 + column;
  };
  uint32_t a[4], b[2];
  float c[4];
  for (int i = 0; i < 4; ++i) a[i] = a_at(2 * i) | a_at(2 * i + 1) << 16;
  for (int i = 0; i < 2; ++i) b[i] = b_at(2 * i) | b_at(2 * i + 1) << 16;
  for (int i = 0; i < 4; ++i) c[i] = c_in[c_index(i)];
  mma(c, a, b[0], b[1]);
  for (int i = 0; i < 4; ++i) c_out[c_index(i)] = c[i];
}

// Small integers: every product and sum is exact in any order.
TEST(TensorCoreKernels, MmaIsTheMatrixProduct) {
  SKIP_WITHOUT_KERNELS();
  std::vector<float> a(16 * 16), b(16 * 8), c(16 * 8);
  for (size_t i = 0; i < a.size(); ++i) a[i] = float(int(i * 37 % 23) - 11);
  for (size_t i = 0; i < b.size(); ++i) b[i] = float(int(i * 53 % 29) - 14);
  for (size_t i = 0; i < c.size(); ++i) c[i] = float(i);
  const OnDevice<bf16> a_in(as_bf16(a)), b_in(as_bf16(b));
  const OnDevice<float> c_in(c), out(c.size());
  in_all_orders([&](const char* order) {
    launch(multiply, 1, 32)(out.data(), a_in.data(), b_in.data(), c_in.data());
    const std::vector<float> got = out.host();
    for (size_t row = 0; row < 16; ++row) {
      for (size_t column = 0; column < 8; ++column) {
        float expected = c[row * 8 + column];
        for (size_t k = 0; k < 16; ++k) expected += a[row * 16 + k] * b[k * 8 + column];
        EXPECT_EQ(got[row * 8 + column], expected) << order << " " << row << " " << column;
      }
    }
  });
}

__global__ void convert(float* powers, uint32_t* pairs, const float* x) {
  const int i = int(threadIdx.x);
  powers[i] = exp2_approx(x[i]);
  pairs[i] = pack_bf16(x[i], 2 * x[i] + 1);
}

TEST(TensorCoreKernels, PowersOfTwoAndPairs) {
  SKIP_WITHOUT_KERNELS();
  std::vector<float> x;
  for (int i = 0; i < 31; ++i) x.push_back(float(i * i - 200) * 0.1371f);
  x.push_back(-INFINITY);
  const OnDevice<float> in(x), powers(32);
  const OnDevice<uint32_t> pairs(32);
  launch(convert, 1, 32)(powers.data(), pairs.data(), in.data());
  const std::vector<float> power = powers.host();
  const std::vector<uint32_t> pair = pairs.host();
  for (size_t i = 0; i < 31; ++i) {
    EXPECT_NEAR(power[i] / std::exp2(double(x[i])), 1, 1e-6) << x[i];
    EXPECT_EQ(pair[i] & 0xffffu, bf16(x[i]).bits);  // the first in the lower half
    EXPECT_EQ(pair[i] >> 16, bf16(2 * x[i] + 1).bits);
  }
  EXPECT_EQ(power[31], 0);
}

enum class Bug { none, no_wait, no_barrier, too_early };

// 64 threads copy 64 packs in two groups of 32 and read each other's. The second group overwrites
// the first one's place when all have read that (but for Bug::too_early).
__global__ void pipeline(float* out, const float* in, Bug bug) {
  SHARED(uint4, memory, [64]);
  float* const place = reinterpret_cast<float*>(memory);
  const int t = int(threadIdx.x);
  float sum = 0;
  for (int group = 0; group < 2; ++group) {
    copy_async<16>(place + 4 * t, in + 256 * group + 4 * t, t != 5);
    commit_copies();
    if (bug != Bug::no_wait) wait_for_copies<0>();
    if (bug != Bug::no_barrier) __syncthreads();
    for (int e = 0; e < 4; ++e) sum += place[4 * ((t + 33) % 64) + e];
    if (bug != Bug::too_early) __syncthreads();
  }
  out[t] = sum;
}

// 1 if a sum is wrong (or NaN), in any of the thread orders.
bool shows(Bug bug) {
  std::vector<float> numbers(512);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = float(i);
  const OnDevice<float> in(numbers), out(64);
  bool wrong = false;
  in_all_orders([&](const char*) {
    launch(pipeline, 1, 64)(out.data(), in.data(), bug);
    const std::vector<float> got = out.host();
    for (size_t t = 0; t < 64; ++t) {
      const size_t from = (t + 33) % 64;
      float expected = 0;
      for (size_t e = 0; e < 4; ++e) expected += 2 * float(4 * from + e) + 256;
      if (from == 5) expected = 0;  // does not exist
      wrong |= !(got[t] == expected);
    }
  });
  return wrong;
}

TEST(TensorCoreKernels, AsynchronousCopiesArriveAndFillWithZeros) {
  SKIP_WITHOUT_KERNELS();
  EXPECT_FALSE(shows(Bug::none));
}

#if defined(DYT_EMULATED)

#if !defined(DYT_WATCHED)  // it calls that a race, see emulator_watch_test.cu
TEST(TensorCoreKernels, AMissingWaitOrBarrierShows) {
  EXPECT_TRUE(shows(Bug::no_wait));
  EXPECT_TRUE(shows(Bug::no_barrier));
  EXPECT_TRUE(shows(Bug::too_early));
}
#endif

// Two groups under way; waiting for all but the newest brings the first one alone.
__global__ void two_groups(float* out, const float* in) {
  SHARED(uint4, memory, [64]);
  float* const place = reinterpret_cast<float*>(memory);
  const int t = int(threadIdx.x);
  for (int group = 0; group < 2; ++group) {
    copy_async<4>(place + 32 * group + t, in + 32 * group + t, true);
    commit_copies();
  }
  wait_for_copies<1>();
  out[t] = place[t];
  out[32 + t] = place[32 + t];
}

TEST(TensorCoreKernels, OnlyTheGroupsWaitedForArrive) {
  std::vector<float> numbers(64);
  for (size_t i = 0; i < 64; ++i) numbers[i] = float(i);
  const OnDevice<float> in(numbers), out(64);
  launch(two_groups, 1, 32)(out.data(), in.data());
  const std::vector<float> got = out.host();
  for (size_t i = 0; i < 32; ++i) EXPECT_EQ(got[i], numbers[i]);
  for (size_t i = 32; i < 64; ++i) EXPECT_TRUE(std::isnan(got[i]));
}

__global__ void misaligned_copy(const float* in) {
  SHARED(uint4, memory, [2]);
  copy_async<16>(reinterpret_cast<float*>(memory) + 1, in, true);
}

TEST(TensorCoreKernels, MisalignedCopyIsReported) {
  const OnDevice<float> in(8);
  try {
    launch(misaligned_copy, 1, 1)(in.data());
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("misaligned asynchronous copy"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("tensor_core_test.cu"), std::string::npos) << e.what();
  }
}

#endif

}  // namespace
}  // namespace dyt::test
