// What the wrappers around oneDNN's primitives share. Only they include this, and only if oneDNN is
// built in. oneDNN 3 describes a primitive in one step, oneDNN 2 in two.
#pragma once
#if !__has_include(<dnnl.hpp>)
#error "oneDNN is not installed: 'make deps' does it; 'make BLAS=none' does without it"
#endif
#include <dnnl.hpp>

#include "core/device.h"

namespace dyt::onednn {

using dnnl::memory;

inline const dnnl::engine& engine() {
  static const dnnl::engine created(dnnl::engine::kind::cpu, 0);
  return created;
}

inline dnnl::stream& stream() {
  static dnnl::stream created(engine());
  return created;
}

// Adds what a primitive writes to what is there.
inline dnnl::primitive_attr adding() {
  dnnl::post_ops sum;
  sum.append_sum(1.0f);
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(sum);
  return attributes;
}

inline dnnl::reorder reorder(const memory::desc& from, const memory::desc& to,
                             const dnnl::primitive_attr& attributes = {}) {
  return dnnl::reorder({engine(), from, engine(), to, attributes});
}

inline memory at(const memory::desc& layout, const void* data) {
  return memory(layout, engine(), const_cast<void*>(data));
}

// Memory for what is needed only while a primitive runs, one piece for each use.
enum class Use {
  packed_weight,
  turned_weight,
  sums,
  rounded_x,
  rounded_y,
  gathered_x,
  moved_x,
  moved_y,
  count
};
inline float* scratch(Use use, size_t bytes) {
  static Buffer buffers[int(Use::count)];
  Buffer& buffer = buffers[int(use)];
  if (buffer.bytes() < bytes) buffer = Buffer(Device::cpu, bytes);
  return static_cast<float*>(buffer.data());
}

}  // namespace dyt::onednn
