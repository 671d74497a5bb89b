// Large products with bias and residual, by the library, against three nested loops in f64.
#include "core/product.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/philox.h"

namespace dyt::test {
namespace {

std::vector<float> random_numbers(int64_t n, uint64_t stream) {
  RandomSequence random(9, stream);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = random.normal();
  return v;
}

struct Data {
  explicit Data(const Product& p)
      : a(random_numbers(p.m * p.k, 1)),
        b(random_numbers(p.k * p.n, 2)),
        bias(random_numbers(p.n, 3)),
        residual(random_numbers(p.m * p.n, 4)),
        before(random_numbers(p.m * p.n, 5)) {}
  std::vector<float> a, b, bias, residual, before;
};

// Without `add`, C is not read: a NaN in it must not show.
std::vector<float> compute(const Product& p, const Data& d) {
  std::vector<float> c = d.before;
  if (!p.add) c.assign(c.size(), std::numeric_limits<float>::quiet_NaN());
  library_product(p, d.a.data(), d.b.data(), c.data());
  return c;
}

void check(Product p, bool with_bias, bool with_residual) {
  const Data d(p);
  if (with_bias) p.bias = d.bias.data();
  if (with_residual) p.residual = d.residual.data();
  ASSERT_TRUE(has_library_product(p));
  const std::vector<float> c = compute(p, d);
  for (int64_t i = 0; i < p.m; i += 13) {
    for (int64_t j = 0; j < p.n; ++j) {
      const size_t at = size_t(i * p.n + j);
      double sum = (p.add ? d.before[at] : 0.0) + (with_bias ? d.bias[size_t(j)] : 0.0) +
                   (with_residual ? d.residual[at] : 0.0);
      double size = std::abs(sum);
      for (int64_t l = 0; l < p.k; ++l) {
        const float b = d.b[size_t(p.op_b == Op::none ? l * p.n + j : j * p.k + l)];
        const double product = double(d.a[size_t(i * p.k + l)]) * b;
        sum += product;
        size += std::abs(product);
      }
      ASSERT_NEAR(c[at], sum, 1e-6 * size) << i << ", " << j;
    }
  }
}

TEST(Product, AddsBiasAndResidualAndWhatIsThere) {
  if (!has_library_product({.op_b = Op::none, .m = 4096, .n = 64, .k = 64})) GTEST_SKIP();
  for (Op op_b : {Op::none, Op::transpose}) {
    for (bool add : {false, true}) {
      for (bool bias : {false, true}) {
        for (bool residual : {false, true}) {
          check({.op_b = op_b, .m = 1031, .n = 131, .k = 67, .add = add}, bias, residual);
          check({.op_b = op_b, .m = 1024, .n = 48, .k = 192, .add = add}, bias, residual);
        }
      }
    }
  }
}

bool has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bw");
#else
  return false;
#endif
}

TEST(Product, HasTheSameBitsForAnyNumberOfThreads) {
  if (!has_avx512()) GTEST_SKIP() << "without AVX-512, oneDNN cuts sums by the number of threads";
  const int threads = omp_get_max_threads();
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{131, 67}, {40, 160}, {16, 1024}}) {
    const Product p{.op_b = Op::transpose, .m = 2050, .n = n, .k = k, .add = true};
    if (!has_library_product(p)) GTEST_SKIP();
    const Data d(p);
    omp_set_num_threads(1);
    const std::vector<float> alone = compute(p, d);
    for (int n_threads : {2, 3, 4}) {
      omp_set_num_threads(n_threads);
      EXPECT_EQ(compute(p, d), alone) << n_threads << " threads";
    }
    omp_set_num_threads(threads);
  }
}

// Few rows: the sum over k would be shared among threads. Little work: not worth preparing for.
TEST(Product, IsForTallMatricesAndMuchWork) {
  EXPECT_FALSE(has_library_product({.op_b = Op::none, .m = 192, .n = 192, .k = 4096}));
  EXPECT_FALSE(has_library_product({.op_b = Op::none, .m = 64, .n = 8, .k = 8}));
}

}  // namespace
}  // namespace dyt::test
