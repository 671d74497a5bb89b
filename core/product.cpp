#include "core/product.h"

#include "core/error.h"

#if defined(DYT_ONEDNN)

#include <omp.h>

#include <algorithm>
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

memory::desc matrix(int64_t rows, int64_t columns, memory::format_tag layout) {
  return {{rows, columns}, memory::data_type::f32, layout};
}

Plan make_plan(const Product& p) {
  using tag = memory::format_tag;
  Plan plan;
  plan.a = matrix(p.m, p.k, tag::ab);
  plan.b = matrix(p.k, p.n, p.op_b == Op::none ? tag::ab : tag::ba);
  plan.packed = matrix(p.k, p.n, tag::any);
  plan.c = matrix(p.m, p.n, tag::ab);
  if (p.bias) plan.bias = matrix(1, p.n, tag::ab);
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
  using Key = std::tuple<Op, int64_t, int64_t, int64_t, bool, bool, bool, int>;
  static std::map<Key, Plan> plans;
  const Key key{p.op_b, p.m, p.n, p.k, p.add, !!p.bias, !!p.residual, omp_get_max_threads()};
  auto found = plans.find(key);
  if (found == plans.end()) found = plans.emplace(key, make_plan(p)).first;
  return found->second;
}

void run(const Plan& plan, const Product& p, const float* a, const float* b, float* c) {
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
  return p.m >= 4 * std::min(p.n, p.k) && p.m * p.n * p.k >= int64_t(1) << 23;
}

void library_product(const Product& p, const float* a, const float* b, float* c) {
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
void library_product(const Product&, const float*, const float*, float*) {
  fail("built without oneDNN");
}

}  // namespace dyt

#endif
