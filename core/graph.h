// A piece of the device's work, recorded once and repeated at will. A training step is hundreds of
// small kernels, each of which costs the host some microseconds to launch; recorded as a CUDA graph
// it is one launch, and the GPU goes from kernel to kernel by itself.
//
//     Graph step = Graph::record(device, [&] { ... launches, copies on the device, fills ... });
//     step.launch();
//     step.launch();
//
// While recording nothing is done: kernels are noted with their arguments as they are. So whatever
// differs from one launch() to the next must lie in the device's memory, and memory must stay where
// it is. The emulator does the same with a list of launches, so that a test without a GPU sees a
// number that was an argument and should not have been.
#pragma once
#include <functional>
#include <memory>

#include "core/device.h"

namespace dyt {

class Graph {
 public:
  Graph() = default;  // of nothing, can't be launched

  // Runs `work` with everything it wants of the device noted instead of done. Error if it allocates
  // memory, copies to or from the host, or waits: none of that can be repeated by the device alone.
  // The kernels must have run before (libraries load and measure at first use).
  static Graph record(Device device, const std::function<void()>& work);

  // Does the work, after all that was launched before; nobody waits.
  void launch() const;

  explicit operator bool() const { return recorded_ != nullptr; }

 private:
  struct Recorded;
  std::shared_ptr<const Recorded> recorded_;
};

// Error saying that `what` can't be part of a graph, if one is being recorded.
void refuse_while_recording(const char* what);

}  // namespace dyt
