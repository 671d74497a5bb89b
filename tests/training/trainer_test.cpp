#include <gtest/gtest.h>

#include <cmath>

#include "layers/layers.h"
#include "models/vit.h"
#include "tests/op_check.h"
#include "tests/thread_order.h"
#include "training/classifier.h"

namespace dyt::test {
namespace {

// Three classes of 8 x 8 images that a small model can tell apart: which third is bright.
ImageSplits stripes(size_t train, size_t test) {
  const auto make = [](size_t n, uint64_t seed) {
    ImageDataset d;
    d.name = "stripes";
    d.height = d.width = 8;
    d.channels = 3;
    d.class_names = {"top", "middle", "bottom"};
    RandomSequence random(seed, 9);
    for (size_t i = 0; i < n; ++i) {
      const int label = int(i % 3);
      d.labels.push_back(label);
      for (int y = 0; y < 8; ++y)
        for (int k = 0; k < 8 * 3; ++k)
          d.images.push_back(uint8_t((y * 3 / 8 == label ? 120 : 60) + random.below(80)));
    }
    return d;
  };
  ImageSplits splits{make(train, 1), make(test, 2)};
  set_mean_and_std(splits);
  return splits;
}

struct Model {
  Parameters parameters;
  ViT vit;
  Model(NormKind norm, Device device, DType dtype, int depth = 2)
      : vit({.image_size = 8,
             .patch_size = 4,
             .classes = 3,
             .width = 32,
             .depth = depth,
             .heads = 2,
             .drop_path = 0.2f,
             .norm = {.kind = norm}},
            parameters) {
    parameters.allocate(device, dtype, 7);
  }
  Forward forward() {
    return [this](Tape& tape, const Tensor& images) { return vit.forward(tape, images); };
  }
};

TrainOptions twenty_steps() {
  TrainOptions options{.steps = 20,
                       .batch = 12,
                       .lr = 2e-3,
                       .warmup = 4,
                       .label_smoothing = 0.1f,
                       .augment = {},
                       .seed = 3,
                       .evaluate_every = 5};
  options.adamw.max_norm = 1;
  return options;
}

TEST(Trainer, LearnsAndItsArenaDoesNotGrow) {
  const ImageSplits data = stripes(96, 48);
  for (NormKind norm : {NormKind::layernorm, NormKind::dyt}) {
    Model model(norm, Device::cpu, DType::f32);
    TrainOptions options = twenty_steps();
    const TrainResult few = train_classifier(model.forward(), model.parameters, data, options);
    options.steps = 60;
    Model again(norm, Device::cpu, DType::f32);
    const TrainResult many = train_classifier(again.forward(), again.parameters, data, options);
    EXPECT_GT(many.last().test_accuracy, 0.9) << name_of(norm);
    EXPECT_LT(many.last().test_loss, few.curve.front().test_loss);
    EXPECT_EQ(few.curve.size(), 4u);
    EXPECT_EQ(few.arena_bytes, many.arena_bytes);
  }
}

// Forward, backward and update together: the kernels take the CPU's course.
TEST(TrainerKernels, TwentyStepsMatchTheCpu) {
  SKIP_WITHOUT_KERNELS();
  const ImageSplits data = stripes(48, 4);
  for (NormKind norm : {NormKind::layernorm, NormKind::dyt}) {
    Model cpu(norm, Device::cpu, DType::f32, 1), gpu(norm, kernel_device, DType::f32, 1);
    TrainOptions options = twenty_steps();
    options.batch = 4;
    options.evaluate_every = 10;
    options.graphs = Graphs::on;
    const TrainResult a = train_classifier(cpu.forward(), cpu.parameters, data, options);
    const TrainResult b = train_classifier(gpu.forward(), gpu.parameters, data, options);
    EXPECT_GT(b.steps_repeated, 10);
    ASSERT_EQ(a.curve.size(), b.curve.size());
    for (size_t i = 0; i < a.curve.size(); ++i) {
      EXPECT_NEAR(a.curve[i].test_loss, b.curve[i].test_loss, 1e-4 * a.curve[i].test_loss)
          << name_of(norm);
    }
    for (const Parameter& p : cpu.parameters.all()) {
      expect_close(gpu.parameters.values(gpu.parameters.find(p.name)), cpu.parameters.values(p),
                   2e-3, std::string(name_of(norm)) + " " + p.name);
    }
  }
}

// Same seed, same bits; another seed, another run.
TEST(Trainer, IsRepeatable) {
  const ImageSplits data = stripes(48, 12);
  const auto losses = [&](uint64_t seed) {
    Model model(NormKind::dyt, Device::cpu, DType::f32);
    TrainOptions options = twenty_steps();
    options.seed = seed;
    options.augment = Augment{};
    std::vector<double> v;
    for (const Evaluation& e :
         train_classifier(model.forward(), model.parameters, data, options).curve) {
      v.push_back(e.train_loss);
    }
    return v;
  };
  EXPECT_EQ(losses(1), losses(1));
  EXPECT_NE(losses(1), losses(2));
}

TEST(Trainer, ReportsDivergenceInsteadOfGoingOn) {
  const ImageSplits data = stripes(48, 12);
  Model model(NormKind::layernorm, Device::cpu, DType::f32);
  const std::vector<double> nan(3, std::nan(""));
  model.parameters.set_values(model.parameters.find("head.bias"), nan);
  const TrainResult result =
      train_classifier(model.forward(), model.parameters, data, twenty_steps());
  EXPECT_TRUE(result.diverged());
  EXPECT_EQ(result.diverged_at, 0);
  EXPECT_TRUE(result.curve.empty());
}

TEST(Trainer, RefusesImpossibleOptions) {
  const ImageSplits data = stripes(12, 12);
  Model model(NormKind::layernorm, Device::cpu, DType::f32);
  for (auto change :
       {+[](TrainOptions& o) { o.steps = 0; }, +[](TrainOptions& o) { o.batch = 13; },
        +[](TrainOptions& o) { o.batch = -1; }, +[](TrainOptions& o) { o.warmup = 20; }}) {
    TrainOptions options = twenty_steps();
    change(options);
    EXPECT_THROW(train_classifier(model.forward(), model.parameters, data, options), Error);
  }
}

// The loss and accuracy of evaluate_classifier, by hand.
TEST(Trainer, EvaluatesWithTheDefinitions) {
  ImageSplits data = stripes(6, 6);
  const Forward constant = [](Tape& tape, const Tensor& images) {
    std::vector<float> logits;
    for (int64_t b = 0; b < images.shape[0]; ++b) logits.insert(logits.end(), {2.0f, 1.0f, 0.0f});
    return tape.upload({images.shape[0], 3}, DType::f32, logits.data());
  };
  Tape tape(Device::cpu, DType::f32);
  const Evaluation e = evaluate_classifier(constant, tape, data.test, 4);  // batches of 4 and 2
  const double lse = std::log(std::exp(2) + std::exp(1) + 1);
  EXPECT_NEAR(e.test_loss, lse - 1.0, 1e-6);  // the labels' logits are 2, 1, 0 equally often
  EXPECT_NEAR(e.test_accuracy, 1.0 / 3, 1e-12);
  EXPECT_TRUE(tape.training);
}

}  // namespace
}  // namespace dyt::test
