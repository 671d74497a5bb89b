#include <deque>
#include <utility>

#include "core/graph.h"
#include "core/launch.h"
#include "core/transfer.h"

namespace dyt {

Event::Event(Event&& other) noexcept
    : device_(other.device_),
      event_(std::exchange(other.event_, nullptr)),
      copies_(other.copies_) {}

#if defined(DYT_EMULATED)

void* pinned_allocate(Device, size_t bytes) { return device_allocate(Device::cpu, bytes); }
void pinned_free(Device, void* data) { device_free(Device::cpu, data); }

namespace {

// The queue `copy`: what was put off, the oldest first.
std::deque<std::function<void()>> put_off;
uint64_t copies_sent = 0;

void copy_until(uint64_t count) {
  while (copies_sent - put_off.size() < count) {
    put_off.front()();
    put_off.pop_front();
  }
}

}  // namespace

Event::~Event() = default;
void Event::record(Queue queue) { copies_ = queue == Queue::copy ? copies_sent : 0; }
void Event::hold(Queue) {
  refuse_while_recording("a queue waits");
  copy_until(copies_);
}
void Event::wait() {
  refuse_while_recording("the host waits");
  copy_until(copies_);
}

void send_to_device(Device device, void* to, const void* from_pinned, size_t bytes) {
  if (device == Device::cpu) return copy_to_device(device, to, from_pinned, bytes);
  ++copies_sent;
  put_off.emplace_back([=] { copy_to_device(device, to, from_pinned, bytes); });
}
void send_to_host(Device device, void* to_pinned, const void* from, size_t bytes) {
  copy_to_host(device, to_pinned, from, bytes);
}

#else

void* pinned_allocate(Device device, size_t bytes) {
  if (device != Device::cuda) return device_allocate(Device::cpu, bytes);
  refuse_while_recording("memory is allocated");
  void* data = nullptr;
  check_cuda(cudaMallocHost(&data, bytes ? bytes : 1));
  return data;
}
void pinned_free(Device device, void* data) {
  if (device != Device::cuda) return device_free(Device::cpu, data);
  cudaFreeHost(data);  // no check: called from destructors
}

namespace {

cudaStream_t stream_of(Queue queue) {
  if (queue == Queue::compute) return stream();
  static const cudaStream_t copies = [] {
    cudaStream_t created;
    check_cuda(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking));
    return created;
  }();
  return copies;
}

}  // namespace

Event::~Event() {
  if (event_) cudaEventDestroy(static_cast<cudaEvent_t>(event_));
}
void Event::record(Queue queue) {
  if (device_ != Device::cuda) return;
  refuse_while_recording("an event is recorded");
  if (!event_) {
    cudaEvent_t created;
    check_cuda(cudaEventCreateWithFlags(&created, cudaEventDisableTiming));
    event_ = created;
  }
  check_cuda(cudaEventRecord(static_cast<cudaEvent_t>(event_), stream_of(queue)));
}
void Event::hold(Queue queue) {
  if (!event_) return;
  refuse_while_recording("a queue waits");
  check_cuda(cudaStreamWaitEvent(stream_of(queue), static_cast<cudaEvent_t>(event_), 0));
}
void Event::wait() {
  if (!event_) return;
  refuse_while_recording("the host waits");
  check_cuda(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)));
}

void send_to_device(Device device, void* to, const void* from_pinned, size_t bytes) {
  if (device == Device::cpu) return copy_to_device(device, to, from_pinned, bytes);
  refuse_while_recording("the host sends numbers");
  check_cuda(
      cudaMemcpyAsync(to, from_pinned, bytes, cudaMemcpyHostToDevice, stream_of(Queue::copy)));
}
void send_to_host(Device device, void* to_pinned, const void* from, size_t bytes) {
  if (device == Device::cpu) return copy_to_host(device, to_pinned, from, bytes);
  refuse_while_recording("the host reads numbers");
  check_cuda(
      cudaMemcpyAsync(to_pinned, from, bytes, cudaMemcpyDeviceToHost, stream_of(Queue::compute)));
}

#endif

}  // namespace dyt
