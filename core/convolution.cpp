#include "core/convolution.h"

#include "core/error.h"

#if defined(DYT_ONEDNN)

#include <omp.h>

#include <algorithm>

#include "core/convolution_plan.h"
#include "core/product.h"

namespace dyt {
namespace {

using namespace onednn;

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
  memory plain = at(plan.weight, weight);
  memory packed = at(plan.packed, scratch(Use::packed_weight, plan.packed.get_size()));
  plan.reorder.execute(stream, plain, packed);
  return packed;
}

// A tensor that a primitive reads; the caller's place, or a copy as it is wanted.
memory bring(dnnl::stream& stream, const Plan::Side& side, const void* data, Use use) {
  memory plain = at(side.plain, data);
  if (!side.moves()) return plain;
  memory copy = at(side.wanted, scratch(use, side.wanted.get_size()));
  side.move.execute(stream, plain, copy);
  return copy;
}
// Where it writes one: the caller's place, or a copy, which deliver() then brings there.
memory place_for(const Plan::Side& side, void* data, Use use) {
  return at(side.wanted, side.moves() ? scratch(use, side.wanted.get_size()) : data);
}
void deliver(dnnl::stream& stream, const Plan::Side& side, memory& written, void* data) {
  memory plain = at(side.plain, data);
  if (side.moves()) side.move.execute(stream, written, plain);
}

bool multiplies_in_bf16() { return cpu_products() == DType::bf16 && has_bf16_instructions(); }

// From 64 channels on it is faster in f32 than a direct convolution in bf16, too.
bool uses_winograd(const ConvShape& s) {
  if (!suits_winograd(s) || (multiplies_in_bf16() && std::min(s.Cin, s.Cout) < 64)) return false;
  return plan_of(Work::backward_data, s, false, false).x.moves();  // it may not be there
}

// Whether x, the weights and dy are rounded to bf16 to be multiplied.
bool rounds(const ConvShape& s) { return multiplies_in_bf16() && !uses_winograd(s); }

// A factor as it is multiplied: itself, or rounded.
const void* factor(Use use, const float* x, int64_t n, const ConvShape& s) {
  if (!rounds(s)) return x;
  bf16* const rounded = reinterpret_cast<bf16*>(scratch(use, size_t(n) * sizeof(bf16)));
  round_to_bf16(rounded, x, n);
  return rounded;
}

// In what follows, x and dy are factors where they are void.

// y = x * weight + bias, added to what is there or not.
void forward(float* y, bool add, const void* x, const float* weight, const float* bias,
             const ConvShape& s) {
  with_stream(s, [&](dnnl::stream& stream) {
    const Plan& plan =
        plan_of(add ? Work::forward_adding : Work::forward, s, bias != nullptr, rounds(s));
    memory out = place_for(plan.y, y, Use::moved_y);
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SRC, bring(stream, plan.x, x, Use::moved_x)},
        {DNNL_ARG_WEIGHTS, pack(stream, plan, weight)},
        {DNNL_ARG_DST, out}};
    if (bias) arguments[DNNL_ARG_BIAS] = at(plan.bias, bias);
    plan.compute.execute(stream, arguments);
    deliver(stream, plan.y, out, y);
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
    const Plan& plan = plan_of(Work::backward_data, s, false, rounds(s));
    const memory packed = pack(stream, plan, weight);
    const int64_t in = s.H * s.W * s.Cin;  // numbers per image
    const size_t dy_bytes = plan.y.plain.get_size() / size_t(s.B);
    float* sums = add ? scratch(Use::sums, size_t(s.B * in) * sizeof(float)) : nullptr;
    for (int64_t b = 0; b < all.B; b += s.B) {
      float* dx_b = dx + b * in;
      plan.compute.execute(stream,
                           {{DNNL_ARG_DIFF_DST,
                             at(plan.y.plain, static_cast<const char*>(dy) + size_t(b) * dy_bytes)},
                            {DNNL_ARG_WEIGHTS, packed},
                            {DNNL_ARG_DIFF_SRC, at(plan.x.plain, add ? sums : dx_b)}});
      if (!add) continue;
      stream.wait();
#pragma omp parallel for simd
      for (int64_t i = 0; i < s.B * in; ++i) dx_b[i] += sums[i];
    }
  });
}

// Of 1 x 1 filters with a stride, only the pixels they see: with them it is a convolution without.
// oneDNN 2.6 does so itself, but with fewer than 16 channels and several threads its gradient of
// the weights writes past its memory.
bool gathers_pixels(const ConvShape& s) {
  return s.K == 1 && s.stride > 1 && s.padding == 0 && s.Cin < 16;
}

template <class T>
const T* gathered(const T* x, const ConvShape& s) {
  T* const seen =
      reinterpret_cast<T*>(scratch(Use::gathered_x, size_t(s.pixels() * s.Cin) * sizeof(T)));
#pragma omp parallel for collapse(2)
  for (int64_t b = 0; b < s.B; ++b) {
    for (int64_t i = 0; i < s.Ho(); ++i) {
      for (int64_t j = 0; j < s.Wo(); ++j) {
        std::copy_n(x + ((b * s.H + i * s.stride) * s.W + j * s.stride) * s.Cin, s.Cin,
                    seen + ((b * s.Ho() + i) * s.Wo() + j) * s.Cin);
      }
    }
  }
  return seen;
}

// By Winograd's algorithm, which can add.
void backward_data_winograd(float* dx, bool add, const void* dy, const float* weight,
                            const ConvShape& s) {
  with_stream(s, [&](dnnl::stream& stream) {
    const Plan& plan =
        plan_of(add ? Work::backward_data_adding : Work::backward_data, s, false, false);
    memory out = place_for(plan.x, dx, Use::moved_x);
    plan.compute.execute(stream, {{DNNL_ARG_DIFF_DST, bring(stream, plan.y, dy, Use::moved_y)},
                                  {DNNL_ARG_WEIGHTS, pack(stream, plan, weight)},
                                  {DNNL_ARG_DIFF_SRC, out}});
    deliver(stream, plan.x, out, dx);
  });
}

void backward_weights(float* dweight, float* dbias, const void* dy, const void* x,
                      const ConvShape& all) {
  ConvShape s = all;
  if (gathers_pixels(all)) {
    x = rounds(all) ? static_cast<const void*>(gathered(static_cast<const bf16*>(x), all))
                    : gathered(static_cast<const float*>(x), all);
    s.H = all.Ho(), s.W = all.Wo(), s.stride = 1;
  }
  with_stream(s, [&](dnnl::stream& stream) {
    const Plan& plan = plan_of(Work::backward_weights, s, dbias != nullptr, rounds(s));
    memory packed = at(plan.packed, scratch(Use::packed_weight, plan.packed.get_size()));
    float* bias_sums = scratch(Use::sums, size_t(s.Cout) * sizeof(float));
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_DIFF_DST, bring(stream, plan.y, dy, Use::moved_y)},
        {DNNL_ARG_SRC, bring(stream, plan.x, x, Use::moved_x)},
        {DNNL_ARG_DIFF_WEIGHTS, packed}};
    if (dbias) arguments[DNNL_ARG_DIFF_BIAS] = at(plan.bias, bias_sums);
    plan.compute.execute(stream, arguments);
    memory plain = at(plan.weight, dweight);
    plan.reorder.execute(stream, packed, plain);
    stream.wait();
    for (int64_t c = 0; c < s.Cout && dbias; ++c) dbias[c] += bias_sums[c];
  });
}

}  // namespace

bool has_convolution_library() { return true; }

void library_convolution(float* y, const float* x, const float* weight, const float* bias,
                         const ConvShape& s) {
  forward(y, false, factor(Use::rounded_x, x, s.B * s.H * s.W * s.Cin, s), weight, bias, s);
}

void library_convolution_backward(float* dx, bool add, float* dweight, float* dbias,
                                  const float* dy, const float* x, const float* weight,
                                  const ConvShape& s) {
  const void* const dy_factor = factor(Use::rounded_y, dy, s.B * s.Ho() * s.Wo() * s.Cout, s);
  backward_weights(dweight, dbias, dy_factor, factor(Use::rounded_x, x, s.B * s.H * s.W * s.Cin, s),
                   s);
  if (!dx) return;
  if (uses_winograd(s)) return backward_data_winograd(dx, add, dy_factor, weight, s);
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
