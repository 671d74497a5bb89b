#if defined(DYT_ONEDNN)

#include "core/convolution_plan.h"

#include <omp.h>

#include <algorithm>
#include <map>
#include <tuple>

namespace dyt::onednn {

// Winograd's algorithm (Lavin & Gray, arXiv 1509.09308): of 3 x 3 filters, a tile of 4 x 4 outputs
// takes 36 multiplications instead of 144, after transformations that pay from some 32 channels on;
// at 64 it is twice as fast as a direct convolution. It rounds more: errors, relative in the norm,
// of 4e-7 (32 channels) to 1.4e-6 (512), where a direct one has 2e-7 to 9e-7. oneDNN 2 has it for
// AVX-512, and wants channels in blocks of 16.
bool suits_winograd(const ConvShape& s) {
  return DNNL_VERSION_MAJOR < 3 && s.K == 3 && s.stride == 1 && s.padding == 1 && s.H >= 4 &&
         s.W >= 4 && s.Cin % 16 == 0 && s.Cout % 16 == 0 && std::min(s.Cin, s.Cout) >= 32;
}

namespace {

using Forward = dnnl::convolution_forward;
using BackwardData = dnnl::convolution_backward_data;
using BackwardWeights = dnnl::convolution_backward_weights;

// How the tensors of a convolution lie in memory. `packed` leaves the weights to oneDNN.
struct Layouts {
  explicit Layouts(Work work, const ConvShape& s, bool with_bias, const Numbers& numbers,
                   memory::format_tag images = memory::format_tag::nhwc)
      : x({s.B, s.Cin, s.H, s.W}, type(sums_x(work) ? numbers.sums : numbers.factors), images),
        y({s.B, s.Cout, s.Ho(), s.Wo()}, type(sums_y(work) ? numbers.sums : numbers.factors),
          images),
        weight({s.Cout, s.Cin, s.K, s.K}, memory::data_type::f32, memory::format_tag::oihw),
        packed({s.Cout, s.Cin, s.K, s.K},
               type(work == Work::backward_weights ? DType::f32 : numbers.factors),
               memory::format_tag::any),
        strides{s.stride, s.stride},
        padding{s.padding, s.padding} {
    if (with_bias) bias = {{s.Cout}, memory::data_type::f32, memory::format_tag::x};
  }
  static bool sums_x(Work work) {
    return work == Work::backward_data || work == Work::backward_data_adding;
  }
  static bool sums_y(Work work) { return work == Work::forward || work == Work::forward_adding; }
  static memory::data_type type(DType dtype) {
    return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  }
  memory::desc x, y, weight, packed, bias;
  memory::dims strides, padding;
};

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

Plan make_plan(Work work, const ConvShape& s, bool with_bias, const Numbers& numbers) {
  const bool winograd = numbers.winograd;
  const auto images = winograd ? memory::format_tag::nChw16c : memory::format_tag::nhwc;
  const auto algorithm =
      winograd ? dnnl::algorithm::convolution_winograd : dnnl::algorithm::convolution_direct;
  const Layouts plain(work, s, with_bias, numbers), l(work, s, with_bias, numbers, images);
  const bool adds = work == Work::forward_adding || work == Work::backward_data_adding;
  const bool forward = work == Work::forward || work == Work::forward_adding;
  const auto read = [&](const memory::desc& from, const memory::desc& wanted) {
    Plan::Side side{from, wanted, {}};
    if (side.moves()) side.move = reorder(from, wanted);
    return side;
  };
  const auto written = [&](const memory::desc& to, const memory::desc& wanted) {
    Plan::Side side{to, wanted, {}};
    if (side.moves()) side.move = reorder(wanted, to, adds ? adding() : dnnl::primitive_attr());
    return side;
  };
  // Of a convolution backward, its forward one is only a hint.
  const Layouts f = forward ? l : Layouts(Work::forward, s, with_bias, numbers, images);
  const auto forward_desc =
      describe_forward(forward && adds && !winograd ? adding() : dnnl::primitive_attr(),
                       dnnl::prop_kind::forward_training, algorithm, f.x, f.packed, f.bias, f.y,
                       f.strides, f.padding, f.padding);
  if (forward) {
    const memory::desc packed = forward_desc.weights_desc();
    return {l.weight,
            l.bias,
            packed,
            Forward(forward_desc),
            reorder(l.weight, packed),
            read(plain.x, l.x),
            written(plain.y, l.y)};
  }
  if (work != Work::backward_weights) {
    const auto desc = describe_backward<BackwardData>(forward_desc, algorithm, l.x, l.packed, l.y,
                                                      l.strides, l.padding, l.padding);
    const memory::desc packed = desc.weights_desc();
    return {l.weight,
            l.bias,
            packed,
            BackwardData(desc),
            reorder(l.weight, packed),
            written(plain.x, l.x),
            read(plain.y, l.y)};
  }
  const auto desc = describe_backward<BackwardWeights>(
      forward_desc, algorithm, l.x, l.packed, l.bias, l.y, l.strides, l.padding, l.padding);
  const memory::desc packed = desc.diff_weights_desc();
  return {l.weight,
          l.bias,
          packed,
          BackwardWeights(desc),
          reorder(packed, l.weight, adding()),
          read(plain.x, l.x),
          read(plain.y, l.y)};
}

Plan plan_that_is_there(Work work, const ConvShape& s, bool with_bias, Numbers numbers) {
  if (numbers.winograd) {
    try {
      return make_plan(work, s, with_bias, numbers);
    } catch (const dnnl::error&) {  // not on this processor
    }
  }
  numbers.winograd = false;
  return make_plan(work, s, with_bias, numbers);
}

}  // namespace

// A primitive is made for a number of threads.
const Plan& plan_of(Work work, const ConvShape& s, bool with_bias, const Numbers& numbers) {
  using Key = std::tuple<Work, bool, Numbers, int, int64_t, int64_t, int64_t, int64_t, int64_t,
                         int64_t, int64_t, int64_t>;
  static std::map<Key, Plan> plans;
  const Key key{work, with_bias, numbers,  omp_get_max_threads(), s.B, s.H, s.W, s.Cin, s.Cout,
                s.K,  s.stride,  s.padding};
  auto found = plans.find(key);
  if (found == plans.end()) {
    found = plans.emplace(key, plan_that_is_there(work, s, with_bias, numbers)).first;
  }
  return found->second;
}

}  // namespace dyt::onednn

#endif
