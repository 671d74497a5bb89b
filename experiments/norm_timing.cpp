#include "experiments/norm_timing.h"

#include <algorithm>
#include <functional>
#include <memory>

#include "core/clock.h"
#include "core/error.h"
#include "core/philox.h"
#include "layers/unfused.h"

namespace dyt {
namespace {

// Seconds that `body` takes on the device, all of it.
double time_of(Device device, const std::function<void()>& body) {
  synchronize(device);
  const double begin = seconds_now();
  body();
  synchronize(device);
  return seconds_now() - begin;
}

// --- What is timed -------------------------------------------------------------------------------

// One norm on (rows, channels) numbers, N(0, 1).
class LayerBench {
 public:
  LayerBench(const NormTiming& setting, const NormSpec& norm, Device device, const Buffer& x,
             const Buffer& dy)
      : rows_(setting.rows),
        channels_(setting.channels),
        norm_(parameters_, "norm", channels_, norm),
        tape_(device, default_dtype(device)),
        x_(x),
        dy_(dy) {
    parameters_.allocate(device, default_dtype(device), 1);
  }
  double inference() {
    return timed(false, [&](const Tensor& x) { norm_(tape_, x); });
  }
  double training() {
    return timed(true, [&](const Tensor& x) {
      const Tensor y = norm_(tape_, x);
      // dy is there already, as it would be in a model; backward() begins at an op without inputs.
      *y.grad = {dy_.data(), true};
      const float nothing = 0;
      tape_.backward(tape_.upload({1}, DType::f32, &nothing, true));
    });
  }

 private:
  double timed(bool training, const std::function<void(const Tensor&)>& body) {
    tape_.training = training;
    tape_.begin(0);
    Tensor x = tape_.empty({1, channels_});
    x.shape[0] = rows_;
    x.data = x_.data();
    return time_of(tape_.device(), [&] { body(x); });
  }

  int64_t rows_, channels_;
  Parameters parameters_;
  Norm norm_;
  Tape tape_;
  const Buffer &x_, &dy_;
};

// A LLaMA-style model on random tokens.
class ModelBench {
 public:
  ModelBench(const NormTiming& setting, const NormSpec& norm, Device device)
      : batch_(setting.batch),
        model_(config_of(setting, norm), parameters_),
        tape_(device, default_dtype(device)) {
    parameters_.allocate(device, default_dtype(device), 1);
    RandomSequence random(1, 1);
    const GPTConfig& c = model_.config();
    tokens_.resize(size_t(batch_ * c.context));
    for (int32_t& t : tokens_) t = int32_t(random.below(uint32_t(c.vocabulary)));
  }
  double inference() {
    return timed(false, [&](const Tensor& loss) { (void)loss; });
  }
  double training() {
    return timed(true, [&](const Tensor& loss) { tape_.backward(loss); });
  }
  const GPTConfig& config() const { return model_.config(); }

 private:
  static GPTConfig config_of(const NormTiming& setting, const NormSpec& norm) {
    GPTConfig config = setting.model;
    config.norm = norm;
    config.alpha0_attention = 0;
    config.embedding_scale = false;  // so that the norm is all that differs
    return config;
  }
  double timed(bool training, const std::function<void(const Tensor&)>& body) {
    tape_.training = training;
    tape_.begin(0);
    const Shape shape = {batch_, model_.config().context};
    const Tensor tokens = tape_.upload(shape, DType::i32, tokens_.data());
    return time_of(tape_.device(), [&] { body(model_.loss(tape_, tokens, tokens)); });
  }

  int64_t batch_;
  Parameters parameters_;
  GPT model_;
  Tape tape_;
  std::vector<int32_t> tokens_;
};

// --- Measurements --------------------------------------------------------------------------------

// The best of a few attempts makes a repetition: whatever else the machine does only adds time.
constexpr int attempts = 3;

void lower(std::map<std::pair<std::string, std::string>, double>& best,
           const std::pair<std::string, std::string>& key, double seconds) {
  const auto [at, is_new] = best.emplace(key, seconds);
  if (!is_new) at->second = std::min(at->second, seconds);
}

void append(Times& times, const std::map<std::pair<std::string, std::string>, double>& best) {
  for (const auto& [key, seconds] : best) times[key].push_back(seconds);
}

}  // namespace

NormTiming norm_timing(Size size) {
  GPTConfig model = gpt_preset("llama_char");
  switch (size) {
    case Size::smoke:
      model.width = 32, model.depth = 1, model.heads = 2, model.hidden = 96, model.context = 32;
      return {256, 64, model, 2, 3};
    case Size::small:
      model.width = 256, model.depth = 4, model.heads = 8, model.hidden = 704, model.context = 256;
      return {32768, 1024, model, 4, 12};
    case Size::full:
      model.width = 2048, model.depth = 2, model.heads = 16, model.hidden = 5504;
      model.context = 2048;
      return {32768, 4096, model, 4, 30};
  }
  fail("unknown size");
}

std::vector<TimedNorm> timed_norms() {
  const auto norm = [](NormKind kind, bool unfused) {
    return NormSpec{.kind = kind, .bias = kind == NormKind::layernorm, .unfused = unfused};
  };
  return {{"RMSNorm, unfused", norm(NormKind::rmsnorm, true)},
          {"LayerNorm, unfused", norm(NormKind::layernorm, true)},
          {"DyT, unfused", norm(NormKind::dyt, true)},
          {"RMSNorm, fused", norm(NormKind::rmsnorm, false)},
          {"LayerNorm, fused", norm(NormKind::layernorm, false)},
          {"DyT, fused", norm(NormKind::dyt, false)},
          {"identity, fused", norm(NormKind::identity, false)}};
}

void measure_layers(const NormTiming& setting, Device device, Times& times, StatusLine& line) {
  const DType dtype = default_dtype(device);
  const size_t bytes = size_t(setting.rows * setting.channels) * size_of(dtype);
  const Buffer x(device, bytes), dy(device, bytes);
  {
    Tape tape(device, dtype);
    RandomSequence random(1, 2);
    std::vector<float> values(size_t(setting.rows * setting.channels));
    for (float& v : values) v = random.uniform(-2, 2);
    for (const Buffer* to : {&x, &dy}) {
      if (dtype == DType::f32) {
        copy_to_device(device, to->data(), values.data(), bytes);
      } else {
        const std::vector<bf16> rounded(values.begin(), values.end());
        copy_to_device(device, to->data(), rounded.data(), bytes);
      }
    }
  }
  std::vector<std::pair<std::string, std::unique_ptr<LayerBench>>> layers;
  for (const TimedNorm& arm : timed_norms()) {
    layers.emplace_back(arm.name, std::make_unique<LayerBench>(setting, arm.norm, device, x, dy));
  }
  const Buffer copy(device, bytes);
  for (int r = -1; r < setting.repetitions; ++r) {  // the first one warms up
    line.show(double(r + 1) / double(setting.repetitions + 1) / 2, [&] {
      return "06 layers: repetition " + std::to_string(r + 1) + "/" +
             std::to_string(setting.repetitions);
    });
    std::map<std::pair<std::string, std::string>, double> best;
    for (int attempt = 0; attempt < attempts; ++attempt) {
      lower(best, {"copy", tasks[0]},
            time_of(device, [&] { copy_on_device(device, copy.data(), x.data(), bytes); }));
      for (auto& [name, layer] : layers) {
        lower(best, {name, tasks[0]}, layer->inference());
        lower(best, {name, tasks[1]}, layer->training());
      }
    }
    if (r >= 0) append(times, best);
  }
}

void measure_models(const NormTiming& setting, Device device, Times& times, StatusLine& line) {
  std::vector<TimedNorm> arms = timed_norms();
  arms.push_back({"no norm", {.kind = NormKind::none}});
  std::vector<std::pair<std::string, std::unique_ptr<ModelBench>>> models;
  for (const TimedNorm& arm : arms) {
    models.emplace_back(arm.name, std::make_unique<ModelBench>(setting, arm.norm, device));
  }
  for (int r = -1; r < setting.repetitions; ++r) {
    line.show(0.5 + double(r + 1) / double(setting.repetitions + 1) / 2, [&] {
      return "06 models: repetition " + std::to_string(r + 1) + "/" +
             std::to_string(setting.repetitions);
    });
    std::map<std::pair<std::string, std::string>, double> best;
    for (int attempt = 0; attempt < attempts; ++attempt) {
      for (auto& [name, model] : models) {
        lower(best, {name, tasks[2]}, model->inference());
        lower(best, {name, tasks[3]}, model->training());
      }
    }
    if (r >= 0) append(times, best);
  }
}

double bytes_moved(const NormTiming& setting, const TimedNorm& arm, bool training, Device device) {
  const DType dtype = default_dtype(device);
  const double tensor = double(setting.rows * setting.channels) * double(size_of(dtype));
  if (!arm.norm.unfused) return (training ? 5 : 2) * tensor;
  // Every element costs the same: count on a few, on the cpu or where kernels run.
  constexpr int64_t rows = 4, channels = 8;
  double moved = 0;
  Parameters parameters;
  Parameter& gamma = parameters.add("gamma", {channels}, Init::ones());
  Parameter& beta = parameters.add("beta", {channels}, Init::zeros());
  Parameter& alpha = parameters.add("alpha", {1}, Init::ones());
  parameters.allocate(device, dtype, 1);
  Tape tape(device, dtype);
  const Tensor x = tape.empty({rows, channels});
  fill_zero(device, x.data, size_t(rows * channels) * size_of(dtype));
  const UnfusedParameters p{&gamma, arm.norm.bias ? &beta : nullptr, &alpha};
  const Tensor y = unfused_norm(tape, x, arm.norm.kind, p, 1e-6f, &moved);
  const std::vector<double> zeros(size_t(rows * channels), 0);  // zeros in any number type
  if (training) tape.backward(y, zeros.data());
  return moved / double(rows * channels) * double(setting.rows * setting.channels);
}

}  // namespace dyt
