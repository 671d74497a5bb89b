#include "bench/numbers.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/philox.h"

namespace dyt {

namespace {

constexpr int64_t drawn_numbers = int64_t(1) << 20;

// Drawn once: the kernels want thousands of tensors full of them.
const std::vector<float>& random_numbers() {
  static const std::vector<float> values = [] {
    RandomSequence random(1, 5);
    std::vector<float> drawn(static_cast<size_t>(drawn_numbers));
    for (float& v : drawn) v = float(random.normal());
    return drawn;
  }();
  return values;
}

}  // namespace

void fill_random(Device device, DType dtype, void* data, int64_t count) {
  const int64_t drawn = std::min(count, drawn_numbers);
  const std::vector<float>& values = random_numbers();
  char* const to = static_cast<char*>(data);
  if (dtype == DType::f32) {
    copy_to_device(device, to, values.data(), size_t(drawn) * sizeof(float));
  } else {
    require(dtype == DType::bf16, "random numbers in ", name_of(dtype), " are not to be had");
    static const std::vector<bf16> rounded(values.begin(), values.end());
    copy_to_device(device, to, rounded.data(), size_t(drawn) * sizeof(bf16));
  }
  const int64_t size = int64_t(size_of(dtype));
  for (int64_t begin = drawn; begin < count; begin += drawn) {
    copy_on_device(device, to + begin * size, to, size_t(std::min(drawn, count - begin) * size));
  }
}

void fill_random_indices(Device device, int32_t* data, int64_t count, int64_t below) {
  RandomSequence random(1, 6);
  std::vector<int32_t> values(static_cast<size_t>(count));
  for (int32_t& v : values) v = int32_t(random.below(uint32_t(below)));
  copy_to_device(device, data, values.data(), values.size() * sizeof(int32_t));
}

void product(Device device, DType dtype, Op op_a, Op op_b, std::array<int64_t, 3> sizes,
             const void* a, const void* b, void* c) {
  const auto run = [&](auto t) {
    using T = decltype(t);
    matmul(device, op_a, op_b, sizes[0], sizes[1], sizes[2], static_cast<const T*>(a),
           static_cast<const T*>(b), 0, static_cast<T*>(c));
  };
  if (dtype == DType::bf16) return run(bf16{});
  run(float{});
}

}  // namespace dyt
