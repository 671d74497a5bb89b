#include "bench/yardsticks.h"

#include <algorithm>
#include <vector>

#include "bench/numbers.h"
#include "core/clock.h"
#include "core/quantile.h"

namespace dyt {

QueueTimer::QueueTimer(Device device) : device_(device), watch_(device) {
  if (device != Device::cuda) return;
  const size_t bytes = 4 * cache_bytes(device);
  from_ = Buffer(device, bytes), to_ = Buffer(device, bytes);
  fill_zero(device, from_.data(), bytes);
  copies_ahead(1);
  watch_.start();
  copies_ahead(8);
  seconds_of_copy_ = watch_.stop() / 8;
}

double QueueTimer::operator()(double& host_seconds, const std::function<void()>& work) {
  if (device_ == Device::cuda) {
    copies_ahead(std::min(64, 1 + int(1.5 * host_seconds / seconds_of_copy_)));
  }
  watch_.start();
  const double begin = seconds_now();
  work();
  host_seconds = seconds_now() - begin;
  return watch_.stop();
}

void QueueTimer::copies_ahead(int n) {
  for (int i = 0; i < n; ++i) copy_on_device(device_, to_.data(), from_.data(), to_.bytes());
}

namespace {

double median_seconds(QueueTimer& timer, double seconds, const std::function<void()>& work) {
  double host = 0;
  std::vector<double> times;
  for (int i = 0; i < 2; ++i) timer(host, work);
  const double end = seconds_now() + seconds;
  while (times.size() < 3 || (seconds_now() < end && times.size() < 100)) {
    times.push_back(timer(host, work));
  }
  return median(times);
}

// Numbers of f32 in a copy: 512 MiB, or, on the cpu, as much as the cache holds: two of that don't
// fit into it.
int64_t copied_numbers(Device device) {
  constexpr size_t mib = size_t(1) << 20;
  if (device == Device::cuda) return int64_t(512 * mib / sizeof(float));
  if (device == Device::emulated) return 1 << 10;
  return int64_t(std::clamp(cache_bytes(device), 64 * mib, 512 * mib) / sizeof(float));
}

}  // namespace

double copy_bytes_per_second(QueueTimer& timer, double seconds) {
  const int64_t count = copied_numbers(timer.device());
  const RandomSets data(timer.device(), DType::f32, count, 2);
  const size_t bytes = size_t(count) * sizeof(float);
  return 2 * double(bytes) / median_seconds(timer, seconds, [&] {
           copy_on_device(timer.device(), data.at(1), data.at(0), bytes);
         });
}

double product_flops_per_second(QueueTimer& timer, DType dtype, double seconds) {
  const Device device = timer.device();
  const int64_t side = device == Device::cuda ? 8192 : device == Device::cpu ? 1024 : 32;
  const RandomSets data(timer.device(), dtype, side * side, 3);
  const double flops = 2 * double(side * side) * double(side);
  return flops / median_seconds(timer, seconds, [&] {
           product(timer.device(), dtype, Op::none, Op::transpose, {side, side, side}, data.at(0),
                   data.at(1), data.at(2));
         });
}

}  // namespace dyt
