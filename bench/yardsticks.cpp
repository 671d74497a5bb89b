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

// Bytes of a large copy: 512 MiB read, or, on the cpu, as much as the cache holds: two of that
// don't fit into it.
double large_copy(Device device) {
  constexpr size_t mib = size_t(1) << 20;
  if (device == Device::cuda) return 2.0 * 512 * mib;
  if (device == Device::emulated) return 2.0 * 4096;
  return 2.0 * double(std::clamp(cache_bytes(device), 64 * mib, 512 * mib));
}

// Of one of so many copies, from different places to different places.
double seconds_of_copies(QueueTimer& timer, double bytes, int sets, double seconds) {
  const Device device = timer.device();
  const int64_t count = std::max<int64_t>(1, int64_t(bytes / 2 / sizeof(float)));
  const RandomSets from(device, DType::f32, count, sets), to(device, DType::f32, count, sets);
  const size_t size = size_t(count) * sizeof(float);
  const auto copy_all = [&] {
    for (int k = 0; k < sets; ++k) copy_on_device(device, to.at(k), from.at(k), size);
  };
  return median_seconds(timer, seconds, copy_all) / sets;
}

}  // namespace

int sets_beyond_cache(Device device, double read, double all) {
  const double memory = double(size_t(device == Device::cuda ? 12 : 1) << 30);
  const double wanted = 2 * double(cache_bytes(device)) / read, possible = memory / all;
  return int(
      std::clamp(std::min(wanted, possible) + 1, 1.0, device == Device::emulated ? 2.0 : 32.0));
}

double copy_seconds(QueueTimer& timer, double bytes, double seconds) {
  const int sets = sets_beyond_cache(timer.device(), bytes / 2, bytes);
  return seconds_of_copies(timer, bytes, sets, seconds);
}

double copy_bytes_per_second(QueueTimer& timer, double seconds) {
  const double bytes = large_copy(timer.device());
  return bytes / seconds_of_copies(timer, bytes, 1, seconds);
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
