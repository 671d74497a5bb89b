// Parameters of a model, in one flat buffer per kind: values, gradients, and what the optimizer
// keeps. One table of names and shapes says who lies where, so the optimizer, the gradient norm,
// a checkpoint or an all-reduce is one pass over one buffer.
#pragma once
#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/tensor.h"

namespace dyt {

// How a parameter starts.
struct Init {
  enum Kind { constant, normal, truncated_normal, uniform_between } kind = constant;
  double value = 0;  // the constant; the standard deviation (truncated at 2 of them); the bound
  static Init zeros() { return {constant, 0}; }
  static Init ones() { return {constant, 1}; }
  static Init fill(double value) { return {constant, value}; }
  static Init gaussian(double std) { return {normal, std}; }
  static Init truncated(double std) { return {truncated_normal, std}; }
  static Init uniform(double bound) { return {uniform_between, bound}; }  // [-bound, bound)
};

// A tensor that is learned. `data` is in the number type of the computation (bf16 on a GPU if so
// chosen); `master` is the value the optimizer updates, f32 (f64 in f64 runs), and the same memory
// as `data` when the types agree. The gradient has the type of the master and always accumulates.
struct Parameter : Tensor {
  std::string name;
  Init init;
  bool decay = true;     // false: no weight decay (vectors and scalars: biases, gamma, beta, alpha)
  bool of_norm = false;  // a norm's, wherever it is in the model: layers/norm.h
  void* master = nullptr;
  Gradient gradient;
  int64_t offset = 0;  // first element in the flat buffers
  // Rows (the first dimension) in memory: those beyond the shape's are zeros, have gradients of
  // zero, and stay so. GPT-2's vocabulary is odd; on whole tiles of rows its products are faster.
  // For a model's constructor to set, before allocate().
  int64_t stored_rows = 0;  // 0: as many as the shape has
  int64_t rows_in_memory() const { return std::max(stored_rows, shape[0]); }

  template <class A>  // A = Acc<T>
  A* master_as() const {
    require(dtype_of<A>::value == accumulator_of(dtype), "parameter ", name, " has a ",
            name_of(accumulator_of(dtype)), " master, not ", name_of(dtype_of<A>::value));
    return static_cast<A*>(master);
  }
};

// A tensor that belongs to a model and is not learned: a running mean, a count of batches. PyTorch
// calls it a buffer. It has no gradient, no decay and no bf16 copy, an op changes it by `data`, and
// a checkpoint holds it beside the parameters. The numbers are f32 (f64 in f64 runs).
struct ModelBuffer : Tensor {
  std::string name;
  double initial = 0;
  bool counts = false;  // whole numbers: int64 in a file
  int64_t offset = 0;   // first element in the flat buffer
};

// The master values and the gradient of an optional parameter, as an op on activations of type T
// takes them; null if there is no such parameter.
template <class T>
const Acc<T>* values_of(const Parameter* p) {
  return p ? p->master_as<Acc<T>>() : nullptr;
}
template <class T>
Acc<T>* gradient_of(const Parameter* p) {
  return p ? static_cast<Acc<T>*>(p->grad->data) : nullptr;
}

// A model's constructor calls add() for each of its parameters; allocate() then gives them memory
// and initial values. The order of the flat buffers: decayed ones first, then the others.
class Parameters {
 public:
  Parameters() = default;
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  // The reference stays valid as long as this object. Matrices decay, vectors and scalars don't.
  Parameter& add(const std::string& name, Shape shape, Init init);
  Parameter& add(const std::string& name, Shape shape, Init init, bool decay);

  // The same for a tensor that is not learned; `initial` everywhere. Names must differ from those
  // of the parameters too. `counts`: it holds whole numbers.
  ModelBuffer& add_buffer(const std::string& name, Shape shape, double initial,
                          bool counts = false);

  // Initial values come from (seed, the parameter's name), so two models start equal wherever they
  // agree in a parameter's name and shape, whatever else differs, on every device.
  void allocate(Device device, DType dtype, uint64_t seed);

  Device device() const { return device_; }
  DType dtype() const { return dtype_; }
  int64_t count() const;                                  // learned numbers
  int64_t flat_size() const { return flat_size_; }        // with padding between parameters (zeros)
  int64_t decayed_size() const { return decayed_size_; }  // elements [0, this) are decayed
  void* masters() const { return masters_.data(); }
  void* gradients() const { return gradients_.data(); }
  void* copies() const { return copies_.data(); }  // bf16 values, null if master and data agree
  void zero_gradients();

  std::deque<Parameter>& all() { return parameters_; }
  const std::deque<Parameter>& all() const { return parameters_; }
  Parameter& find(const std::string& name);  // Error if there is none

  std::deque<ModelBuffer>& buffers() { return buffers_; }
  const std::deque<ModelBuffer>& buffers() const { return buffers_; }
  ModelBuffer& find_buffer(const std::string& name);             // Error if there is none
  void* buffer_values() const { return buffer_memory_.data(); }  // of all of them; null if none
  int64_t buffer_size() const { return buffer_size_; }           // elements, with padding (zeros)
  int64_t counts_from() const { return counts_from_; }  // the element at which the counts begin

  // Masters (and their bf16 copies) and gradients to and from host memory, as double.
  std::vector<double> values(const Parameter& p) const;
  std::vector<double> gradient(const Parameter& p) const;
  void set_values(const Parameter& p, const std::vector<double>& values);
  std::vector<double> values(const ModelBuffer& b) const;
  void set_values(const ModelBuffer& b, const std::vector<double>& values);

 private:
  void check_new(const std::string& name, const Shape& shape) const;
  void allocate_buffers();

  Device device_ = Device::cpu;
  DType dtype_ = DType::f32;
  std::deque<Parameter> parameters_;
  std::deque<ModelBuffer> buffers_;
  int64_t flat_size_ = 0, decayed_size_ = 0, buffer_size_ = 0, counts_from_ = 0;
  Buffer masters_, gradients_, copies_, buffer_memory_;
};

}  // namespace dyt
