#include "core/tape.h"

#include <algorithm>

#include "core/poison.h"

namespace dyt {

Tape::Tape(Device device, DType dtype, uint64_t seed)
    : device_(device), dtype_(dtype), seed_(seed), arena_(device) {
  const bool known = device == Device::cpu ? dtype == DType::f32 || dtype == DType::f64
                                           : dtype == DType::f32 || dtype == DType::bf16;
  require(known, "device ", name_of(device), " does not compute in ", name_of(dtype));
}

void* Tape::host_allocate(size_t bytes, size_t alignment) {
  constexpr size_t block_bytes = size_t(1) << 16;
  require(bytes <= block_bytes, "a closure of ", bytes, " bytes is too large for the tape");
  host_at_ = (host_at_ + alignment - 1) / alignment * alignment;
  if (host_blocks_.empty() || host_at_ + bytes > block_bytes) {
    if (!host_blocks_.empty()) ++host_block_;
    if (host_block_ == host_blocks_.size()) {
      host_blocks_.push_back(std::make_unique<std::byte[]>(block_bytes));
    }
    host_at_ = 0;
  }
  void* place = host_blocks_[host_block_].get() + host_at_;
  host_at_ += bytes;
  return place;
}

Tensor Tape::constant(Shape shape, DType dtype) {
  require(shape.size() > 0, "a tensor of shape ", shape, " has no elements");
  return {shape, dtype, arena_.allocate(size_t(shape.size()) * size_of(dtype)), nullptr};
}

Tensor Tape::empty(Shape shape, DType dtype) {
  Tensor t = constant(shape, dtype);
  if (training) t.grad = new (host_allocate(sizeof(Gradient), alignof(Gradient))) Gradient;
  return t;
}

unsigned* Tape::zeros(int64_t count) {
  const size_t bytes = size_t(count) * sizeof(unsigned);
  if (bytes > zeros_.bytes()) {
    synchronize(device_);  // nobody may be counting there any more
    zeros_ = Buffer(device_, std::max(bytes, size_t(1) << 16));
    ++zeros_generation_;
    fill_zero(device_, zeros_.data(), zeros_.bytes());
  }
  return static_cast<unsigned*>(zeros_.data());
}

Tensor Tape::upload(Shape shape, DType dtype, const void* host, bool wants_gradient) {
  const Tensor t = wants_gradient ? empty(shape, dtype) : constant(shape, dtype);
  copy_to_device(device_, t.data, host, size_t(t.size()) * size_of(dtype));
  return t;
}

bool Tape::pass_gradient(const Tensor& y, const Tensor& x) {
  if (!x.grad || x.grad->data) return false;
  *x.grad = *y.grad;
  y.grad->data = nullptr;
  return true;
}

void* Tape::allocate_gradient(size_t bytes) {
  for (size_t i = free_gradients_.size(); i-- > 0;) {  // the one used last is the warmest
    if (free_gradients_[i].first != bytes) continue;
    void* place = free_gradients_[i].second;
    free_gradients_.erase(free_gradients_.begin() + long(i));
    if (device_ == Device::emulated || sanitized) fill_nan(device_, place, bytes);
    return place;
  }
  return arena_.allocate(bytes);
}

void Tape::backward(const Tensor& loss, double scale) {
  require(loss.size() == 1, "backward starts from one number, not from ", loss.shape.text());
  require(loss.dtype != DType::bf16, "a loss is f32 or f64, not bf16");
  const float scale_f32 = float(scale);
  put_on_device(device_, start_gradient(loss),
                loss.dtype == DType::f64 ? static_cast<const void*>(&scale) : &scale_f32,
                size_of(loss.dtype));
  run_closures();
}

void Tape::backward(const Tensor& y, const void* dy_host) {
  copy_to_device(device_, start_gradient(y), dy_host, size_t(y.size()) * size_of(y.dtype));
  run_closures();
}

// Where the gradient of y goes that everything starts from.
void* Tape::start_gradient(const Tensor& y) {
  require(y.grad, "backward needs a tape in training mode");
  if (!y.grad->data) y.grad->data = arena_.allocate(size_t(y.size()) * size_of(y.dtype));
  y.grad->filled = true;
  return y.grad->data;
}

void Tape::run_closures() {
  for (size_t i = entries_.size(); i-- > 0;) {
    const Entry& entry = entries_[i];
    if (!entry.output->filled) continue;
    entry.run(entry.closure);
    if (!entry.output->data) continue;  // handed on
    free_gradients_.emplace_back(entry.bytes, entry.output->data);
    entry.output->data = nullptr;
  }
}

void Tape::begin(uint64_t step, const uint64_t* later) {
  step_ = step;
  later_ = later;
  random_ops_ = 0;
  entries_.clear();
  free_gradients_.clear();
  host_block_ = host_at_ = 0;
  arena_.reset();
}

std::string Shape::text() const {
  std::string s = "(";
  for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(dims_[i]);
  return s + ")";
}

std::vector<float> floats_of(const void* numbers, DType dtype, size_t n) {
  const auto copied = [&](auto* first) { return std::vector<float>(first, first + n); };
  switch (dtype) {
    case DType::f32:
      return copied(static_cast<const float*>(numbers));
    case DType::f64:
      return copied(static_cast<const double*>(numbers));
    case DType::bf16:
      return copied(static_cast<const bf16*>(numbers));
    default:
      fail("numbers of type ", name_of(dtype), " are not read as float");
  }
}

std::vector<float> host_floats(const Tape& tape, const Tensor& t) {
  const size_t n = size_t(t.size());
  std::vector<std::byte> bytes(n * size_of(t.dtype));
  copy_to_host(tape.device(), bytes.data(), t.data, bytes.size());
  return floats_of(bytes.data(), t.dtype, n);
}

}  // namespace dyt
