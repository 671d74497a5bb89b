#include "bench/kernels.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "bench/ladders.h"
#include "bench/numbers.h"
#include "bench/yardsticks.h"
#include "core/clock.h"
#include "core/precision.h"
#include "core/quantile.h"
#include "experiments/report.h"

namespace dyt {
namespace {

// ------------------------------------------------------------------------- how things are timed

// One kernel on several sets of data. once() works on each of them, forward and then backward, and
// adds the seconds per set.
class KernelRunner {
 public:
  KernelRunner(const KernelCase& kernel, Device device, DType dtype, int sets)
      : kernel_(kernel),
        sets_(sets),
        tape_(device, dtype, 1),
        backward_(kernel.backward.bytes > 0) {
    if (kernel.body) {
      body_ = kernel.body(device, dtype, sets);
      return;
    }
    kernel.declare(parameters_);
    parameters_.allocate(device, dtype, 1);
    for (int k = 0; k < sets; ++k) {
      inputs_.emplace_back();
      for (const KernelInput& input : kernel.inputs) inputs_.back().push_back(make(input));
    }
  }

  void once(QueueTimer& timer, std::vector<double>& forward, std::vector<double>& backward) {
    if (body_) {
      forward.push_back(timer(host_forward_, [&] { for_sets(body_); }) / sets_);
      return;
    }
    tape_.begin(step_++);
    std::vector<Tensor> outputs(static_cast<size_t>(sets_));
    const double seconds = timer(host_forward_, [&] {
      for_sets(
          [&](int k) { outputs[size_t(k)] = kernel_.run(tape_, inputs_[size_t(k)], parameters_); });
    });
    forward.push_back(seconds / sets_);
    if (!backward_) return;
    for_sets([&](int k) {
      *outputs[size_t(k)].grad = {gradient_for(k, outputs[size_t(k)]), true};
    });
    for (auto& gradient : input_gradients_) gradient->filled = false;
    // backward() begins at an op without inputs, and finds the others' gradients there.
    const Tensor begin = tape_.empty({1}, DType::f32);
    backward.push_back(timer(host_backward_, [&] { tape_.backward(begin); }) / sets_);
  }

 private:
  void for_sets(const std::function<void(int)>& body) const {
    for (int k = 0; k < sets_; ++k) body(k);
  }
  // An input, and the place where its gradient goes.
  Tensor make(const KernelInput& input) {
    const Device device = tape_.device();
    const DType dtype = input.below ? DType::i32 : tape_.dtype();
    memory_.emplace_back(device, size_t(input.shape.size()) * size_of(dtype));
    Tensor t{input.shape, dtype, memory_.back().data(), nullptr};
    if (input.below) {
      fill_random_indices(device, static_cast<int32_t*>(t.data), t.size(), input.below);
      return t;
    }
    fill_random(device, dtype, t.data, t.size());
    if (!backward_) return t;
    memory_.emplace_back(device, memory_.back().bytes());
    input_gradients_.push_back(std::make_unique<Gradient>(Gradient{memory_.back().data(), false}));
    t.grad = input_gradients_.back().get();
    return t;
  }
  // The gradient of set k's output: random numbers, made once; of a loss, 1.
  void* gradient_for(int k, const Tensor& y) {
    if (size_t(k) < output_gradients_.size()) return output_gradients_[size_t(k)].data();
    output_gradients_.emplace_back(tape_.device(), size_t(y.size()) * size_of(y.dtype));
    void* const data = output_gradients_.back().data();
    const float one = 1;
    if (y.size() == 1) {
      copy_to_device(tape_.device(), data, &one, sizeof one);
    } else {
      fill_random(tape_.device(), y.dtype, data, y.size());
    }
    return data;
  }

  const KernelCase& kernel_;
  int sets_;
  uint64_t step_ = 0;
  Parameters parameters_;
  Tape tape_;
  bool backward_;
  std::function<void(int)> body_;
  std::vector<Buffer> memory_, output_gradients_;
  std::vector<std::vector<Tensor>> inputs_;
  std::vector<std::unique_ptr<Gradient>> input_gradients_;
  double host_forward_ = 0, host_backward_ = 0;
};

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
  const auto choose = [&](bool on) {
    if (kernel.choose) kernel.choose(on);
  };
  KernelRunner runner(kernel, device, dtype, sets_for(kernel, device, dtype));
  choose(true);
  Measured ignored, measured;
  const size_t warm_up = device == Device::cuda ? 3 : device == Device::cpu ? 2 : 0;
  const size_t least = device == Device::cuda ? 10 : device == Device::cpu ? 3 : 1;
  for (size_t i = 0; i < warm_up; ++i) runner.once(timer, ignored.forward, ignored.backward);
  const double end = seconds_now() + seconds;
  while (measured.forward.size() < least ||
         (seconds_now() < end && measured.forward.size() < 200)) {
    runner.once(timer, measured.forward, measured.backward);
  }
  choose(false);
  return measured;
}

struct Yardsticks {
  double bytes_per_second, flops_per_second;
};

// ------------------------------------------------------------------------- the table

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
  void row(const KernelCase& kernel, const char* direction, const Work& work,
           const std::vector<double>& seconds, double equal_copy) {
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
                 kernel.ladder.c_str(), kernel.rung.c_str(), kernel.shape.text().c_str(), direction,
                 1e6 * middle, 1e-9 * work.bytes / middle, flops, 100 * share, share_of, equal);
    std::fflush(table_);
    if (!json_) return;
    std::vector<int64_t> shape;
    for (int i = 0; i < kernel.shape.rank(); ++i) shape.push_back(kernel.shape[i]);
    nlohmann::ordered_json line = {
        {"kernel", kernel.ladder}, {"rung", kernel.rung},
        {"direction", direction},  {"shape", shape},
        {"seconds", middle},       {"spread", {quantile(seconds, 0.25), quantile(seconds, 0.75)}},
        {"bytes", work.bytes},     {"flops", work.flops},
        {"share", share},          {"share_of", share_of}};
    if (equal_copy > 0) line["share_of_equal_copy"] = equal_copy / middle;
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
  }

 private:
  Yardsticks reached_;
  bool json_;
  std::FILE* table_;
};

KernelShapes shapes_of(const KernelBenchOptions& options, Device device) {
  KernelShapes shapes = kernel_shapes(device);
  if (!options.rows.empty()) shapes.rows = options.rows;
  if (!options.channels.empty()) shapes.channels = options.channels;
  if (options.tokens) shapes.tokens = options.tokens;
  if (options.vocabulary) shapes.vocabulary = options.vocabulary;
  return shapes;
}

}  // namespace

void bench_kernels(const KernelBenchOptions& options) {
  const Device device = parse_device(options.device);
  const Precision precision = choose_precision(options.precision, device);
  const DType dtype = precision.activations;
  const std::vector<KernelCase> kernels = kernel_cases(shapes_of(options, device), dtype);
  const std::vector<std::string> known = kernel_ladders();
  for (const std::string& name : options.ladders) {
    std::string all;
    for (const std::string& k : known) all += (all.empty() ? "" : ", ") + k;
    require(std::find(known.begin(), known.end(), name) != known.end(), "unknown kernel '", name,
            "'; choose of ", all);
  }
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
    const bool wanted = std::count(options.ladders.begin(), options.ladders.end(), kernel.ladder);
    if (!wanted && !options.ladders.empty()) continue;
    const Measured measured = measure(kernel, device, dtype, timer, options.seconds);
    printer.row(kernel, "forward", kernel.forward, measured.forward,
                equal_copy(kernel, kernel.forward));
    if (!measured.backward.empty()) {
      printer.row(kernel, "backward", kernel.backward, measured.backward,
                  equal_copy(kernel, kernel.backward));
    }
  }
}

}  // namespace dyt
