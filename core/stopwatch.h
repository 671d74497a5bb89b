// How long a device takes, how much memory it has in use, and how large its cache is: for bench/.
#pragma once
#include <cstddef>
#include <memory>

#include "core/device.h"

namespace dyt {

// Time between two points in the queue of a device's work, in seconds. On a GPU by events, so what
// the host does meanwhile doesn't count; elsewhere by the clock.
class Stopwatch {
 public:
  explicit Stopwatch(Device device);
  ~Stopwatch();
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  void start();
  double stop();  // waits for the device; seconds since start()

 private:
  struct Marks;
  Device device_;
  std::unique_ptr<Marks> marks_;
};

// The largest cache before a device's memory; 32 MiB if the machine doesn't say.
size_t cache_bytes(Device device);

// Bytes in use on a GPU by everyone, as its driver says; 0 on other devices.
size_t device_memory_in_use(Device device);

}  // namespace dyt
