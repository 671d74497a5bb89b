#include <unistd.h>

#include "core/clock.h"
#include "core/launch.h"
#include "core/stopwatch.h"

namespace dyt {

#if defined(DYT_EMULATED)

struct Stopwatch::Marks {
  double begin = 0;
};
Stopwatch::Stopwatch(Device device) : device_(device), marks_(std::make_unique<Marks>()) {}
Stopwatch::~Stopwatch() = default;

void Stopwatch::start() {
  synchronize(device_);
  marks_->begin = seconds_now();
}
double Stopwatch::stop() {
  synchronize(device_);
  return seconds_now() - marks_->begin;
}

size_t device_memory_in_use(Device) { return 0; }

#else

struct Stopwatch::Marks {
  double begin = 0;
  cudaEvent_t first = nullptr, last = nullptr;
};
Stopwatch::Stopwatch(Device device) : device_(device), marks_(std::make_unique<Marks>()) {
  if (device != Device::cuda) return;
  check_cuda(cudaEventCreate(&marks_->first));
  check_cuda(cudaEventCreate(&marks_->last));
}
Stopwatch::~Stopwatch() {
  if (device_ != Device::cuda) return;
  cudaEventDestroy(marks_->first);
  cudaEventDestroy(marks_->last);
}

void Stopwatch::start() {
  if (device_ == Device::cuda) return check_cuda(cudaEventRecord(marks_->first, stream()));
  marks_->begin = seconds_now();
}
double Stopwatch::stop() {
  if (device_ != Device::cuda) return seconds_now() - marks_->begin;
  check_cuda(cudaEventRecord(marks_->last, stream()));
  check_cuda(cudaEventSynchronize(marks_->last));
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, marks_->first, marks_->last));
  return 1e-3 * double(milliseconds);
}

size_t device_memory_in_use(Device device) {
  if (device != Device::cuda) return 0;
  size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total));
  return total - free;
}

#endif

size_t cache_bytes([[maybe_unused]] Device device) {
#if !defined(DYT_EMULATED)
  if (device == Device::cuda) {
    int bytes = 0;
    check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, 0));
    return size_t(bytes);
  }
#endif
  const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return bytes > 0 ? size_t(bytes) : size_t(32) << 20;
}

}  // namespace dyt
