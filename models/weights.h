// A model's weights as the files of timm (image models) and Hugging Face (GPT-2, LLaMA) have them:
// the same names, the same shapes, so that what is trained here loads there, and the other way
// round.
//
// Most parameters here have timm's names and shapes already. What differs in a file:
//   - ConvNeXt up to Nano: mlp.fc1.weight (4 C, C, 1, 1), likewise fc2; without the ones is read,
//     too;
//   - num_batches_tracked of BatchNorm is one int64 without dimensions;
//   - GPT-2: every matrix of ours is (out, in); c_attn, c_fc and c_proj (a Conv1D there) are
//     (in, out);
//   - LLaMA: queries, keys and values come from one product here, self_attn.qkv_proj.weight, and so
//     do gates and values, mlp.gate_up_proj.weight; in the file they are q_proj, k_proj, v_proj,
//     gate_proj and up_proj, which are the rows of ours, one after the other.
// What neither library has a name for: `alpha` (and Derf's `shift`) beside a norm's weight, and
// model.embed_scale of a LLaMA with DyT.
#pragma once
#include <string>

#include "core/safetensors.h"
#include "models/model.h"

namespace dyt {

// Adds every parameter and buffer under `prefix` and its name, in f32 (f64 in f64 runs); or with
// `gradients` the gradient of every parameter, as grad.NAME behind the prefix.
void write_weights(const Model& model, const Parameters& parameters, TensorFile& file,
                   const std::string& prefix = "", bool gradients = false);

// The buffers alone.
void write_buffers(const Parameters& parameters, TensorFile& file, const std::string& prefix = "");

// Sets every parameter and buffer from F64, F32, F16 or BF16 numbers. Error, naming the first few,
// if tensors are missing, unknown or of another shape, and for numbers that aren't finite; the
// model then is as it was. GPT-2's names may lack `transformer.`, and what a model has no use for
// (the masks in old files of GPT-2, a head that is the embedding) may be there.
// With a prefix: from the tensors whose names begin with it; the others don't matter. Without: what
// a checkpoint keeps beside the weights, "optimizer." and "ema.", doesn't.
void read_weights(const Model& model, Parameters& parameters, const TensorFile& file,
                  const std::string& prefix = "");

}  // namespace dyt
