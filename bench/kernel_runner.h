// One op of a ladder, ready to be run forward and back on its data, as often as wanted: what timing
// and watching kernels share.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "bench/ladders.h"

namespace dyt {

class KernelRunner {
 public:
  // With so many sets of data, random ones.
  KernelRunner(const KernelCase& kernel, Device device, DType dtype, int sets);

  // Works on each set, forward and then backward, with the kernel's rung chosen. around() gets each
  // direction's work for all sets in one piece, and is to do it once.
  using Around = std::function<void(Direction, const std::function<void()>& work)>;
  void once(const Around& around);

  int sets() const { return sets_; }

 private:
  void both_directions(const Around& around);
  void for_sets(const std::function<void(int)>& body) const;
  Tensor make(const KernelInput& input);
  void* gradient_for(int k, const Tensor& y);

  const KernelCase& kernel_;
  int sets_;
  uint64_t step_ = 0;
  Parameters parameters_;
  Tape tape_;
  bool backward_;
  std::function<void(int)> body_;
  std::vector<Buffer> memory_, output_gradients_;
  std::vector<std::vector<Tensor>> inputs_;
  std::vector<std::unique_ptr<Gradient>> input_gradients_;
};

}  // namespace dyt
