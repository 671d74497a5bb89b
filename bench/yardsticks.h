// Timing a queue of work on a device, and what the device reaches at best: the two numbers that
// everything else is measured by.
#pragma once
#include <functional>

#include "core/device.h"
#include "core/dtype.h"
#include "core/stopwatch.h"

namespace dyt {

// On a GPU a large copy goes ahead of the work: it empties the cache, and it gives the host time to
// queue all of the work, so that the GPU never waits for a launch.
class QueueTimer {
 public:
  explicit QueueTimer(Device device);
  // Seconds of all that `work` queues. `host_seconds`: what it took to queue it the last time.
  double operator()(double& host_seconds, const std::function<void()>& work);
  Device device() const { return device_; }

 private:
  void copies_ahead(int n);

  Device device_;
  Stopwatch watch_;
  Buffer from_, to_;
  double seconds_of_copy_ = 1;
};

// So many sets of data that what is read of them is twice the cache, where one set reads so many
// bytes; fewer if `all` bytes of each set are too much memory. 1 to 32, emulated 2.
int sets_beyond_cache(Device device, double read, double all);

// Seconds of the device's own copy that moves so many bytes, half of them read and half written,
// from and to memory and not the cache: the median of some repetitions that take at least
// `seconds`. A small tensor never gets the bandwidth of a large copy, by whatever kernel.
double copy_seconds(QueueTimer& timer, double bytes, double seconds);
// Likewise of more than the cache holds: bytes read and written per second.
double copy_bytes_per_second(QueueTimer& timer, double seconds);
// Likewise of a product of matrices (8192, 8192) of random numbers (cpu: 1024), in this type.
double product_flops_per_second(QueueTimer& timer, DType dtype, double seconds);

}  // namespace dyt
