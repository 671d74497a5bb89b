// The tape: automatic differentiation in some three hundred lines.
//
// An op computes its output and records one closure that computes its gradients:
//
//     Tensor y = tape.empty(x.shape);
//     ... y from x ...
//     tape.record(y, [=, &tape] { ... dx from dy ... });
//
// backward(loss) runs the closures in reverse. There is no graph: the order in which ops ran is
// already a topological order, so its reverse is one for the gradients.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/device.h"
#include "core/philox.h"
#include "core/tensor.h"

namespace dyt {

// Where an op writes a gradient: null if nobody wants it; add to what is there, or overwrite.
template <class T>
struct GradientTarget {
  T* data = nullptr;
  bool add = false;
  explicit operator bool() const { return data != nullptr; }
};

class Tape {
 public:
  Tape(Device device, DType dtype, uint64_t seed = 0);

  Device device() const { return device_; }
  bool on_cpu() const { return device_ == Device::cpu; }
  DType dtype() const { return dtype_; }  // of activations
  bool training = true;                   // false: no closures are kept, drop path drops nothing
  // Norms that are to be calibrated set their alpha by what they see (NormSpec::calibrate): one
  // after the other, so each sees what those before it make of the input.
  bool calibrating = false;

  // A new activation, uninitialised, valid until begin().
  Tensor empty(Shape shape) { return empty(shape, dtype_); }
  Tensor empty(Shape shape, DType dtype);
  // The same, wanting no gradient: inputs, saved statistics, scratch for two-stage reductions.
  Tensor constant(Shape shape, DType dtype);
  template <class T>
  T* scratch(int64_t count) {
    return static_cast<T*>(arena_.allocate(size_t(count) * sizeof(T)));
  }
  // Counters for kernels: zero, and to be left at zero.
  unsigned* zeros(int64_t count);
  // A tensor with these values, wanting a gradient or not.
  Tensor upload(Shape shape, DType dtype, const void* host, bool wants_gradient = false);

  // backward() runs `backward` if y's gradient has been written by then, and gives up that
  // gradient's memory after it; one closure for each y. Captures are tensor handles and numbers
  // (trivially destructible), so a step costs no heap allocation.
  template <class F>
  void record(const Tensor& y, F backward);

  // The gradient of x, for writing: its memory is made at the first call.
  template <class T>
  GradientTarget<T> gradient(const Tensor& x);
  // The gradient of y, for reading inside y's closure.
  template <class T>
  const T* gradient_of_output(const Tensor& y) const {
    return static_cast<const T*>(y.grad->data);
  }
  // Hands y's gradient to x, memory and all, if x has none yet: for y = x + ..., where both are
  // equal. Only the last reader of y's gradient may call it. False if x already had a gradient.
  bool pass_gradient(const Tensor& y, const Tensor& x);

  void backward(const Tensor& loss, double scale = 1);  // of scale * loss
  void backward(const Tensor& y, const void* dy_host);  // from these dy, in y's number type

  // Starts a step: forgets closures and activations. The step number is part of every random draw.
  // `later`, if set, is a number on the kernels' device that they add to their random stream when
  // they run: with streams_of(n) there, the step is n + `step`. So a recorded CUDA graph can be
  // repeated as another step (core/graph.h).
  void begin(uint64_t step, const uint64_t* later = nullptr);
  static constexpr uint64_t streams_of(uint64_t step) { return step << 16; }
  RandomStream random() {  // a new stream per op
    return {seed_, streams_of(step_) + random_ops_++, later_};
  }

  // If set, every norm hands it its name, input and output (layers/norm.cpp): for those who want to
  // look inside a model, without the model knowing.
  std::function<void(const std::string& site, const Tensor& in, const Tensor& out)> observer;

  const Arena& arena() const { return arena_; }
  Arena& arena() { return arena_; }
  // Changes whenever memory that was handed out may not be there any more.
  int64_t generation() const { return arena_.generation() + zeros_generation_; }

 private:
  struct Entry {
    void (*run)(void* closure);
    void* closure;
    Gradient* output;
    size_t bytes;  // of the output's gradient
  };
  // Memory of gradients that have been used: the next one of the same size takes it, warm from the
  // cache.
  void* allocate_gradient(size_t bytes);
  void* start_gradient(const Tensor& y);
  void run_closures();
  void* host_allocate(size_t bytes, size_t alignment);

  Device device_;
  DType dtype_;
  uint64_t seed_, step_ = 0, random_ops_ = 0;
  const uint64_t* later_ = nullptr;
  Arena arena_;
  Buffer zeros_;
  int64_t zeros_generation_ = 0;
  std::vector<Entry> entries_;
  std::vector<std::pair<size_t, void*>> free_gradients_;   // bytes, place
  std::vector<std::unique_ptr<std::byte[]>> host_blocks_;  // closures and Gradients live here
  size_t host_block_ = 0, host_at_ = 0;
};

// n numbers of the host (f32, f64 or bf16), as float.
std::vector<float> floats_of(const void* numbers, DType dtype, size_t n);
// A tensor's numbers, as float; waits for the device.
std::vector<float> host_floats(const Tape& tape, const Tensor& t);

template <class F>
void Tape::record(const Tensor& y, F backward) {
  static_assert(std::is_trivially_destructible_v<F>, "capture tensors and numbers by value");
  if (!training || !y.grad) return;
  void* place = host_allocate(sizeof(F), alignof(F));
  new (place) F(backward);
  entries_.push_back({[](void* closure) { (*static_cast<F*>(closure))(); }, place, y.grad,
                      size_t(y.size()) * size_of(y.dtype)});
}

template <class T>
GradientTarget<T> Tape::gradient(const Tensor& x) {
  if (!x.grad) return {};
  if (!x.grad->data) x.grad->data = allocate_gradient(size_t(x.size()) * sizeof(T));
  const GradientTarget<T> target{static_cast<T*>(x.grad->data), x.grad->filled};
  x.grad->filled = true;
  return target;
}

}  // namespace dyt
