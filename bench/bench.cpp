#include "bench/bench.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "bench/flops.h"
#include "bench/numbers.h"
#include "bench/yardsticks.h"
#include "core/clock.h"
#include "core/precision.h"
#include "core/quantile.h"
#include "training/adamw.h"
#include "training/step.h"

namespace dyt {
namespace {

// Names and batches of comparisons, where they differ from the preset's name and the usual batch.
struct Compared {
  const char *name, *preset;
  int batch;
};
constexpr Compared compared[] = {{"convnext_atto", "convnext_atto_cifar", 64},
                                 {"gpt_6x192", "gpt_char", 32},
                                 {"resnet20", "resnet20", 128}};

// A batch of data on the device, always the same.
class Batch {
 public:
  Batch(const Model& model, int64_t size, Device device) {
    if (const GPT* gpt = model.language()) {
      const GPTConfig& c = gpt->config();
      add_indices(device, {size, c.context}, c.vocabulary);
      add_indices(device, {size, c.context}, c.vocabulary);
      return;
    }
    const int64_t S = model.image_size();
    add(device, {size, S, S, model.channels()}, DType::f32);
    fill_random(device, DType::f32, tensors_[0].data, tensors_[0].size());
    add_indices(device, {size}, model.classes());
  }
  const Tensor& inputs() const { return tensors_[0]; }
  const Tensor& labels() const { return tensors_[1]; }

 private:
  void add(Device device, Shape shape, DType dtype) {
    memory_.emplace_back(device, size_t(shape.size()) * size_of(dtype));
    tensors_.push_back({shape, dtype, memory_.back().data(), nullptr});
  }
  void add_indices(Device device, Shape shape, int64_t below) {
    add(device, shape, DType::i32);
    fill_random_indices(device, tensors_.back().as<int32_t>(), shape.size(), below);
  }
  std::vector<Buffer> memory_;
  std::vector<Tensor> tensors_;
};

// The model in training, and what times it.
class TrainBench {
 public:
  explicit TrainBench(const BenchOptions& options)
      : options_(options),
        device_(parse_device(options.device)),
        precision_(choose_precision(options.precision, device_)),
        spec_(spec_of(options)),
        model_(spec_, parameters_),
        tape_(device_, precision_.activations),
        step_(parameters_, tape_, 1, parse_graphs(options.graph)),
        watch_(device_) {
    if (!batch_) batch_ = model_.language() ? 32 : 64;
    parameters_.allocate(device_, tape_.dtype(), 1);
    const bool text = model_.language();
    optimizer_ = std::make_unique<AdamW>(
        parameters_, text ? AdamWOptions{.beta2 = 0.95f, .weight_decay = 0.1f} : AdamWOptions{});
    data_ = std::make_unique<Batch>(model_, batch_, device_);
    work_.batch = [](int64_t) { return HostBatch{}; };  // it is on the device already
    work_.loss = [this](Tape& tape, const DeviceBatch&) {
      return model_.loss(tape, data_->inputs(), data_->labels());
    };
    for (int i = 0; i < 4; ++i) step();  // the last ones as they will be timed
    synchronize(device_);
  }

  // Seconds per step, of the steps of a turn.
  std::vector<double> turn() {
    const int together = device_ == Device::cuda ? 5 : 1;
    std::vector<double> seconds;
    for (int done = 0; done < options_.steps; done += together) {
      watch_.start();
      for (int i = 0; i < together; ++i) step();
      seconds.push_back(watch_.stop() / together);
    }
    return seconds;
  }

  nlohmann::ordered_json description() const {
    return {{"ready", true},
            {"model", options_.model},
            {"norm", name_of(model_.norm().kind)},
            {"device", name_of(device_)},
            {"dtype", name_of(precision_.of_run)},
            {"batch", batch_},
            {"graph", step_.repeated() > 0},
            {"parameters", parameters_.count()}};
  }
  nlohmann::ordered_json summary(const std::vector<double>& seconds) const {
    const double middle = median(seconds), flops = step_flops(model_, batch_);
    nlohmann::ordered_json j = {{"seconds_per_step", seconds},
                                {"median", middle},
                                {std::string(item()) + "_per_s", double(items()) / middle},
                                {"peak_memory_bytes", peak_memory()}};
    if (flops > 0) j["flops_per_step"] = flops;
    if (flops > 0 && product_ > 0) {
      j["product_flops_per_s"] = product_;
      j["model_flop_use"] = flops / middle / product_;
    }
    return j;
  }
  void print(const std::vector<double>& seconds) const {
    const double middle = median(seconds), flops = step_flops(model_, batch_);
    std::printf("%s, batch %lld, %s %s: median %.2f ms a step (%.2f to %.2f), %.0f %s/s%s\n",
                options_.model.c_str(), static_cast<long long>(batch_), name_of(device_),
                name_of(precision_.of_run), 1e3 * middle, 1e3 * quantile(seconds, 0),
                1e3 * quantile(seconds, 1), double(items()) / middle, item(),
                step_.repeated() > 0 ? "; steps repeated as a graph" : "");
    if (flops > 0 && product_ > 0) {
      std::printf(
          "  %.3f TFLOP a step: %.2f TFLOP/s, model-FLOP use %.1f %% of a large product's "
          "%.2f TFLOP/s\n",
          1e-12 * flops, 1e-12 * flops / middle, 100 * flops / middle / product_, 1e-12 * product_);
    }
    constexpr double mib = 1 << 20;
    std::printf(
        "  %.2f M parameters: %.0f MiB with gradients and moments; activations and their "
        "gradients %.0f MiB",
        1e-6 * double(parameters_.count()), double(state_bytes()) / mib,
        double(tape_.arena().capacity()) / mib);
    if (const size_t used = device_memory_in_use(device_)) {
      std::printf("; the GPU has %.0f MiB in use", double(used) / mib);
    }
    std::printf("\n");
  }
  // What a large product reaches, for model-FLOP use.
  void measure_product() {
    QueueTimer timer(device_);
    product_ = product_flops_per_second(timer, tape_.dtype(), 0.2);
  }

 private:
  ModelSpec spec_of(const BenchOptions& options) {
    ModelSpec spec{.preset = options.model};
    batch_ = options.batch;
    for (const Compared& c : compared) {
      if (options.model != c.name) continue;
      spec.preset = c.preset;
      if (!batch_) batch_ = c.batch;
    }
    if (!options.norm.empty()) spec.norm = parse_norm(options.norm);
    return spec;
  }
  void step() {
    optimizer_->prepare(1e-4f);
    step_.run(steps_++, work_, [this] { optimizer_->update(); });
  }
  const char* item() const { return model_.language() ? "tokens" : "images"; }
  int64_t items() const {
    return model_.language() ? batch_ * model_.language()->config().context : batch_;
  }
  // Master, gradient, two moments; and copies in the number type of the computation.
  size_t state_bytes() const {
    const size_t number = size_of(accumulator_of(tape_.dtype()));
    return size_t(parameters_.flat_size()) *
           (4 * number + (parameters_.copies() ? size_of(tape_.dtype()) : 0));
  }
  size_t peak_memory() const { return state_bytes() + tape_.arena().capacity(); }

  const BenchOptions& options_;
  Device device_;
  Precision precision_;
  int64_t batch_ = 0, steps_ = 0;
  ModelSpec spec_;
  Parameters parameters_;
  Model model_;
  Tape tape_;
  TrainingStep step_;
  StepWork work_;
  Stopwatch watch_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<Batch> data_;
  double product_ = 0;
};

}  // namespace

void bench_train_step(const BenchOptions& options) {
  TrainBench bench(options);
  if (!options.by_turns) bench.measure_product();
  if (options.json) std::cout << bench.description().dump() << std::endl;
  std::string line;
  while (!options.by_turns || std::getline(std::cin, line)) {
    const std::vector<double> seconds = bench.turn();
    if (options.json) {
      std::cout << bench.summary(seconds).dump() << std::endl;
    } else {
      bench.print(seconds);
    }
    if (!options.by_turns) break;
  }
}

}  // namespace dyt
