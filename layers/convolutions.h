// Convolutions and pooling over images x (B, H, W, C), NHWC.
#pragma once
#include "core/parameters.h"
#include "core/tape.h"

namespace dyt {

// --- depthwise_conv.cu: each channel is filtered by itself ---------------------------------------
// y (B, H, W, C) as x; weight (C, 1, K, K) as in PyTorch, K 3 or 7, stride 1, K / 2 zeros around
// the image; bias (C) or null.
Tensor depthwise_conv(Tape& tape, const Tensor& x, const Parameter& weight, const Parameter* bias);

// --- conv.cu: every output channel sees all input channels ---------------------------------------
// x (B, H, W, Cin); weight (Cout, Cin, K, K) as in PyTorch; bias (Cout) or null; y (B, Ho, Wo,
// Cout) with Ho = (H + 2 padding - K) / stride + 1, rounded down, and Wo likewise. x may be images
// in f32 in a bf16 run, if it wants no gradient.
Tensor conv(Tape& tape, const Tensor& x, const Parameter& weight, const Parameter* bias,
            int stride = 1, int padding = 0);

// --- image_pool.cu: windows of K x K pixels to one -----------------------------------------------
// y (B, Ho, Wo, C) with Ho and Wo as for conv. Padding is at most K / 2, and never the maximum.
Tensor max_pool(Tape& tape, const Tensor& x, int kernel, int stride, int padding = 0);
Tensor average_pool(Tape& tape, const Tensor& x, int kernel, int stride);
Tensor global_average_pool(Tape& tape, const Tensor& x);  // (B, H, W, C) to (B, C)

}  // namespace dyt
