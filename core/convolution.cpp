#include "core/convolution.h"

#include "core/error.h"

#if defined(DYT_ONEDNN)

#include <omp.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "core/onednn.h"
#include "core/product.h"

namespace dyt {
namespace {

using namespace onednn;
using Forward = dnnl::convolution_forward;
using BackwardData = dnnl::convolution_backward_data;
using BackwardWeights = dnnl::convolution_backward_weights;

enum class Work { forward, forward_adding, backward_data, backward_weights };

// How the tensors of a convolution lie in memory. `packed` leaves the weights to oneDNN. With
// `narrow`, the two tensors that are multiplied are bf16, and the third, their sums, f32.
struct Layouts {
  explicit Layouts(Work work, const ConvShape& s, bool with_bias, bool narrow)
      : x({s.B, s.Cin, s.H, s.W}, type(narrow && work != Work::backward_data),
          memory::format_tag::nhwc),
        y({s.B, s.Cout, s.Ho(), s.Wo()},
          type(narrow && (work == Work::backward_data || work == Work::backward_weights)),
          memory::format_tag::nhwc),
        weight({s.Cout, s.Cin, s.K, s.K}, type(false), memory::format_tag::oihw),
        packed({s.Cout, s.Cin, s.K, s.K}, type(narrow && work != Work::backward_weights),
               memory::format_tag::any),
        strides{s.stride, s.stride},
        padding{s.padding, s.padding} {
    if (with_bias) bias = {{s.Cout}, memory::data_type::f32, memory::format_tag::x};
  }
  static memory::data_type type(bool narrow) {
    return narrow ? memory::data_type::bf16 : memory::data_type::f32;
  }
  memory::desc x, y, weight, packed, bias;
  memory::dims strides, padding;
};

constexpr auto direct = dnnl::algorithm::convolution_direct;

#if DNNL_VERSION_MAJOR >= 3
template <class... A>
Forward::primitive_desc describe_forward(const dnnl::primitive_attr& attributes, const A&... a) {
  return {engine(), a..., attributes};
}
template <class Backward, class... A>
typename Backward::primitive_desc describe_backward(const Forward::primitive_desc& forward,
                                                    const A&... a) {
  return {engine(), a..., forward};
}
#else
template <class... A>
Forward::primitive_desc describe_forward(const dnnl::primitive_attr& attributes, const A&... a) {
  return {Forward::desc(a...), attributes, engine()};
}
template <class Backward, class... A>
typename Backward::primitive_desc describe_backward(const Forward::primitive_desc& forward,
                                                    const A&... a) {
  return {typename Backward::desc(a...), engine(), forward};
}
#endif

Forward::primitive_desc forward_desc(const Layouts& l, const dnnl::primitive_attr& attributes) {
  return describe_forward(attributes, dnnl::prop_kind::forward_training, direct, l.x, l.packed,
                          l.bias, l.y, l.strides, l.padding, l.padding);
}

// A primitive, and what brings the weights into its layout, or their gradient out of it.
struct Plan {
  Layouts layouts;
  memory::desc packed;  // the layout of the weights that the primitive wants
  dnnl::primitive compute;
  dnnl::reorder reorder;
};

Plan make_plan(Work work, const ConvShape& s, bool with_bias, bool narrow) {
  const Layouts l(work, s, with_bias, narrow);
  const bool adds = work == Work::forward_adding, backward = !adds && work != Work::forward;
  // Of a convolution backward, its forward one is only a hint.
  const auto forward = forward_desc(backward ? Layouts(Work::forward, s, with_bias, narrow) : l,
                                    adds ? adding() : dnnl::primitive_attr());
  if (work == Work::forward || adds) {
    const memory::desc packed = forward.weights_desc();
    return {l, packed, Forward(forward), reorder(l.weight, packed)};
  }
  if (work == Work::backward_data) {
    const auto desc = describe_backward<BackwardData>(forward, direct, l.x, l.packed, l.y,
                                                      l.strides, l.padding, l.padding);
    const memory::desc packed = desc.weights_desc();
    return {l, packed, BackwardData(desc), reorder(l.weight, packed)};
  }
  const auto desc = describe_backward<BackwardWeights>(forward, direct, l.x, l.packed, l.bias, l.y,
                                                       l.strides, l.padding, l.padding);
  const memory::desc packed = desc.diff_weights_desc();
  return {l, packed, BackwardWeights(desc), reorder(packed, l.weight, adding())};
}

// Making a plan compiles code, which takes milliseconds: it is kept for the next time. A primitive
// is made for a number of threads.
const Plan& plan_of(Work work, const ConvShape& s, bool with_bias, bool narrow) {
  using Key = std::tuple<Work, bool, bool, int, int64_t, int64_t, int64_t, int64_t, int64_t,
                         int64_t, int64_t, int64_t>;
  static std::map<Key, Plan> plans;
  const Key key{work, with_bias, narrow,   omp_get_max_threads(), s.B, s.H, s.W, s.Cin, s.Cout,
                s.K,  s.stride,  s.padding};
  auto found = plans.find(key);
  if (found == plans.end()) found = plans.emplace(key, make_plan(work, s, with_bias, narrow)).first;
  return found->second;
}

// body(stream), with oneDNN's errors as ours.
template <class F>
void with_stream(const ConvShape& s, F&& body) {
  try {
    body(stream());
    stream().wait();
  } catch (const dnnl::error& e) {
    fail("oneDNN convolution of (", s.B, ", ", s.H, ", ", s.W, ", ", s.Cin, ") by (", s.Cout, ", ",
         s.Cin, ", ", s.K, ", ", s.K, "), stride ", s.stride, ", padding ", s.padding, ": ",
         e.what());
  }
}

memory pack(dnnl::stream& stream, const Plan& plan, const float* weight) {
  memory plain = at(plan.layouts.weight, weight);
  memory packed = at(plan.packed, scratch(Use::packed_weight, plan.packed.get_size()));
  plan.reorder.execute(stream, plain, packed);
  return packed;
}

bool multiplies_in_bf16() { return cpu_products() == DType::bf16 && has_bf16_instructions(); }

// A factor as it is multiplied: itself, or rounded.
const void* factor(Use use, const float* x, int64_t n) {
  if (!multiplies_in_bf16()) return x;
  bf16* const rounded = reinterpret_cast<bf16*>(scratch(use, size_t(n) * sizeof(bf16)));
  round_to_bf16(rounded, x, n);
  return rounded;
}

// In what follows, x and dy are factors where they are void.

// y = x * weight + bias, added to what is there or not.
void forward(float* y, bool add, const void* x, const float* weight, const float* bias,
             const ConvShape& s) {
  with_stream(s, [&](dnnl::stream& stream) {
    const Plan& plan = plan_of(add ? Work::forward_adding : Work::forward, s, bias != nullptr,
                               multiplies_in_bf16());
    std::unordered_map<int, memory> arguments{{DNNL_ARG_SRC, at(plan.layouts.x, x)},
                                              {DNNL_ARG_WEIGHTS, pack(stream, plan, weight)},
                                              {DNNL_ARG_DST, at(plan.layouts.y, y)}};
    if (bias) arguments[DNNL_ARG_BIAS] = at(plan.layouts.bias, bias);
    plan.compute.execute(stream, arguments);
  });
}

// With stride 1, dx is a convolution itself, of dy with the channels of the weights exchanged and
// the filters turned by 180 degrees. oneDNN 2 is faster at that, and can add to what is there.
void backward_data_turned(float* dx, bool add, const void* dy, const float* weight,
                          const ConvShape& s) {
  const int64_t taps = s.K * s.K;
  float* turned = scratch(Use::turned_weight, size_t(s.Cin * s.Cout * taps) * sizeof(float));
#pragma omp parallel for
  for (int64_t c = 0; c < s.Cin; ++c) {
    for (int64_t o = 0; o < s.Cout; ++o) {
      for (int64_t k = 0; k < taps; ++k) {
        turned[(c * s.Cout + o) * taps + k] = weight[(o * s.Cin + c) * taps + taps - 1 - k];
      }
    }
  }
  forward(dx, add, dy, turned, nullptr,
          {.B = s.B,
           .H = s.Ho(),
           .W = s.Wo(),
           .Cin = s.Cout,
           .Cout = s.Cin,
           .K = s.K,
           .stride = 1,
           .padding = s.K - 1 - s.padding});
}

// Images at a time where dx has to be added to what is there and oneDNN can only overwrite: their
// sums stay in the second-level cache. A divisor of the batch, so that one plan does for all; if
// only too small a number is one, the whole batch.
int64_t images_at_once(const ConvShape& s) {
  const int64_t image_bytes = s.H * s.W * s.Cin * int64_t(sizeof(float));
  const int64_t threads = omp_get_max_threads();
  int64_t images = std::clamp((int64_t(1) << 20) / image_bytes, threads, std::max(threads, s.B));
  while (s.B % images != 0) --images;
  return images < threads ? s.B : images;
}

void backward_data(float* dx, bool add, const void* dy, const float* weight, const ConvShape& all) {
  ConvShape s = all;
  if (add) s.B = images_at_once(all);
  with_stream(s, [&](dnnl::stream& stream) {
    const Plan& plan = plan_of(Work::backward_data, s, false, multiplies_in_bf16());
    const memory packed = pack(stream, plan, weight);
    const int64_t in = s.H * s.W * s.Cin;  // numbers per image
    const size_t dy_bytes = plan.layouts.y.get_size() / size_t(s.B);
    float* sums = add ? scratch(Use::sums, size_t(s.B * in) * sizeof(float)) : nullptr;
    for (int64_t b = 0; b < all.B; b += s.B) {
      float* dx_b = dx + b * in;
      plan.compute.execute(
          stream, {{DNNL_ARG_DIFF_DST,
                    at(plan.layouts.y, static_cast<const char*>(dy) + size_t(b) * dy_bytes)},
                   {DNNL_ARG_WEIGHTS, packed},
                   {DNNL_ARG_DIFF_SRC, at(plan.layouts.x, add ? sums : dx_b)}});
      if (!add) continue;
      stream.wait();
#pragma omp parallel for simd
      for (int64_t i = 0; i < s.B * in; ++i) dx_b[i] += sums[i];
    }
  });
}

void backward_weights(float* dweight, float* dbias, const void* dy, const void* x,
                      const ConvShape& s) {
  with_stream(s, [&](dnnl::stream& stream) {
    const Plan& plan = plan_of(Work::backward_weights, s, dbias != nullptr, multiplies_in_bf16());
    memory packed = at(plan.packed, scratch(Use::packed_weight, plan.packed.get_size()));
    float* bias_sums = scratch(Use::sums, size_t(s.Cout) * sizeof(float));
    std::unordered_map<int, memory> arguments{{DNNL_ARG_DIFF_DST, at(plan.layouts.y, dy)},
                                              {DNNL_ARG_SRC, at(plan.layouts.x, x)},
                                              {DNNL_ARG_DIFF_WEIGHTS, packed}};
    if (dbias) arguments[DNNL_ARG_DIFF_BIAS] = at(plan.layouts.bias, bias_sums);
    plan.compute.execute(stream, arguments);
    memory plain = at(plan.layouts.weight, dweight);
    plan.reorder.execute(stream, packed, plain);
    stream.wait();
    for (int64_t c = 0; c < s.Cout && dbias; ++c) dbias[c] += bias_sums[c];
  });
}

}  // namespace

bool has_convolution_library() { return true; }

void library_convolution(float* y, const float* x, const float* weight, const float* bias,
                         const ConvShape& s) {
  forward(y, false, factor(Use::rounded_x, x, s.B * s.H * s.W * s.Cin), weight, bias, s);
}

void library_convolution_backward(float* dx, bool add, float* dweight, float* dbias,
                                  const float* dy, const float* x, const float* weight,
                                  const ConvShape& s) {
  const void* const dy_factor = factor(Use::rounded_y, dy, s.B * s.Ho() * s.Wo() * s.Cout);
  backward_weights(dweight, dbias, dy_factor, factor(Use::rounded_x, x, s.B * s.H * s.W * s.Cin),
                   s);
  if (!dx) return;
  if (s.stride == 1 && s.padding < s.K) {
    backward_data_turned(dx, add, dy_factor, weight, s);
  } else {
    backward_data(dx, add, dy_factor, weight, s);
  }
}

}  // namespace dyt

#else

namespace dyt {

bool has_convolution_library() { return false; }

void library_convolution(float*, const float*, const float*, const float*, const ConvShape&) {
  fail("built without oneDNN");
}
void library_convolution_backward(float*, bool, float*, float*, const float*, const float*,
                                  const float*, const ConvShape&) {
  fail("built without oneDNN");
}

}  // namespace dyt

#endif
