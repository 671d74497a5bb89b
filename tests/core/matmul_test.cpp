// Matrix products against three nested loops in f64, in every combination of transposes and types.
#include "core/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <type_traits>

#include "core/error.h"
#include "core/philox.h"
#include "core/product.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

struct Size {
  int64_t m, n, k;
};
// One number, one row, one column, one product, primes, whole tiles, one more and one less.
const std::vector<Size> sizes = {{1, 1, 1},    {1, 33, 7},    {33, 1, 7},    {7, 33, 1},
                                 {7, 5, 3},    {64, 32, 128}, {65, 31, 127}, {197, 48, 40},
                                 {8, 16, 512}, {13, 130, 67}, {130, 257, 24}};

template <class T>
double to_double(T v) {
  return double(v);
}
double to_double(bf16 v) { return double(float(v)); }

template <class T>
std::vector<T> random_numbers(int64_t n, uint64_t stream) {
  RandomSequence random(9, stream);
  std::vector<T> v(static_cast<size_t>(n));
  for (T& x : v) x = T(float(random.normal()));
  return v;
}

template <class T>
Buffer to_buffer(Device device, const std::vector<T>& v) {
  Buffer buffer(device, v.size() * sizeof(T));
  copy_to_device(device, buffer.data(), v.data(), buffer.bytes());
  return buffer;
}

// cuBLASLt's kernels with results in bf16 round what they have before they add the next thing, C or
// a bias (seen on an H200, cuBLASLt 13.1: -18.5 for -18.398, where the nearest bf16 is -18.375).
template <class T>
bool adds_to_rounded(Device device) {
  return device == Device::cuda && std::is_same_v<T, bf16>;
}

// `rounding`: the relative error of one rounding, of a sum (in Acc<T>) and of a result (in TC).
template <class T, class TC>
void check_product(Device device, Op op_a, Op op_b, Size size, float beta, double sum_rounding,
                   double result_rounding) {
  const auto [m, n, k] = size;
  const std::vector<T> a = random_numbers<T>(m * k, 1), b = random_numbers<T>(k * n, 2);
  std::vector<TC> c = random_numbers<TC>(m * n, 3);
  // With beta = 0, C is not read: a NaN in it must not show.
  if (beta == 0) c.assign(c.size(), TC(std::numeric_limits<float>::quiet_NaN()));
  const Buffer a_there = to_buffer(device, a), b_there = to_buffer(device, b);
  const Buffer c_there = to_buffer(device, c);
  matmul(device, op_a, op_b, m, n, k, static_cast<const T*>(a_there.data()),
         static_cast<const T*>(b_there.data()), beta, static_cast<TC*>(c_there.data()));
  std::vector<TC> result(c.size());
  copy_to_host(device, result.data(), c_there.data(), c_there.bytes());
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t l = 0; l < k; ++l) {
        const double product = to_double(a[size_t(op_a == Op::none ? i * k + l : l * m + i)]) *
                               to_double(b[size_t(op_b == Op::none ? l * n + j : j * k + l)]);
        sum += product;
        magnitude += std::abs(product);
      }
      double rounded = 0;  // numbers that are rounded to the result's type, beside the result
      if (beta != 0) {
        if (adds_to_rounded<TC>(device)) rounded = std::abs(sum);
        const double before = beta * to_double(c[size_t(i * n + j)]);
        sum += before;
        magnitude += std::abs(before);
      }
      // k roundings of partial sums no larger than `magnitude` stay below the root of k of them,
      // give or take; then the result is rounded.
      const double bound = 4 * std::sqrt(double(k)) * sum_rounding * magnitude +
                           result_rounding * (std::abs(sum) + rounded);
      const double actual = to_double(result[size_t(i * n + j)]);
      ASSERT_TRUE(std::isfinite(actual) && std::abs(actual - sum) <= bound)
          << "C[" << i << ", " << j << "] is " << actual << " instead of " << sum << " +- " << bound
          << " in a product (" << m << ", " << n << ", " << k << "), A "
          << (op_a == Op::none ? "as it is" : "transposed") << ", B "
          << (op_b == Op::none ? "as it is" : "transposed") << ", beta " << beta << ", on "
          << name_of(device);
    }
  }
}

template <class T, class TC>
void check_products(Device device, double sum_rounding, double result_rounding) {
  for (const Size& size : sizes) {
    for (Op op_a : {Op::none, Op::transpose}) {
      for (Op op_b : {Op::none, Op::transpose}) {
        for (float beta : {0.0f, 1.0f}) {
          check_product<T, TC>(device, op_a, op_b, size, beta, sum_rounding, result_rounding);
          if (testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(Matmul, OnTheCpuInF32) { check_products<float, float>(Device::cpu, 0x1p-24, 0x1p-24); }
TEST(Matmul, OnTheCpuInF64) { check_products<double, double>(Device::cpu, 0x1p-53, 0x1p-53); }

TEST(Matmul, OnTheCpuInBf16) { check_products<bf16, bf16>(Device::cpu, 0x1p-24, 0x1p-8); }
TEST(Matmul, OnTheCpuFromBf16ToF32) { check_products<bf16, float>(Device::cpu, 0x1p-24, 0x1p-24); }

TEST(MatmulKernels, InF32) {
  SKIP_WITHOUT_KERNELS();
  check_products<float, float>(kernel_device, 0x1p-24, 0x1p-24);
}
TEST(MatmulKernels, InBf16) {
  SKIP_WITHOUT_KERNELS();
  check_products<bf16, bf16>(kernel_device, 0x1p-24, 0x1p-8);
}
TEST(MatmulKernels, FromBf16ToF32) {
  SKIP_WITHOUT_KERNELS();
  check_products<bf16, float>(kernel_device, 0x1p-24, 0x1p-24);
}

// f32 matrices, multiplied in bf16: each factor is rounded, by 2^-9 of its size at most.
TEST(Matmul, OnTheCpuInF32MultipliedInBf16) {
  const CpuProductsIn narrow(DType::bf16);
  check_products<float, float>(Device::cpu, 0x1p-8, 0x1p-24);
}

TEST(Matmul, MultipliesInNoOtherType) {
  EXPECT_THROW(set_cpu_products(DType::f64), Error);
  EXPECT_EQ(cpu_products(), DType::f32);
}

// --- Products with an epilogue, against loops in f64 ---------------------------------------------

double gelu_by_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
double gelu_slope_by_tanh(double x) {  // by central differences
  return (gelu_by_tanh(x + 1e-5) - gelu_by_tanh(x - 1e-5)) / 2e-5;
}

struct Case {
  bool bias, add, in_place;  // in_place: what is added is in D
  After after;
};

// D and, after GELU, h; `rounding` is that of one result.
template <class T>
void check_epilogue(Size size, const Case& c, double rounding) {
  const auto [m, n, k] = size;
  const std::vector<T> a = random_numbers<T>(m * k, 1), b = random_numbers<T>(n * k, 2);
  const std::vector<T> bias = random_numbers<T>(n, 3), add = random_numbers<T>(m * n, 4);
  const std::vector<T> h = random_numbers<T>(m * n, 5);
  const Buffer a_there = to_buffer(kernel_device, a), b_there = to_buffer(kernel_device, b);
  const Buffer bias_there = to_buffer(kernel_device, bias), h_there = to_buffer(kernel_device, h);
  const Buffer add_there = to_buffer(kernel_device, add);
  const Buffer d_there = to_buffer(kernel_device, add);  // in place: what is there is added
  T* d = static_cast<T*>(d_there.data());
  Epilogue<T> e{.after = c.after};
  if (c.bias) e.bias = static_cast<const T*>(bias_there.data());
  if (c.add) e.add = c.in_place ? d : static_cast<const T*>(add_there.data());
  if (c.after != After::nothing) e.h = static_cast<T*>(h_there.data());
  const bool done =
      matmul_with_epilogue(Op::none, Op::transpose, m, n, k, static_cast<const T*>(a_there.data()),
                           static_cast<const T*>(b_there.data()), d, e);
  const bool expected = n % 2 == 0 && (c.after == After::nothing || (sizeof(T) == 2 && n % 8 == 0));
  if (kernel_device == Device::emulated) {
    EXPECT_EQ(done, expected);
  }
  if (!done) return;  // a library may refuse
  std::vector<T> result(size_t(m * n)), h_after(size_t(m * n));
  copy_to_host(kernel_device, result.data(), d_there.data(), d_there.bytes());
  copy_to_host(kernel_device, h_after.data(), h_there.data(), h_there.bytes());
  for (int64_t i = 0; i < m * n; ++i) {
    double v = 0;
    for (int64_t l = 0; l < k; ++l) {
      v += to_double(a[size_t(i / n * k + l)]) * to_double(b[size_t(i % n * k + l)]);
    }
    double rounded = 0;  // numbers that are rounded on the way
    if (c.bias) rounded += std::abs(v), v += to_double(bias[size_t(i % n)]);
    if (c.add) rounded += std::abs(v), v += to_double(add[size_t(i)]);
    const double pre = v;
    if (c.after != After::nothing) rounded += std::abs(v);
    // GELU's slope is at most 1.13; what comes before its gradient is multiplied by as much.
    const double on_the_way = adds_to_rounded<T>(kernel_device) ? 1.13 * rounding * rounded : 0;
    if (c.after == After::gelu) v = gelu_by_tanh(v);
    if (c.after == After::gelu_slope) v *= gelu_slope_by_tanh(to_double(h[size_t(i)]));
    // 1e-5: of the sums, and of the differences. A GPU's library may take the hardware's tanh,
    // which is 2^-11 off; by how much that moves GELU, and its slope.
    double bound = rounding * std::abs(v) + 1e-5 * (1 + std::abs(pre)) + on_the_way;
    if (kernel_device == Device::cuda && c.after == After::gelu) bound += 0x1p-12 * std::abs(pre);
    if (kernel_device == Device::cuda && c.after == After::gelu_slope) {
      const double at = std::abs(to_double(h[size_t(i)]));
      bound += 0x1p-12 * (1 + 1.6 * at * (1 + 0.134145 * at * at)) * std::abs(pre);
    }
    ASSERT_NEAR(to_double(result[size_t(i)]), v, bound)
        << "element " << i << " of (" << m << ", " << n << "), k " << k;
    if (c.after == After::gelu) {
      ASSERT_NEAR(to_double(h_after[size_t(i)]), pre, rounding * std::abs(pre) + 1e-5 + on_the_way);
    }
  }
}

template <class T>
void check_epilogues(double rounding) {
  const Case cases[] = {
      {true, false, false, After::nothing},    {true, true, false, After::nothing},
      {false, true, false, After::nothing},    {true, true, true, After::nothing},
      {true, false, false, After::gelu},       {false, false, false, After::gelu},
      {false, false, false, After::gelu_slope}};
  for (const Size& size :
       {Size{1, 8, 8}, {33, 7, 5}, {65, 31, 127}, {130, 256, 24}, {64, 64, 64}}) {
    for (const Case& c : cases) {
      check_epilogue<T>(size, c, rounding);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(MatmulKernels, EpiloguesInF32) {
  SKIP_WITHOUT_KERNELS();
  check_epilogues<float>(0x1p-22);
}
TEST(MatmulKernels, EpiloguesInBf16) {
  SKIP_WITHOUT_KERNELS();
  check_epilogues<bf16>(0x1p-8);
}

// Rows that lie apart: what is between them is neither read (it is NaN) nor written.
template <class T>
void check_rows_apart(Op op_a, double rounding) {
  constexpr int64_t m = 37, n = 45, k = 29, gap = 3;
  const int64_t a_rows = op_a == Op::none ? m : k, a_columns = op_a == Op::none ? k : m;
  const int64_t a_row = a_columns + gap, c_row = n + gap;
  std::vector<T> a = random_numbers<T>(a_rows * a_row, 1), c = random_numbers<T>(m * c_row, 2);
  const std::vector<T> b = random_numbers<T>(k * n, 3);
  for (int64_t i = 0; i < a_rows * a_row; ++i) {
    if (i % a_row >= a_columns) a[size_t(i)] = T(std::numeric_limits<float>::quiet_NaN());
  }
  const Buffer a_there = to_buffer(kernel_device, a), b_there = to_buffer(kernel_device, b);
  const Buffer c_there = to_buffer(kernel_device, c);
  matmul_with_rows(op_a, Op::none, m, n, k, static_cast<const T*>(a_there.data()), a_row,
                   static_cast<const T*>(b_there.data()), 0.0f, static_cast<T*>(c_there.data()),
                   c_row);
  std::vector<T> result(c.size());
  copy_to_host(kernel_device, result.data(), c_there.data(), c_there.bytes());
  for (int64_t i = 0; i < m * c_row; ++i) {
    const int64_t row = i / c_row, column = i % c_row;
    if (column >= n) {
      ASSERT_EQ(to_double(result[size_t(i)]), to_double(c[size_t(i)])) << "written between rows";
      continue;
    }
    double sum = 0;
    for (int64_t l = 0; l < k; ++l) {
      sum += to_double(a[size_t(op_a == Op::none ? row * a_row + l : l * a_row + row)]) *
             to_double(b[size_t(l * n + column)]);
    }
    ASSERT_NEAR(to_double(result[size_t(i)]), sum, rounding * std::abs(sum) + 1e-5);
  }
}

TEST(MatmulKernels, RowsMayLieApart) {
  SKIP_WITHOUT_KERNELS();
  for (Op op_a : {Op::none, Op::transpose}) {
    check_rows_apart<float>(op_a, 0x1p-22);
    check_rows_apart<bf16>(op_a, 0x1p-8);
  }
}

// A gradient is repeatable: the same product gives the same bits.
TEST(Matmul, GivesTheSameBitsTwice) {
  const int64_t m = 130, n = 70, k = 500;
  const std::vector<float> a = random_numbers<float>(m * k, 1), b = random_numbers<float>(k * n, 2);
  std::vector<float> first(size_t(m * n)), second(size_t(m * n));
  matmul(Device::cpu, Op::none, Op::none, m, n, k, a.data(), b.data(), 0.0f, first.data());
  matmul(Device::cpu, Op::none, Op::none, m, n, k, a.data(), b.data(), 0.0f, second.data());
  EXPECT_EQ(first, second);
}

TEST(Matmul, NamesItsLibrary) {
  EXPECT_FALSE(std::string(matmul_library(Device::cpu)).empty());
  EXPECT_FALSE(std::string(matmul_library(kernel_device)).empty());
  EXPECT_STRNE(matmul_library(Device::cpu), matmul_library(kernel_device));
}

}  // namespace
}  // namespace dyt::test
