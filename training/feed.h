// Batches on their way to the device, and results on their way back, without anybody waiting.
//
//     host batch -> pinned memory -> staging on the device -> where the step reads it
//                (host)       (copy queue)          (compute queue)
//
// The copy over the bus runs while the device computes the step before. The last copy, within the
// device, is a thousandth of a step's work and lets the staging area be filled again at once; it is
// also why a batch is always found at the same address, as a recorded step wants it.
#pragma once
#include <deque>
#include <vector>

#include "core/tensor.h"
#include "core/transfer.h"

namespace dyt {

// Numbers on the host; as an input, they want no gradient.
struct HostArray {
  Shape shape;
  DType dtype = DType::f32;
  const void* data = nullptr;
};
using HostBatch = std::vector<HostArray>;  // images and labels, tokens and labels ...
using DeviceBatch = std::vector<Tensor>;   // the same on the device

class Feed {
 public:
  explicit Feed(Device device)
      : device_(device), slots_{Slot{{}, Event(device)}, Slot{{}, Event(device)}} {}
  ~Feed();

  // Brings a batch to one of several places on the device: what is launched from now on finds it
  // there, until the place is given another. The host's arrays are free again on return. Batches
  // of equal shapes have equal addresses.
  const DeviceBatch& send(const HostBatch& batch, size_t place = 0);

 private:
  struct Slot {
    PinnedBuffer memory;
    Event copied;
  };
  // Each has a staging area of its own: the parts of a step, which have a place each, don't wait
  // for each other.
  struct Place {
    Buffer memory, staging;
    Event taken;  // what was in staging
    DeviceBatch tensors;
  };
  void bring(const HostBatch& batch, size_t bytes, Place& to);

  Device device_;
  Slot slots_[2];  // one is filled while the other is copied
  size_t next_slot_ = 0;
  std::deque<Place> places_;
};

// Numbers are sent off where they are made and received later, in the same order: the device goes
// on meanwhile.
class Readout {
 public:
  explicit Readout(Device device) : device_(device) {}
  void send(const void* numbers, DType dtype, int64_t count);
  void send(const Tensor& t) { send(t.data, t.dtype, t.size()); }
  size_t waiting() const { return sent_.size(); }  // sent and not received
  std::vector<float> receive();                    // waits until they are there

 private:
  struct Parcel {
    PinnedBuffer memory;
    Event arrived;
    DType dtype = DType::f32;
    size_t count = 0;
  };
  Device device_;
  std::deque<Parcel> sent_, free_;
};

}  // namespace dyt
