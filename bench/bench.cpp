#include "bench/bench.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include "core/clock.h"
#include "core/philox.h"
#include "models/model.h"
#include "training/adamw.h"

namespace dyt {
namespace {

// What bench/compare.py measures, under the names it has there.
struct Compared {
  const char *name, *preset;
  int batch;
};
constexpr Compared compared[] = {{"vit_ti4", "vit_ti4", 64},
                                 {"convnext_atto", "convnext_atto_cifar", 64},
                                 {"gpt_6x192", "gpt_char", 32},
                                 {"resnet20", "resnet20", 128}};

// A model with a batch of data for it.
struct Workload {
  std::function<Tensor(Tape& tape)> loss;
  int64_t batch;
  int64_t items;  // what a step's speed is counted in: images or tokens
  const char* item;
  AdamWOptions adamw;
};

std::vector<int32_t> random_indices(RandomSequence& random, int64_t n, int64_t below) {
  std::vector<int32_t> values(static_cast<size_t>(n));
  for (int32_t& v : values) v = int32_t(random.below(uint32_t(below)));
  return values;
}

Workload text_workload(const std::shared_ptr<const Model>& model, int64_t B) {
  const GPTConfig& config = model->language()->config();
  RandomSequence random(1, 1);
  const int64_t T = config.context;
  const auto tokens = random_indices(random, B * T, config.vocabulary);
  const auto labels = random_indices(random, B * T, config.vocabulary);
  return {.loss =
              [=](Tape& tape) {
                const Tensor x = tape.upload({B, T}, DType::i32, tokens.data());
                return model->loss(tape, x, tape.upload({B, T}, DType::i32, labels.data()));
              },
          .batch = B,
          .items = B * T,
          .item = "tokens",
          .adamw = {.beta2 = 0.95f, .weight_decay = 0.1f}};
}

Workload image_workload(const std::shared_ptr<const Model>& model, int64_t B) {
  RandomSequence random(1, 1);
  const int64_t S = model->image_size(), C = model->channels();
  std::vector<float> images(size_t(B * S * S * C));
  for (float& v : images) v = random.uniform(-1, 1);
  const auto labels = random_indices(random, B, model->classes());
  return {.loss =
              [=](Tape& tape) {
                const Tensor x = tape.upload({B, S, S, C}, DType::f32, images.data());
                return model->loss(tape, x, tape.upload({B}, DType::i32, labels.data()));
              },
          .batch = B,
          .items = B,
          .item = "images",
          .adamw = {}};
}

Workload workload_of(const BenchOptions& options, Parameters& parameters) {
  ModelSpec spec{.preset = options.model};
  int batch = options.batch;
  for (const Compared& c : compared) {
    if (options.model != c.name) continue;
    spec.preset = c.preset;
    if (!batch) batch = c.batch;
  }
  if (!options.norm.empty()) spec.norm = parse_norm(options.norm);
  const auto model = std::make_shared<const Model>(spec, parameters);
  if (model->language()) return text_workload(model, batch ? batch : 32);
  return image_workload(model, batch ? batch : 64);
}

void print_json(const BenchOptions& options, const Workload& work, const Parameters& parameters,
                const Tape& tape, const std::vector<double>& seconds) {
  std::printf(
      "{\"model\": \"%s\", \"device\": \"%s\", \"dtype\": \"%s\", \"batch\": %lld, "
      "\"parameters\": %lld, \"%s_per_step\": %lld, \"arena_bytes\": %zu, \"step_seconds\": [",
      options.model.c_str(), name_of(tape.device()), name_of(tape.dtype()),
      static_cast<long long>(work.batch), static_cast<long long>(parameters.count()), work.item,
      static_cast<long long>(work.items), tape.arena().capacity());
  for (size_t i = 0; i < seconds.size(); ++i) std::printf("%s%.6f", i ? ", " : "", seconds[i]);
  std::printf("]}\n");
}

}  // namespace

void bench_train_step(const BenchOptions& options) {
  const Device device = parse_device(options.device);
  const DType dtype = default_dtype(device);
  Parameters parameters;
  const Workload work = workload_of(options, parameters);
  parameters.allocate(device, dtype, 1);
  AdamW optimizer(parameters, work.adamw);
  Tape tape(device, dtype);

  std::vector<double> seconds;
  constexpr int warm_up = 3;
  for (int step = 0; step < warm_up + options.steps; ++step) {
    const double begin = seconds_now();
    tape.begin(uint64_t(step));
    parameters.zero_gradients();
    tape.backward(work.loss(tape));
    optimizer.step(1e-3f);
    synchronize(device);
    if (step >= warm_up) seconds.push_back(seconds_now() - begin);
  }
  if (options.json) return print_json(options, work, parameters, tape, seconds);
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  std::printf(
      "%s, batch %lld, %s %s: median %.1f ms a step (%.1f to %.1f), %.0f %s/s; "
      "%.2f M parameters, %.0f MiB of activations and gradients\n",
      options.model.c_str(), static_cast<long long>(work.batch), name_of(device), name_of(dtype),
      1e3 * median, 1e3 * seconds.front(), 1e3 * seconds.back(), double(work.items) / median,
      work.item, 1e-6 * double(parameters.count()),
      double(tape.arena().capacity()) / double(1 << 20));
}

}  // namespace dyt
