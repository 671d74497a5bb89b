#include "training/feed.h"

#include <algorithm>
#include <cstring>

#include "core/tape.h"

namespace dyt {
namespace {

constexpr size_t alignment = 256;

size_t bytes_of(const HostArray& a) { return size_t(a.shape.size()) * size_of(a.dtype); }

// Calls body(array, its first byte) for arrays one behind the other; returns the bytes of all.
template <class Body>
size_t place_arrays(const HostBatch& batch, Body&& body) {
  size_t end = 0;
  for (const HostArray& array : batch) {
    const size_t begin = (end + alignment - 1) / alignment * alignment;
    body(array, begin);
    end = begin + bytes_of(array);
  }
  return end;
}

}  // namespace

Feed::~Feed() {
  try {
    for (Slot& slot : slots_) slot.copied.wait();  // before its memory goes
  } catch (const Error&) {                         // the device is lost: nothing is under way
  }
}

const DeviceBatch& Feed::send(const HostBatch& batch, size_t place) {
  while (places_.size() <= place) places_.push_back({{}, {}, Event(device_), {}});
  Buffer& memory = places_[place].memory;
  DeviceBatch& tensors = places_[place].tensors;
  const size_t bytes = place_arrays(batch, [](const HostArray&, size_t) {});
  if (bytes > memory.bytes()) memory = Buffer(device_, bytes);
  tensors.clear();
  place_arrays(batch, [&](const HostArray& array, size_t begin) {
    tensors.push_back(
        {array.shape, array.dtype, static_cast<char*>(memory.data()) + begin, nullptr});
  });
  if (bytes > 0) bring(batch, bytes, places_[place]);
  return tensors;
}

void Feed::bring(const HostBatch& batch, size_t bytes, Place& to) {
  const auto gather = [&](void* together) {
    place_arrays(batch, [&](const HostArray& array, size_t begin) {
      std::memcpy(static_cast<char*>(together) + begin, array.data, bytes_of(array));
    });
  };
  if (device_ == Device::cpu) return gather(to.memory.data());
  Slot& slot = slots_[next_slot_];
  next_slot_ = 1 - next_slot_;
  slot.copied.wait();  // its last batch has left
  if (bytes > slot.memory.bytes()) slot.memory = PinnedBuffer(device_, bytes);
  gather(slot.memory.data());
  if (bytes > to.staging.bytes()) {
    slots_[next_slot_].copied.wait();
    to.taken.wait();
    to.staging = Buffer(device_, bytes);
  }
  to.taken.hold(Queue::copy);
  send_to_device(device_, to.staging.data(), slot.memory.data(), bytes);
  slot.copied.record(Queue::copy);
  slot.copied.hold(Queue::compute);
  copy_on_device(device_, to.memory.data(), to.staging.data(), bytes);
  to.taken.record(Queue::compute);
}

void Readout::send(const void* numbers, DType dtype, int64_t count) {
  const size_t bytes = size_t(count) * size_of(dtype);
  if (free_.empty()) free_.push_back({{}, Event(device_)});
  sent_.push_back(std::move(free_.front()));
  free_.pop_front();
  Parcel& parcel = sent_.back();
  if (bytes > parcel.memory.bytes()) parcel.memory = PinnedBuffer(device_, bytes);
  parcel.dtype = dtype;
  parcel.count = size_t(count);
  send_to_host(device_, parcel.memory.data(), numbers, bytes);
  parcel.arrived.record(Queue::compute);
}

std::vector<float> Readout::receive() {
  require(!sent_.empty(), "there is nothing to receive: nothing was sent");
  Parcel parcel = std::move(sent_.front());
  sent_.pop_front();
  parcel.arrived.wait();
  std::vector<float> numbers = floats_of(parcel.memory.data(), parcel.dtype, parcel.count);
  free_.push_back(std::move(parcel));
  return numbers;
}

}  // namespace dyt
