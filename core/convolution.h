// Convolutions on the CPU, left to a library like matrix products: oneDNN, which generates the
// inner loops for the sizes at hand. With BLAS=none, in f64 and on the GPU, layers/conv.cu goes
// another way.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace dyt {

struct ConvShape {
  int64_t B, H, W, Cin;  // x (B, H, W, Cin)
  int64_t Cout, K;       // weight (Cout, Cin, K, K)
  int64_t stride, padding;

  constexpr int64_t Ho() const { return (H + 2 * padding - K) / stride + 1; }
  constexpr int64_t Wo() const { return (W + 2 * padding - K) / stride + 1; }
  constexpr int64_t pixels() const { return B * Ho() * Wo(); }  // rows of y (B, Ho, Wo, Cout)
};

// Whether the functions below can be called: oneDNN is built in.
bool has_convolution_library();
// Whether they multiply in bf16: cpu_products() says so, and the processor has instructions for it.
bool library_convolves_in_bf16();

// In what follows, x, y and their gradients are all of the number type `activations`, f32 or, while
// library_convolves_in_bf16(), bf16. Then f32 is rounded to be multiplied.

// y = x * weight + bias; bias may be null.
void library_convolution(void* y, const void* x, DType activations, const float* weight,
                         const float* bias, const ConvShape& s);

// dx is overwritten, or added to; it may be null. dweight and dbias (or null) are added to; if
// dweight is null, neither is computed.
void library_convolution_backward(void* dx, bool add, float* dweight, float* dbias, const void* dy,
                                  const void* x, DType activations, const float* weight,
                                  const ConvShape& s);

}  // namespace dyt
