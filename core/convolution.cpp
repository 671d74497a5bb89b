#include "core/convolution.h"

#include "core/error.h"

#if defined(DYT_ONEDNN)

#include <omp.h>

#include <algorithm>

#include "core/convolution_plan.h"
#include "core/product.h"
#include "core/rounding.h"

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

// How a convolution of such activations is multiplied. In bf16 directly: Winograd's algorithm,
// which is there in f32 alone, is no faster at 64 channels and more, where it is in f32, and slower
// where large images have to be brought into its layout.
Numbers numbers_of(const ConvShape& s, DType activations) {
  if (library_convolves_in_bf16()) return {.factors = DType::bf16, .sums = activations};
  const bool winograd =
      suits_winograd(s) &&
      plan_of(Work::backward_data, s, false, {.winograd = true}).x.moves();  // it is there
  return {.factors = activations, .sums = activations, .winograd = winograd};
}

// A factor as it is multiplied: itself, or rounded.
const void* factor(Use use, const void* x, int64_t n, DType activations, const Numbers& numbers) {
  if (numbers.factors == activations) return x;
  bf16* const rounded = reinterpret_cast<bf16*>(scratch(use, size_t(n) * sizeof(bf16)));
  round_to_bf16(rounded, static_cast<const float*>(x), n);
  return rounded;
}

// In what follows, x and dy are factors, and y and dx sums of these numbers.

// y = x * weight + bias, added to what is there or not.
void forward(void* y, bool add, const void* x, const float* weight, const float* bias,
             const ConvShape& s, const Numbers& numbers) {
  with_stream(s, [&](dnnl::stream& stream) {
    const Plan& plan =
        plan_of(add ? Work::forward_adding : Work::forward, s, bias != nullptr, numbers);
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
void backward_data_turned(void* dx, bool add, const void* dy, const float* weight,
                          const ConvShape& s, const Numbers& numbers) {
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
           .padding = s.K - 1 - s.padding},
          numbers);
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

void backward_data(void* dx, bool add, const void* dy, const float* weight, const ConvShape& all,
                   const Numbers& numbers) {
  ConvShape s = all;
  if (add) s.B = images_at_once(all);
  Numbers written = numbers;
  if (add) written.sums = DType::f32;
  with_stream(s, [&](dnnl::stream& stream) {
    const Plan& plan = plan_of(Work::backward_data, s, false, written);
    const memory packed = pack(stream, plan, weight);
    const int64_t in = s.B * s.H * s.W * s.Cin, out = s.pixels() * s.Cout;  // numbers at a time
    float* sums = add ? scratch(Use::sums, size_t(in) * sizeof(float)) : nullptr;
    for (int64_t i = 0; i < all.B / s.B; ++i) {
      char* const dx_i = static_cast<char*>(dx) + size_t(i * in) * size_of(numbers.sums);
      const char* const dy_i =
          static_cast<const char*>(dy) + size_t(i * out) * size_of(numbers.factors);
      plan.compute.execute(
          stream, {{DNNL_ARG_DIFF_DST, at(plan.y.plain, dy_i)},
                   {DNNL_ARG_WEIGHTS, packed},
                   {DNNL_ARG_DIFF_SRC, at(plan.x.plain, add ? static_cast<void*>(sums) : dx_i)}});
      if (!add) continue;
      stream.wait();
      if (numbers.sums == DType::bf16) {
        dyt::add(reinterpret_cast<bf16*>(dx_i), sums, in);
      } else {
        dyt::add(reinterpret_cast<float*>(dx_i), sums, in);
      }
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
void backward_data_winograd(void* dx, bool add, const void* dy, const float* weight,
                            const ConvShape& s, const Numbers& numbers) {
  with_stream(s, [&](dnnl::stream& stream) {
    const Plan& plan =
        plan_of(add ? Work::backward_data_adding : Work::backward_data, s, false, numbers);
    memory out = place_for(plan.x, dx, Use::moved_x);
    plan.compute.execute(stream, {{DNNL_ARG_DIFF_DST, bring(stream, plan.y, dy, Use::moved_y)},
                                  {DNNL_ARG_WEIGHTS, pack(stream, plan, weight)},
                                  {DNNL_ARG_DIFF_SRC, out}});
    deliver(stream, plan.x, out, dx);
  });
}

void backward_weights(float* dweight, float* dbias, const void* dy, const void* x,
                      const ConvShape& all, const Numbers& numbers) {
  ConvShape s = all;
  if (gathers_pixels(all)) {
    x = numbers.factors == DType::bf16
            ? static_cast<const void*>(gathered(static_cast<const bf16*>(x), all))
            : gathered(static_cast<const float*>(x), all);
    s.H = all.Ho(), s.W = all.Wo(), s.stride = 1;
  }
  with_stream(s, [&](dnnl::stream& stream) {
    const Plan& plan = plan_of(Work::backward_weights, s, dbias != nullptr, numbers);
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

bool library_convolves_in_bf16() {
  return cpu_products() == DType::bf16 && has_bf16_instructions();
}

void library_convolution(void* y, const void* x, DType activations, const float* weight,
                         const float* bias, const ConvShape& s) {
  const Numbers numbers = numbers_of(s, activations);
  const int64_t in = s.B * s.H * s.W * s.Cin;
  forward(y, false, factor(Use::rounded_x, x, in, activations, numbers), weight, bias, s, numbers);
}

void library_convolution_backward(void* dx, bool add, float* dweight, float* dbias, const void* dy,
                                  const void* x, DType activations, const float* weight,
                                  const ConvShape& s) {
  const Numbers numbers = numbers_of(s, activations);
  const int64_t in = s.B * s.H * s.W * s.Cin, out = s.pixels() * s.Cout;
  const void* const dy_factor = factor(Use::rounded_y, dy, out, activations, numbers);
  if (dweight) {
    backward_weights(dweight, dbias, dy_factor, factor(Use::rounded_x, x, in, activations, numbers),
                     s, numbers);
  }
  if (!dx) return;
  if (numbers.winograd) return backward_data_winograd(dx, add, dy_factor, weight, s, numbers);
  if (s.stride == 1 && s.padding < s.K) {
    backward_data_turned(dx, add, dy_factor, weight, s, numbers);
  } else {
    backward_data(dx, add, dy_factor, weight, s, numbers);
  }
}

}  // namespace dyt

#else

namespace dyt {

bool has_convolution_library() { return false; }
bool library_convolves_in_bf16() { return false; }

void library_convolution(void*, const void*, DType, const float*, const float*, const ConvShape&) {
  fail("built without oneDNN");
}
void library_convolution_backward(void*, bool, float*, float*, const void*, const void*, DType,
                                  const float*, const ConvShape&) {
  fail("built without oneDNN");
}

}  // namespace dyt

#endif
