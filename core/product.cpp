#include "core/product.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/pair_product.h"
#include "core/rounding.h"

#if defined(DYT_ONEDNN)

#include <omp.h>

#include <map>
#include <tuple>
#include <unordered_map>

#include "core/onednn.h"

namespace dyt {
namespace {

using namespace onednn;

// A primitive, and what brings B into the layout that it likes best; no `pack`: that is B's own.
struct Plan {
  memory::desc a, b, c, bias, packed;
  dnnl::matmul compute;
  dnnl::reorder pack;
};

dnnl::matmul::primitive_desc describe(const Plan& plan, const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  if (plan.bias.is_zero()) return {engine(), plan.a, plan.packed, plan.c, attributes};
  return {engine(), plan.a, plan.packed, plan.bias, plan.c, attributes};
#else
  if (plan.bias.is_zero()) return {{plan.a, plan.packed, plan.c}, attributes, engine()};
  return {{plan.a, plan.packed, plan.bias, plan.c}, attributes, engine()};
#endif
}

memory::desc matrix(int64_t rows, int64_t columns, DType type, memory::format_tag layout) {
  using type_name = memory::data_type;
  return {{rows, columns}, type == DType::bf16 ? type_name::bf16 : type_name::f32, layout};
}

Plan make_plan(const Product& p) {
  using tag = memory::format_tag;
  Plan plan;
  plan.a = matrix(p.m, p.k, p.a, p.op_a == Op::none ? tag::ab : tag::ba);
  plan.b = matrix(p.k, p.n, p.b, p.op_b == Op::none ? tag::ab : tag::ba);
  // As it likes it best, unless B is no weight but as large as A.
  plan.packed = p.op_a == Op::none || p.a != p.b ? matrix(p.k, p.n, p.a, tag::any) : plan.b;
  plan.c = matrix(p.m, p.n, p.c, tag::ab);
  if (p.bias) plan.bias = matrix(1, p.n, DType::f32, tag::ab);
  dnnl::post_ops after;
  if (p.add) after.append_sum(1.0f);
  if (p.residual) after.append_binary(dnnl::algorithm::binary_add, plan.c);
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(after);
  const auto description = describe(plan, attributes);
  plan.packed = description.weights_desc();
  plan.compute = dnnl::matmul(description);
  if (plan.packed != plan.b) plan.pack = reorder(plan.b, plan.packed);
  return plan;
}

// Making a plan compiles code: it is kept for the next time. A primitive is made for a number of
// threads.
const Plan& plan_of(const Product& p) {
  using Key =
      std::tuple<Op, Op, int64_t, int64_t, int64_t, bool, bool, bool, DType, DType, DType, int>;
  static std::map<Key, Plan> plans;
  const Key key{p.op_a,   p.op_b,       p.m, p.n, p.k, p.add,
                !!p.bias, !!p.residual, p.a, p.b, p.c, omp_get_max_threads()};
  auto found = plans.find(key);
  if (found == plans.end()) found = plans.emplace(key, make_plan(p)).first;
  return found->second;
}

void run(const Plan& plan, const Product& p, const void* a, const void* b, void* c) {
  memory b_there = at(plan.b, b);
  if (plan.pack) {
    memory packed = at(plan.packed, scratch(Use::packed_weight, plan.packed.get_size()));
    plan.pack.execute(stream(), b_there, packed);
    b_there = packed;
  }
  std::unordered_map<int, memory> arguments{
      {DNNL_ARG_SRC, at(plan.a, a)}, {DNNL_ARG_WEIGHTS, b_there}, {DNNL_ARG_DST, at(plan.c, c)}};
  if (p.bias) arguments[DNNL_ARG_BIAS] = at(plan.bias, p.bias);
  if (p.residual) {
    const int place = p.add ? 1 : 0;  // among what follows the product
    arguments[DNNL_ARG_ATTR_MULTIPLE_POST_OP(place) | DNNL_ARG_SRC_1] = at(plan.c, p.residual);
  }
  plan.compute.execute(stream(), arguments);
  stream().wait();
}

}  // namespace

bool has_library_product(const Product& p) {
  return p.op_a == Op::none && p.m >= 2 * std::min(p.n, p.k) && p.m * p.n * p.k >= int64_t(1) << 23;
}

bool library_has_bf16_instructions() {
  const int wanted = int(dnnl::cpu_isa::avx512_core_bf16);  // a set of bits, in which AMX has more
  static const bool has = (int(dnnl::get_effective_cpu_isa()) & wanted) == wanted;
  return has;
}

void library_product(const Product& p, const void* a, const void* b, void* c) {
  try {
    run(plan_of(p), p, a, b, c);
  } catch (const dnnl::error& e) {
    fail("oneDNN product (", p.m, ", ", p.k, ") by (", p.k, ", ", p.n, "): ", e.what());
  }
}

}  // namespace dyt

#else

namespace dyt {

bool has_library_product(const Product&) { return false; }
bool library_has_bf16_instructions() { return false; }
void library_product(const Product&, const void*, const void*, void*) {
  fail("built without oneDNN");
}

}  // namespace dyt

#endif

namespace dyt {
namespace {

DType multiplied_in = DType::f32;

// A bf16's worth of each number.
std::vector<float> rounded(const void* data, DType type, int64_t n) {
  std::vector<float> result(static_cast<size_t>(n));
  if (type == DType::bf16) {
    const bf16* x = static_cast<const bf16*>(data);
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) result[size_t(i)] = float(x[i]);
  } else {
    const float* x = static_cast<const float*>(data);
#pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) result[size_t(i)] = float(bf16(x[i]));
  }
  return result;
}

// C = what is added to the product.
void start(const Product& p, float* c) {
#pragma omp parallel for
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      float& c_ij = c[i * p.n + j];
      if (!p.add) c_ij = 0;
      if (p.bias) c_ij += p.bias[j];
      if (p.residual) c_ij += p.residual[i * p.n + j];
    }
  }
}

}  // namespace

void set_cpu_products(DType type) {
  require(type == DType::f32 || type == DType::bf16,
          "matrix products on the cpu multiply in f32 or bf16, not in ", name_of(type));
  multiplied_in = type;
}

DType cpu_products() { return multiplied_in; }

bool cheap_rounding() { return *pair_product_unit() != '\0'; }

bool has_bf16_instructions() { return cheap_rounding() || library_has_bf16_instructions(); }

bool product_in_one_pass(const Product& p, const float* a, const float* b, float* c) {
  if (has_split_product(p)) {
    split_product(p, a, b, c);
  } else if (has_library_product(p)) {
    library_product(p, a, b, c);
  } else {
    return false;
  }
  return true;
}

void product_in_bf16(const Product& p, const void* a, const void* b, void* c) {
  require(p.a == DType::bf16 && (p.b == DType::bf16 || p.b == DType::f32) &&
              (p.c == DType::f32 || (p.c == DType::bf16 && !p.residual)),
          "no product of ", name_of(p.a), " and ", name_of(p.b), " to ", name_of(p.c));
  const bool library = library_has_bf16_instructions();
  if (cheap_rounding() && (has_pair_product(p) || !library)) return pair_product(p, a, b, c);
  if (library) return library_product(p, a, b, c);
  const std::vector<float> a_f32 = rounded(a, p.a, p.m * p.k), b_f32 = rounded(b, p.b, p.k * p.n);
  const int64_t n = p.m * p.n;
  std::vector<float> sums;
  float* c_f32 = static_cast<float*>(c);
  if (p.c == DType::bf16) {
    sums = p.add ? rounded(c, p.c, n) : std::vector<float>(size_t(n));
    c_f32 = sums.data();
  }
  start(p, c_f32);
  const CpuProductsIn exact(DType::f32);
  matmul(Device::cpu, p.op_a, p.op_b, p.m, p.n, p.k, a_f32.data(), b_f32.data(), 1.0f, c_f32);
  if (p.c == DType::bf16) round_to_bf16(static_cast<bf16*>(c), c_f32, n);
}

void product_rounded_to_bf16(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const float* a,
                             const float* b, float beta, float* c) {
  const Product p{op_a, op_b, m, n, k, beta == 1};
  if ((beta == 0 || beta == 1) && has_pair_product(p)) return pair_product(p, a, b, c);
  static Buffer memory;
  const size_t bytes = size_t(m * k + k * n) * sizeof(bf16);
  if (memory.bytes() < bytes) memory = Buffer(Device::cpu, bytes);
  bf16* const narrow_a = static_cast<bf16*>(memory.data());
  bf16* const narrow_b = narrow_a + m * k;
  round_to_bf16(narrow_a, a, m * k);
  round_to_bf16(narrow_b, b, k * n);
  matmul(Device::cpu, op_a, op_b, m, n, k, narrow_a, narrow_b, beta, c);
}

}  // namespace dyt
