// Products by the processor's own units for bf16, against sums in f64 of the same numbers, rounded
// if they are multiplied rounded.
#include "core/pair_product.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/philox.h"

namespace dyt::test {
namespace {

// Numbers in either type, with one number in front of them so that they don't begin where a cache
// line does.
class Numbers {
 public:
  Numbers(int64_t n, DType type, uint64_t stream) : type_(type) {
    RandomSequence random(9, stream);
    f32_.resize(size_t(n + 1));
    for (float& x : f32_) x = random.normal();
    for (const float x : f32_) bf16_.push_back(bf16(x));
    if (type == DType::bf16) f32_.assign(bf16_.begin(), bf16_.end());
  }
  void fill(float value) {
    for (float& x : f32_) x = value;
    for (bf16& x : bf16_) x = bf16(value);
  }
  void* data() {
    return type_ == DType::bf16 ? static_cast<void*>(&bf16_[1]) : static_cast<void*>(&f32_[1]);
  }
  float operator[](int64_t i) const {
    return type_ == DType::bf16 ? float(bf16_[size_t(i + 1)]) : f32_[size_t(i + 1)];
  }
  float rounded(int64_t i) const { return float(bf16_[size_t(i + 1)]); }

 private:
  DType type_;
  std::vector<float> f32_;
  std::vector<bf16> bf16_;
};

// What multiplies: vdpbf16ps, AMX, or AMX with every f32 in three bf16.
enum class Way { vectors, tiles, digits };

struct Case {
  Product p;
  Way way = Way::tiles;
  bool bias = false, residual = false;
  std::string text() const {
    const auto word = [](bool is, const char* name) { return is ? std::string(" ") + name : ""; };
    return std::string(name_of(p.a)) + " (" + std::to_string(p.m) + ", " + std::to_string(p.k) +
           ")" + word(p.op_a == Op::transpose, "transposed") + " by " + name_of(p.b) + " (" +
           std::to_string(p.k) + ", " + std::to_string(p.n) + ")" +
           word(p.op_b == Op::transpose, "transposed") + " to " + name_of(p.c) +
           word(p.add, "added") + word(bias, "bias") + word(residual, "residual");
  }
};

std::vector<float> compute(const Case& c, Numbers& a, Numbers& b, Numbers result, Numbers& bias,
                           Numbers& residual) {
  Product p = c.p;
  if (!p.add) result.fill(std::numeric_limits<float>::quiet_NaN());  // must not be read
  if (c.bias) p.bias = static_cast<float*>(bias.data());
  if (c.residual) p.residual = static_cast<float*>(residual.data());
  (c.way == Way::digits ? split_product : pair_product)(p, a.data(), b.data(), result.data());
  std::vector<float> numbers(size_t(p.m * p.n));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = result[int64_t(i)];
  return numbers;
}

// f32 sums of k products are off by no more than k 2^-24 of the sum of their sizes, and bf16 by
// 2^-8 of the result. Digits leave out 2^-23 of each product, and add sums of 16 before.
void check(const Case& c) {
  const Product& p = c.p;
  Numbers a(p.m * p.k, p.a, 1), b(p.k * p.n, p.b, 2), before(p.m * p.n, p.c, 3);
  Numbers bias(p.n, DType::f32, 4), residual(p.m * p.n, DType::f32, 5);
  const std::vector<float> actual = compute(c, a, b, before, bias, residual);
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      const int64_t at = i * p.n + j;
      double sum =
          (p.add ? before[at] : 0.0) + (c.bias ? bias[j] : 0.0) + (c.residual ? residual[at] : 0.0);
      double size = std::abs(sum);
      for (int64_t l = 0; l < p.k; ++l) {
        const int64_t at_a = p.op_a == Op::none ? i * p.k + l : l * p.m + i;
        const int64_t at_b = p.op_b == Op::none ? l * p.n + j : j * p.k + l;
        const double product = c.way == Way::digits ? double(a[at_a]) * double(b[at_b])
                                                    : double(a.rounded(at_a)) * b.rounded(at_b);
        sum += product;
        size += std::abs(product);
      }
      const double rounding = p.c == DType::bf16 ? std::ldexp(std::abs(sum), -8) : 0.0;
      ASSERT_NEAR(actual[size_t(at)], sum, std::ldexp(size * double(p.k + 4), -24) + rounding)
          << c.text() << ": " << i << ", " << j;
    }
  }
}

class PairProduct : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    if (*pair_product_unit() == '\0') GTEST_SKIP() << "this build has no instructions for bf16";
    if (GetParam() != Way::vectors && std::string(pair_product_unit()) != "AMX") {
      GTEST_SKIP() << "this processor has no AMX";
    }
    use_amx(GetParam() != Way::vectors);
  }
  void TearDown() override { use_amx(true); }

  // The types that factors and results can have.
  static std::vector<DType> types() {
    if (GetParam() == Way::digits) return {DType::f32};
    return {DType::f32, DType::bf16};
  }
  static DType narrowest() { return types().back(); }
};

constexpr DType f32 = DType::f32;

TEST_P(PairProduct, IsTheSumOfProducts) {
  const std::vector<std::vector<int64_t>> shapes = {
      {1, 1, 1},     {16, 16, 32}, {32, 32, 64},  {64, 48, 96}, {33, 17, 31},
      {80, 40, 160}, {40, 80, 33}, {7, 100, 257}, {200, 3, 70}, {48, 130, 300}};  // m, n, k
  for (const auto& s : shapes) {
    for (Op op_a : {Op::none, Op::transpose}) {
      for (Op op_b : {Op::none, Op::transpose}) {
        for (DType a : types()) {
          for (DType b : types()) {
            for (DType c : types()) {
              check({.p = {op_a, op_b, s[0], s[1], s[2], false, nullptr, nullptr, a, b, c},
                     .way = GetParam()});
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
  }
}

TEST_P(PairProduct, AddsBiasAndResidualAndWhatIsThere) {
  for (Op op_a : {Op::none, Op::transpose}) {
    for (DType c : types()) {
      for (int which = 0; which < 8; ++which) {
        const bool add = which & 1, bias = which & 2, residual = which & 4;
        for (int64_t m : {33, 96}) {
          check({.p = {op_a, Op::none, m, 50, 64, add, nullptr, nullptr, narrowest(), f32, c},
                 .way = GetParam(),
                 .bias = bias,
                 .residual = residual});
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Sums that are cut into parts, of products that are turned and not.
TEST_P(PairProduct, AddsPartsOfLongSums) {
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{40, 24, 4096},
                                {24, 40, 4100},
                                {160, 40, 1500},
                                {64, 64, 2048},
                                {130, 120, 515}}) {
    for (bool add : {false, true}) {
      const DType type = narrowest();
      check({.p = {Op::transpose, Op::none, m, n, k, add, nullptr, nullptr, type, type, f32},
             .way = GetParam()});
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(PairProduct, HasTheSameBitsForAnyNumberOfThreads) {
  const int threads = omp_get_max_threads();
  for (const auto& [op_a, m, n, k] :
       {std::tuple<Op, int64_t, int64_t, int64_t>{Op::none, 300, 70, 67},
        {Op::none, 300, 260, 4100},
        {Op::none, 40, 200, 96},
        {Op::transpose, 40, 100, 2100},
        {Op::transpose, 170, 40, 1100},
        {Op::transpose, 200, 160, 64}}) {
    const DType type = narrowest();
    const Case c{.p = {op_a, Op::none, m, n, k, true, nullptr, nullptr, type, type, f32},
                 .way = GetParam()};
    Numbers a(m * k, type, 1), b(k * n, type, 2), before(m * n, f32, 3), unused(1, f32, 4);
    omp_set_num_threads(1);
    const std::vector<float> alone = compute(c, a, b, before, unused, unused);
    for (int n_threads : {2, 3, 4, 7}) {
      omp_set_num_threads(n_threads);
      EXPECT_EQ(compute(c, a, b, before, unused, unused), alone)
          << c.text() << ", " << n_threads << " threads";
    }
    omp_set_num_threads(threads);
  }
}

// A NaN or an infinity stays where it belongs: padding is no number times zero.
TEST_P(PairProduct, KeepsNaNToItsRowAndColumn) {
  const DType type = narrowest();
  const Product p{.m = 20, .n = 20, .k = 40, .a = type, .b = type};
  Numbers a(p.m * p.k + 40, type, 1), b(p.k * p.n, type, 2), unused(1, f32, 3);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (type == f32) {
    static_cast<float*>(a.data())[3 * p.k + 39] = nan;
  } else {
    static_cast<bf16*>(a.data())[3 * p.k + 39] = bf16(nan);
  }
  const std::vector<float> c =
      compute({.p = p, .way = GetParam()}, a, b, Numbers(p.m * p.n, f32, 4), unused, unused);
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      EXPECT_EQ(std::isnan(c[size_t(i * p.n + j)]), i == 3) << i << ", " << j;
    }
  }
}

// A right factor that doesn't fit into the cache, packed, is used for several blocks of rows, and a
// long sum comes in parts, one after the other.
TEST_P(PairProduct, UsesALargeWeight) {
  const DType type = narrowest();
  check({.p = {.m = 700, .n = 600, .k = 1000, .a = type, .b = type}, .way = GetParam()});
  check({.p = {.m = 40, .n = 30, .k = 5000, .add = true, .a = type, .b = type},
         .way = GetParam(),
         .bias = true,
         .residual = true});  // its sum is cut
  check(
      {.p = {.op_b = Op::transpose, .m = 1500, .n = 330, .k = 600, .a = type}, .way = GetParam()});
}

std::string name_of_way(const testing::TestParamInfo<Way>& way) {
  const std::vector<std::string> names = {"AVX512_BF16", "AMX", "AMX_digits"};
  return names[size_t(way.param)];
}

INSTANTIATE_TEST_SUITE_P(Unit, PairProduct, testing::Values(Way::vectors, Way::tiles, Way::digits),
                         name_of_way);

// Root of the mean square of the errors, each as a part of the sum of its products' sizes.
double rms_error(const Product& p, const std::vector<float>& actual, const std::vector<float>& a,
                 const std::vector<float>& b) {
  double squares = 0;
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      double sum = 0, size = 0;
      for (int64_t l = 0; l < p.k; ++l) {
        const double product = double(a[size_t(i * p.k + l)]) * double(b[size_t(l * p.n + j)]);
        sum += product;
        size += std::abs(product);
      }
      squares += std::pow((double(actual[size_t(i * p.n + j)]) - sum) / size, 2);
    }
  }
  return std::sqrt(squares / double(p.m * p.n));
}

// Three digits of 8 bits are no worse than f32: the error is at most that of sums in f32, product
// after product, also where the factors' sizes are far apart.
TEST(SplitProducts, AreAsExactAsF32) {
  if (std::string(pair_product_unit()) != "AMX") GTEST_SKIP() << "this processor has no AMX";
  for (const int64_t k : {64, 200, 768}) {
    for (const int spread : {0, 3}) {
      const Product p{.m = 40, .n = 64, .k = k};
      RandomSequence random(9, uint64_t(k + spread));
      const auto draw = [&](int64_t n) {
        std::vector<float> x(static_cast<size_t>(n));
        for (float& v : x) v = std::ldexp(random.normal(), int(float(spread) * random.normal()));
        return x;
      };
      const std::vector<float> a = draw(p.m * k), b = draw(k * p.n);
      std::vector<float> split(size_t(p.m * p.n)), in_turn(split.size());
      split_product(p, a.data(), b.data(), split.data());
      for (int64_t i = 0; i < p.m; ++i) {
        for (int64_t l = 0; l < k; ++l) {
          for (int64_t j = 0; j < p.n; ++j) {
            float& sum = in_turn[size_t(i * p.n + j)];
            sum = std::fma(a[size_t(i * k + l)], b[size_t(l * p.n + j)], sum);
          }
        }
      }
      EXPECT_LE(rms_error(p, split, a, b), rms_error(p, in_turn, a, b)) << k << ", " << spread;
    }
  }
}

TEST(PairProducts, AreWhereTheyPay) {
  const std::string unit = pair_product_unit();
  if (unit.empty()) GTEST_SKIP() << "this build has no instructions for bf16";
  EXPECT_TRUE(has_pair_product({.m = 256, .n = 640, .k = 160}));
  EXPECT_EQ(has_pair_product({.m = 4096, .n = 4096, .k = 4096}), unit == "AMX");
  EXPECT_FALSE(has_pair_product({.op_a = Op::transpose, .m = 100000, .n = 768, .k = 4096}));
  EXPECT_EQ(has_pair_product({.m = 4096, .n = 768, .k = 192}), unit == "AMX");
  EXPECT_EQ(has_split_product({.m = 4096, .n = 768, .k = 192}), unit == "AMX");
  EXPECT_FALSE(has_split_product({.m = 4096, .n = 768, .k = 40}));
  EXPECT_FALSE(has_split_product({.op_a = Op::transpose, .m = 50257, .n = 768, .k = 4096}));
}

}  // namespace
}  // namespace dyt::test
