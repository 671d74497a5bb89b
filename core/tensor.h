// Tensor: a small handle (shape, number type, address, gradient). It owns nothing: activations live
// in the tape's arena until the next step, parameters in the flat buffers of core/parameters.h.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <string>

#include "core/dtype.h"
#include "core/error.h"

namespace dyt {

// Up to four dimensions, row-major: the last one is contiguous.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    require(dims.size() <= 4, "a shape has at most 4 dimensions, not ", dims.size());
    for (int64_t d : dims) dims_[rank_++] = d;
  }
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i < 0 ? rank_ + i : i]; }  // [-1] is the last
  int64_t& operator[](int i) { return dims_[i < 0 ? rank_ + i : i]; }
  void append(int64_t dim) {
    require(rank_ < 4, "a shape has at most 4 dimensions");
    dims_[rank_++] = dim;
  }
  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) {
      require(!__builtin_mul_overflow(n, dims_[i], &n), "a tensor of shape ", *this,
              " has more elements than 64 bits can count");
    }
    return n;
  }
  bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if (dims_[i] != other.dims_[i]) return false;
    return true;
  }
  std::string text() const;  // "(64, 65, 192)"

 private:
  int64_t dims_[4] = {1, 1, 1, 1};
  int rank_ = 0;
};

// For messages: of those that nobody will read, no text is made.
inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << shape.text();
}

// Where a tensor's gradient is. It gets its memory when something first writes it (tape.h).
struct Gradient {
  void* data = nullptr;
  bool filled = false;  // false: the next writer overwrites; true: it adds
};

struct Tensor {
  Shape shape;
  DType dtype = DType::f32;
  void* data = nullptr;
  Gradient* grad = nullptr;  // null: no gradient is wanted (e.g. input images)

  int64_t size() const { return shape.size(); }
  int64_t channels() const { return shape[-1]; }        // width of the last dimension
  int64_t rows() const { return size() / channels(); }  // everything but the last dimension

  // The data as numbers of type T; T must be the tensor's number type.
  template <class T>
  T* as() const {
    require(dtype_of<T>::value == dtype, "tensor ", shape, " holds ", name_of(dtype), ", not ",
            name_of(dtype_of<T>::value));
    return static_cast<T*>(data);
  }
  // The same numbers (and the same gradient) under another shape.
  Tensor reshaped(Shape other) const {
    require(other.size() == size(), "cannot reshape ", shape, " to ", other);
    Tensor t = *this;
    t.shape = other;
    return t;
  }
};

}  // namespace dyt
