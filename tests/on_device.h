// Numbers in the memory of the device that runs kernels, for tests that launch some themselves.
#pragma once
#include <vector>

#include "core/device.h"

namespace dyt::test {

template <class T>
struct OnDevice {
  explicit OnDevice(size_t n) : n(n), buffer(kernel_device, n * sizeof(T)) {}
  explicit OnDevice(const std::vector<T>& v) : OnDevice(v.size()) {
    copy_to_device(kernel_device, buffer.data(), v.data(), n * sizeof(T));
  }
  T* data() const { return static_cast<T*>(buffer.data()); }
  std::vector<T> host() const {
    std::vector<T> v(n);
    copy_to_host(kernel_device, v.data(), buffer.data(), n * sizeof(T));
    return v;
  }
  size_t n;
  Buffer buffer;
};

}  // namespace dyt::test
