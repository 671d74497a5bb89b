#include "bench/kernel_runner.h"

#include "bench/numbers.h"

namespace dyt {

KernelRunner::KernelRunner(const KernelCase& kernel, Device device, DType dtype, int sets)
    : kernel_(kernel), sets_(sets), tape_(device, dtype, 1), backward_(kernel.backward.bytes > 0) {
  if (kernel.body) {
    body_ = kernel.body(device, dtype, sets);
    return;
  }
  kernel.declare(parameters_);
  parameters_.allocate(device, dtype, 1);
  for (int k = 0; k < sets; ++k) {
    inputs_.emplace_back();
    for (const KernelInput& input : kernel.inputs) inputs_.back().push_back(make(input));
  }
}

void KernelRunner::once(const Around& around) {
  if (kernel_.choose) kernel_.choose(true);
  both_directions(around);
  if (kernel_.choose) kernel_.choose(false);
}

void KernelRunner::both_directions(const Around& around) {
  if (body_) return around(Direction::forward, [&] { for_sets(body_); });
  tape_.begin(step_++);
  std::vector<Tensor> outputs(static_cast<size_t>(sets_));
  around(Direction::forward, [&] {
    for_sets(
        [&](int k) { outputs[size_t(k)] = kernel_.run(tape_, inputs_[size_t(k)], parameters_); });
  });
  if (!backward_) return;
  for_sets([&](int k) { *outputs[size_t(k)].grad = {gradient_for(k, outputs[size_t(k)]), true}; });
  for (auto& gradient : input_gradients_) gradient->filled = false;
  // backward() begins at an op without inputs, and finds the others' gradients there.
  const Tensor begin = tape_.empty({1}, DType::f32);
  around(Direction::backward, [&] { tape_.backward(begin); });
}

void KernelRunner::for_sets(const std::function<void(int)>& body) const {
  for (int k = 0; k < sets_; ++k) body(k);
}

// An input, and the place where its gradient goes.
Tensor KernelRunner::make(const KernelInput& input) {
  const Device device = tape_.device();
  const DType dtype = input.below ? DType::i32 : tape_.dtype();
  memory_.emplace_back(device, size_t(input.shape.size()) * size_of(dtype));
  Tensor t{input.shape, dtype, memory_.back().data(), nullptr};
  if (input.below) {
    fill_random_indices(device, static_cast<int32_t*>(t.data), t.size(), input.below);
    return t;
  }
  fill_random(device, dtype, t.data, t.size());
  if (!backward_) return t;
  memory_.emplace_back(device, memory_.back().bytes());
  input_gradients_.push_back(std::make_unique<Gradient>(Gradient{memory_.back().data(), false}));
  t.grad = input_gradients_.back().get();
  return t;
}

// The gradient of set k's output: random numbers, made once; of a loss, 1.
void* KernelRunner::gradient_for(int k, const Tensor& y) {
  if (size_t(k) < output_gradients_.size()) return output_gradients_[size_t(k)].data();
  output_gradients_.emplace_back(tape_.device(), size_t(y.size()) * size_of(y.dtype));
  void* const data = output_gradients_.back().data();
  const float one = 1;
  if (y.size() == 1) {
    copy_to_device(tape_.device(), data, &one, sizeof one);
  } else {
    fill_random(tape_.device(), y.dtype, data, y.size());
  }
  return data;
}

}  // namespace dyt
