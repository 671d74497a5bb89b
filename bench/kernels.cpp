#include "bench/kernels.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "bench/kernel_runner.h"
#include "bench/yardsticks.h"
#include "core/clock.h"
#include "core/precision.h"
#include "core/quantile.h"
#include "experiments/report.h"

namespace dyt {
namespace {

// --- How things are timed ------------------------------------------------------------------------

// The inputs alone are to be twice the cache; with results and gradients a set takes some six times
// as much.
int sets_for(const KernelCase& kernel, Device device, DType dtype) {
  double bytes = 0;
  for (const KernelInput& i : kernel.inputs) {
    bytes += double(i.shape.size()) * double(i.below ? 4 : size_of(dtype));
  }
  if (bytes == 0 || kernel.body) bytes = kernel.forward.bytes;
  return sets_beyond_cache(device, bytes, 6 * bytes);
}

struct Measured {
  std::vector<double> forward, backward;
};

Measured measure(const KernelCase& kernel, Device device, DType dtype, QueueTimer& timer,
                 double seconds) {
  KernelRunner runner(kernel, device, dtype, sets_for(kernel, device, dtype));
  Measured ignored, measured;
  double host_forward = 0, host_backward = 0;
  const auto once = [&](Measured& into) {
    runner.once([&](Direction direction, const std::function<void()>& work) {
      const bool forward = direction == Direction::forward;
      const double seconds = timer(forward ? host_forward : host_backward, work);
      (forward ? into.forward : into.backward).push_back(seconds / runner.sets());
    });
  };
  const size_t warm_up = device == Device::cuda ? 3 : device == Device::cpu ? 2 : 0;
  const size_t least = device == Device::cuda ? 10 : device == Device::cpu ? 3 : 1;
  for (size_t i = 0; i < warm_up; ++i) once(ignored);
  const double end = seconds_now() + seconds;
  while (measured.forward.size() < least ||
         (seconds_now() < end && measured.forward.size() < 200)) {
    once(measured);
  }
  return measured;
}

struct Yardsticks {
  double bytes_per_second, flops_per_second;
};

// --- The table -----------------------------------------------------------------------------------

class Printer {
 public:
  Printer(const Yardsticks& reached, bool json)
      : reached_(reached), json_(json), table_(json ? stderr : stdout) {}

  void head(Device device, DType dtype) {
    std::fprintf(table_, "%s (%s), %s: a copy %.1f GB/s, a large product %.2f TFLOP/s\n",
                 describe(device).c_str(), name_of(device), name_of(dtype),
                 1e-9 * reached_.bytes_per_second, 1e-12 * reached_.flops_per_second);
    if (device == Device::emulated) {
      std::fprintf(table_, "kernels run thread by thread on the CPU: these times say nothing\n");
    }
    std::fprintf(table_, "%-16s %-18s %-22s %-9s %10s %9s %9s  %s\n", "kernel", "rung", "shape", "",
                 "us", "GB/s", "TFLOP/s", "share");
    if (!json_) return;
    const nlohmann::ordered_json line = {{"device", name_of(device)},
                                         {"machine", describe(device)},
                                         {"dtype", name_of(dtype)},
                                         {"commit", build_commit()},
                                         {"copy_bytes_per_s", reached_.bytes_per_second},
                                         {"product_flops_per_s", reached_.flops_per_second}};
    std::printf("%s\n", line.dump().c_str());
  }

  // equal_copy: seconds of a copy of as many bytes; 0 if products are what counts.
  void row(const KernelCase& kernel, Direction direction, const std::vector<double>& seconds,
           double equal_copy) {
    const Work& work = kernel.work(direction);
    const double middle = median(seconds);
    const double share = kernel.products() ? work.flops / middle / reached_.flops_per_second
                                           : work.bytes / middle / reached_.bytes_per_second;
    const char* const share_of = kernel.products() ? "product" : "copy";
    char equal[48] = "";
    if (equal_copy > 0) {
      std::snprintf(equal, sizeof equal, ", %3.0f %% of an equal one", 100 * equal_copy / middle);
    }
    char flops[32] = "";
    if (work.flops > 0) std::snprintf(flops, sizeof flops, "%.2f", 1e-12 * work.flops / middle);
    std::fprintf(table_, "%-16s %-18s %-22s %-9s %10.1f %9.1f %9s  %3.0f %% of a %s%s\n",
                 kernel.ladder.c_str(), kernel.rung.c_str(), kernel.shape.text().c_str(),
                 name_of(direction), 1e6 * middle, 1e-9 * work.bytes / middle, flops, 100 * share,
                 share_of, equal);
    std::fflush(table_);
    if (!json_) return;
    nlohmann::ordered_json line = {{"kernel", kernel.ladder},
                                   {"rung", kernel.rung},
                                   {"direction", name_of(direction)},
                                   {"shape", dims_of(kernel.shape)},
                                   {"seconds", middle},
                                   {"spread", {quantile(seconds, 0.25), quantile(seconds, 0.75)}},
                                   {"bytes", work.bytes},
                                   {"flops", work.flops},
                                   {"share", share},
                                   {"share_of", share_of}};
    if (equal_copy > 0) line["share_of_equal_copy"] = equal_copy / middle;
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
  }

 private:
  Yardsticks reached_;
  bool json_;
  std::FILE* table_;
};

}  // namespace

void bench_kernels(const KernelBenchOptions& options) {
  const Device device = parse_device(options.device);
  const Precision precision = choose_precision(options.precision, device);
  const DType dtype = precision.activations;
  const std::vector<KernelCase> kernels = chosen_kernels(options.kernels, device, dtype);
  QueueTimer timer(device);
  const Yardsticks reached = {copy_bytes_per_second(timer, options.seconds),
                              product_flops_per_second(timer, dtype, options.seconds)};
  Printer printer(reached, options.json);
  printer.head(device, precision.of_run);
  std::map<double, double> copies;  // seconds, by bytes
  const auto equal_copy = [&](const KernelCase& kernel, const Work& work) {
    if (kernel.products()) return 0.0;
    const auto [found, is_new] = copies.try_emplace(work.bytes, 0);
    if (is_new) found->second = copy_seconds(timer, work.bytes, options.seconds);
    return found->second;
  };
  for (const KernelCase& kernel : kernels) {
    const Measured measured = measure(kernel, device, dtype, timer, options.seconds);
    for (const Direction direction : {Direction::forward, Direction::backward}) {
      const bool forward = direction == Direction::forward;
      const std::vector<double>& seconds = forward ? measured.forward : measured.backward;
      if (!seconds.empty()) {
        printer.row(kernel, direction, seconds, equal_copy(kernel, kernel.work(direction)));
      }
    }
  }
}

}  // namespace dyt
