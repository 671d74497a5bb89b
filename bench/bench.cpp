#include "bench/bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "core/philox.h"
#include "models/vit.h"
#include "training/adamw.h"

namespace dyt {

void bench_train_step(const BenchOptions& options) {
  const Device device = parse_device(options.device);
  const DType dtype = device == Device::cuda ? DType::bf16 : DType::f32;
  ViTConfig config = vit_preset(options.model);
  config.norm.kind = parse_norm(options.norm);
  Parameters parameters;
  const ViT model(config, parameters);
  parameters.allocate(device, dtype, 1);
  AdamW optimizer(parameters, {});
  Tape tape(device, dtype);

  const int64_t B = options.batch, S = config.image_size;
  RandomSequence random(1, 1);
  std::vector<float> images(size_t(B * S * S * 3));
  for (float& v : images) v = random.uniform(-1, 1);
  std::vector<int32_t> labels(static_cast<size_t>(B));
  for (int32_t& label : labels) label = int32_t(random.below(uint32_t(config.classes)));

  std::vector<double> seconds;
  constexpr int warm_up = 3;
  for (int step = 0; step < warm_up + options.steps; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    tape.begin(uint64_t(step));
    parameters.zero_gradients();
    const Tensor x = tape.upload({B, S, S, 3}, DType::f32, images.data());
    const Tensor logits = model.forward(tape, x);
    const Tensor loss = cross_entropy(tape, logits, tape.upload({B}, DType::i32, labels.data()));
    tape.backward(loss);
    optimizer.step(1e-3f);
    synchronize(device);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    if (step >= warm_up) seconds.push_back(taken.count());
  }
  if (options.json) {
    std::printf("{\"model\": \"%s\", \"device\": \"%s\", \"batch\": %lld, \"step_seconds\": [",
                options.model.c_str(), name_of(device), static_cast<long long>(B));
    for (size_t i = 0; i < seconds.size(); ++i) std::printf("%s%.6f", i ? ", " : "", seconds[i]);
    std::printf("]}\n");
    return;
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  std::printf("%s, batch %lld, %s %s, %s: median %.1f ms a step (%.1f to %.1f), %.0f images/s\n",
              options.model.c_str(), static_cast<long long>(B), name_of(device), name_of(dtype),
              options.norm.c_str(), 1e3 * median, 1e3 * seconds.front(), 1e3 * seconds.back(),
              double(B) / median);
}

}  // namespace dyt
