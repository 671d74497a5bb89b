// Copies between host and device that nobody waits for. A GPU copies and computes at the same time
// if the two are in different queues ("streams"): batches come in one, kernels run in the other.
// Events say what has to be over before something else may begin.
//
// The emulator computes at once, but puts off a copy into the device until somebody waits for it:
// host memory that was overwritten too early, or a wait that is missing, shows in the results.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/device.h"

namespace dyt {

enum class Queue { compute, copy };  // kernels, and all of core/device.h, are in `compute`

// Host memory that a GPU can reach by itself ("pinned"); ordinary memory for the other devices.
void* pinned_allocate(Device device, size_t bytes);
void pinned_free(Device device, void* data);
using PinnedBuffer = OwnedMemory<pinned_allocate, pinned_free>;

// A point in a queue's work; one that was never recorded has passed.
class Event {
 public:
  explicit Event(Device device) : device_(device) {}
  Event(Event&& other) noexcept;
  Event& operator=(Event&&) = delete;
  ~Event();
  void record(Queue queue);  // here: after all that the queue was given so far
  void hold(Queue queue);    // `queue` goes on only when it has passed
  void wait();               // likewise the host

 private:
  Device device_;
  void* event_ = nullptr;  // cudaEvent_t, made when first recorded
  uint64_t copies_ = 0;    // emulated: that must have been done
};

// In the queue `copy`. The host memory, pinned, must stay as it is meanwhile.
void send_to_device(Device device, void* to, const void* from_pinned, size_t bytes);
// In the queue `compute`. What arrives may be read when an event behind it has passed.
void send_to_host(Device device, void* to_pinned, const void* from, size_t bytes);

}  // namespace dyt
