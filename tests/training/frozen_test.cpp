// Training a part of the parameters.
#include "core/frozen.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "models/resnet.h"
#include "models/vit.h"
#include "tests/op_check.h"
#include "training/classifier.h"
#include "training/sgd.h"

namespace dyt::test {
namespace {

std::vector<Device> devices() {
  std::vector<Device> all = {Device::cpu};
  if (is_available(kernel_device)) all.push_back(kernel_device);
  return all;
}

bool is_trained(const Parameter& p) { return p.name.rfind("frozen", 0) != 0; }

// Two layers, the second frozen, trained for some steps; the parameters afterwards.
std::map<std::string, std::vector<double>> train_layers(Device device, bool sgd, int steps,
                                                        double& norm) {
  Parameters p;
  const Parameter& weight = p.add("weight", {6, 5}, Init::gaussian(1));
  const Parameter& frozen_weight = p.add("frozen weight", {3, 6}, Init::gaussian(1));
  const Parameter& bias = p.add("bias", {6}, Init::gaussian(1));
  const Parameter& frozen_bias = p.add("frozen bias", {3}, Init::gaussian(1));
  const Frozen frozen(p, is_trained);
  EXPECT_EQ(frozen.trained_count(), 6 * 5 + 6);
  p.allocate(device, DType::f32, 3);
  AdamW adamw(p, {.weight_decay = 0.1f, .max_norm = 0.5f});
  Sgd momentum(p, {.weight_decay = 0.1f});
  std::vector<float> numbers(20);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = std::sin(float(i));
  Tape tape(device, DType::f32);
  for (int step = 0; step < steps; ++step) {
    p.zero_gradients();
    tape.begin(uint64_t(step));
    frozen.begin(tape);
    const Tensor x = tape.upload({4, 5}, DType::f32, numbers.data());
    const Tensor hidden = linear_gelu(tape, x, weight, bias);
    const Tensor y = linear(tape, hidden, frozen_weight, &frozen_bias);
    const std::vector<int32_t> labels = {0, 1, 2, 0};
    tape.backward(cross_entropy(tape, y, tape.upload({4}, DType::i32, labels.data())));
    if (sgd) {
      momentum.step(0.1f);
    } else {
      adamw.step(0.1f);
    }
    norm = 0;
    for (const Parameter& q : p.all()) {
      for (double g : p.gradient(q)) norm += is_trained(q) ? g * g : 0;
    }
    if (!sgd) {
      EXPECT_NEAR(adamw.gradient_norm(), std::sqrt(norm), 1e-5);
    }
  }
  std::map<std::string, std::vector<double>> values;
  for (const Parameter& q : p.all()) values[q.name] = p.values(q);
  return values;
}

// Weight decay, momentum and clipping leave them alone, too, and all others move.
TEST(Frozen, NoOptimizerTouchesThem) {
  for (Device device : devices()) {
    for (bool sgd : {false, true}) {
      double norm = 0;
      const auto before = train_layers(device, sgd, 0, norm);
      const auto after = train_layers(device, sgd, 4, norm);
      EXPECT_GT(norm, 0);
      for (const auto& [name, values] : after) {
        EXPECT_EQ(values == before.at(name), name.rfind("frozen", 0) == 0) << name;
      }
    }
  }
}

// A model of which only the norms are trained: every other bit stays, every norm moves.
template <class Model, class Config>
void check_only_norms(const Config& config, int64_t norm_numbers, int parts) {
  Config without = config;
  without.norm.kind = NormKind::none;
  Parameters others;
  const Model plain(without, others);
  std::set<std::string> not_norms;
  for (const Parameter& q : others.all()) not_norms.insert(q.name);

  const ImageSplits data = load_images("synthetic", 60, 20);
  Parameters p;
  const Model model(config, p);
  const Frozen frozen(p, [&](const Parameter& q) { return !not_norms.count(q.name); });
  p.allocate(Device::cpu, DType::f32, 2);
  EXPECT_EQ(frozen.trained_count(), norm_numbers);
  std::map<std::string, std::vector<double>> before;
  for (const Parameter& q : p.all()) before[q.name] = p.values(q);
  TrainOptions options{.steps = 6, .batch = 20, .accumulate = parts, .lr = 1e-2};
  options.adamw = {.weight_decay = 0.1f, .max_norm = 1};
  options.ema_decay = 0.5;
  train_classifier(
      [&](Tape& tape, const Tensor& images) {
        frozen.begin(tape);
        return model.forward(tape, images);
      },
      p, data, options);
  for (const Parameter& q : p.all()) {
    EXPECT_EQ(p.values(q) == before[q.name], not_norms.count(q.name) > 0) << q.name;
  }
}

TEST(Frozen, OnlyNormsAreTrained) {
  ViTConfig vit{.patch_size = 8, .width = 32, .depth = 2, .heads = 1};
  check_only_norms<ViT>(vit, 5 * 2 * 32, 2);
  vit.norm = {.kind = NormKind::dyt};
  check_only_norms<ViT>(vit, 5 * (2 * 32 + 1), 2);
  check_only_norms<ResNet>(
      ResNetConfig{.large_stem = false, .stem_width = 16, .depths = {1, 1}, .widths = {16, 32}},
      2 * (16 + 2 * 16 + 3 * 32), 1);  // the stem's, two blocks of two, and one beside the second
}

TEST(Frozen, RefusesToFreezeEverything) {
  Parameters p;
  p.add("weight", {4, 7}, Init::ones());
  EXPECT_THROW(Frozen(p, [](const Parameter&) { return false; }), Error);
  p.allocate(Device::cpu, DType::f32, 0);
  EXPECT_THROW(Frozen(p, [](const Parameter&) { return true; }), Error);
}

}  // namespace
}  // namespace dyt::test
