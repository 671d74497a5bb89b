#include "core/parameters.h"

#include <algorithm>
#include <cmath>

#include "core/philox.h"

namespace dyt {
namespace {

constexpr int64_t alignment = 32;  // elements: every parameter starts on a 64-byte boundary in bf16

// A stream of its own for every name (FNV-1a), whatever was added before it.
uint64_t stream_of(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (char c : name) hash = (hash ^ uint8_t(c)) * 0x100000001b3u;
  return hash;
}

double draw(const Init& init, RandomSequence& random) {
  if (init.kind == Init::constant) return init.value;
  if (init.kind == Init::uniform_between) return init.value * (2.0 * random.uniform() - 1.0);
  double z = random.normal();
  while (init.kind == Init::truncated_normal && std::abs(z) > 2) z = random.normal();
  return init.value * z;
}

std::vector<double> to_doubles(Device device, const void* data, int64_t offset, int64_t n,
                               DType dtype) {
  std::vector<double> result(size_t(n), 0.0);
  if (dtype == DType::f64) {
    copy_to_host(device, result.data(), static_cast<const double*>(data) + offset, size_t(n) * 8);
  } else {
    std::vector<float> values(static_cast<size_t>(n));
    copy_to_host(device, values.data(), static_cast<const float*>(data) + offset, size_t(n) * 4);
    result.assign(values.begin(), values.end());
  }
  return result;
}

void from_doubles(Device device, void* to, const std::vector<double>& values, DType dtype) {
  if (dtype == DType::f64) return copy_to_device(device, to, values.data(), values.size() * 8);
  const std::vector<float> rounded(values.begin(), values.end());
  copy_to_device(device, to, rounded.data(), rounded.size() * 4);
}

}  // namespace

Parameter& Parameters::add(const std::string& name, Shape shape, Init init) {
  return add(name, shape, init, shape.rank() >= 2);
}

Parameter& Parameters::add(const std::string& name, Shape shape, Init init, bool decay) {
  check_new(name, shape);
  Parameter& p = parameters_.emplace_back();
  p.name = name;
  p.shape = shape;
  p.init = init;
  p.decay = decay;
  return p;
}

ModelBuffer& Parameters::add_buffer(const std::string& name, Shape shape, double initial,
                                    bool counts) {
  check_new(name, shape);
  ModelBuffer& b = buffers_.emplace_back();
  b.name = name;
  b.shape = shape;
  b.initial = initial;
  b.counts = counts;
  return b;
}

void Parameters::check_new(const std::string& name, const Shape& shape) const {
  require(!masters_.data(), "parameter ", name, " added after the memory was allocated");
  const auto same_name = [&](const auto& other) { return other.name == name; };
  require(std::none_of(parameters_.begin(), parameters_.end(), same_name) &&
              std::none_of(buffers_.begin(), buffers_.end(), same_name),
          "two parameters named ", name);
  require(shape.size() > 0, "parameter ", name, " of shape ", shape.text(), " has no elements");
}

void Parameters::allocate(Device device, DType dtype, uint64_t seed) {
  device_ = device;
  dtype_ = dtype;
  flat_size_ = 0;
  for (bool decay : {true, false}) {
    for (Parameter& p : parameters_) {
      if (p.decay != decay) continue;
      p.offset = flat_size_;
      const int64_t elements = p.size() / p.shape[0] * p.rows_in_memory();
      flat_size_ += (elements + alignment - 1) / alignment * alignment;
    }
    if (decay) decayed_size_ = flat_size_;
  }
  const DType master_type = accumulator_of(dtype);
  const size_t bytes = size_t(flat_size_) * size_of(master_type);
  masters_ = Buffer(device, bytes);
  gradients_ = Buffer(device, bytes);
  fill_zero(device, masters_.data(), bytes);
  if (dtype != master_type) {
    copies_ = Buffer(device, size_t(flat_size_) * size_of(dtype));
    fill_zero(device, copies_.data(), copies_.bytes());
  }
  for (Parameter& p : parameters_) {
    const size_t at = size_t(p.offset) * size_of(master_type);
    p.dtype = dtype;
    p.master = static_cast<char*>(masters_.data()) + at;
    p.data = copies_.data() ? static_cast<char*>(copies_.data()) + size_t(p.offset) * size_of(dtype)
                            : p.master;
    p.gradient = {static_cast<char*>(gradients_.data()) + at, true};
    p.grad = &p.gradient;
    RandomSequence random(seed, stream_of(p.name));
    std::vector<double> values(static_cast<size_t>(p.size()));
    for (double& v : values) v = draw(p.init, random);
    set_values(p, values);
  }
  zero_gradients();
  allocate_buffers();
}

void Parameters::allocate_buffers() {
  const DType type = accumulator_of(dtype_);
  buffer_size_ = 0;
  for (const bool counts : {false, true}) {
    if (counts) counts_from_ = buffer_size_;
    for (ModelBuffer& b : buffers_) {
      if (b.counts != counts) continue;
      b.offset = buffer_size_;
      buffer_size_ += (b.size() + alignment - 1) / alignment * alignment;
    }
  }
  if (buffers_.empty()) return;
  buffer_memory_ = Buffer(device_, size_t(buffer_size_) * size_of(type));
  fill_zero(device_, buffer_memory_.data(), buffer_memory_.bytes());
  for (ModelBuffer& b : buffers_) {
    b.dtype = type;
    b.data = static_cast<char*>(buffer_memory_.data()) + size_t(b.offset) * size_of(type);
    set_values(b, std::vector<double>(size_t(b.size()), b.initial));
  }
}

int64_t Parameters::count() const {
  int64_t n = 0;
  for (const Parameter& p : parameters_) n += p.size();
  return n;
}

void Parameters::zero_gradients() { fill_zero(device_, gradients_.data(), gradients_.bytes()); }

Parameter& Parameters::find(const std::string& name) {
  for (Parameter& p : parameters_) {
    if (p.name == name) return p;
  }
  fail("no parameter named ", name);
}

std::vector<double> Parameters::values(const Parameter& p) const {
  return to_doubles(device_, masters_.data(), p.offset, p.size(), accumulator_of(dtype_));
}

std::vector<double> Parameters::values(const ModelBuffer& b) const {
  return to_doubles(device_, buffer_memory_.data(), b.offset, b.size(), b.dtype);
}

ModelBuffer& Parameters::find_buffer(const std::string& name) {
  for (ModelBuffer& b : buffers_) {
    if (b.name == name) return b;
  }
  fail("no buffer named ", name);
}

std::vector<double> Parameters::gradient(const Parameter& p) const {
  return to_doubles(device_, gradients_.data(), p.offset, p.size(), accumulator_of(dtype_));
}

void Parameters::set_values(const Parameter& p, const std::vector<double>& values) {
  require(int64_t(values.size()) == p.size(), "parameter ", p.name, " has ", p.size(),
          " elements, not ", values.size());
  from_doubles(device_, p.master, values, accumulator_of(dtype_));
  if (dtype_ == DType::bf16) {
    std::vector<bf16> copy(values.size());
    for (size_t i = 0; i < copy.size(); ++i) copy[i] = bf16(float(values[i]));
    copy_to_device(device_, p.data, copy.data(), copy.size() * sizeof(bf16));
  }
}

void Parameters::set_values(const ModelBuffer& b, const std::vector<double>& values) {
  require(int64_t(values.size()) == b.size(), "buffer ", b.name, " has ", b.size(),
          " elements, not ", values.size());
  from_doubles(device_, b.data, values, b.dtype);
}

}  // namespace dyt
