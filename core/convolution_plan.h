// oneDNN's primitives for convolutions: which algorithm a shape gets, and how its tensors must lie.
// Only core/convolution.cpp includes this, and only if oneDNN is built in.
#pragma once
#include "core/convolution.h"
#include "core/onednn.h"

namespace dyt::onednn {

// (backward_data_adding: with Winograd's algorithm alone)
enum class Work { forward, forward_adding, backward_data, backward_data_adding, backward_weights };

// Whether Winograd's algorithm is worth it, and can do it if the processor can.
bool suits_winograd(const ConvShape& s);

// A primitive, what it wants its tensors to be like, and what brings them there or back.
struct Plan {
  // x and y: `plain` as they lie in our memory, `wanted` by the primitive. Where that is not the
  // same, `move` fills a copy from them, or writes, or adds, the copy to them.
  struct Side {
    memory::desc plain, wanted;
    dnnl::reorder move;
    bool moves() const { return plain != wanted; }
  };
  memory::desc weight, bias;  // as they lie in our memory
  memory::desc packed;        // the layout of the weights that the primitive wants
  dnnl::primitive compute;
  dnnl::reorder reorder;
  Side x, y;
};

// Of the three tensors of a convolution two are factors, multiplied with one another, and the third
// their sums: their number types, f32 or bf16. Weights and their gradient are f32 in our memory,
// whatever they are multiplied as. With `winograd`, where all are f32: by Winograd's algorithm, if
// the processor has it; then x moves. It must suit the shape.
struct Numbers {
  DType factors = DType::f32, sums = DType::f32;
  bool winograd = false;
  auto operator<=>(const Numbers&) const = default;
};

// Making a plan compiles code, which takes milliseconds: it is kept for the next time.
const Plan& plan_of(Work work, const ConvShape& s, bool with_bias, const Numbers& numbers);

}  // namespace dyt::onednn
