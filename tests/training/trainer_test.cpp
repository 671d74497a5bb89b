#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "layers/norm_free.h"
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
    const bool in_parts = norm == NormKind::dyt;  // whose second block drops other samples
    const int depth = in_parts ? 2 : 1;
    Model cpu(norm, Device::cpu, DType::f32, depth), gpu(norm, kernel_device, DType::f32, depth);
    TrainOptions options = twenty_steps();
    options.batch = 4;
    options.accumulate = in_parts ? 2 : 1;
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

// A run of which every number can be had by hand: one weight w and a loss of w x, with x = 1, 2, 3
// ... part after part, so that the gradient of a part is its x. When it looks, it is told w and -w.
struct ByHand {
  Parameters parameters;
  const Parameter& w = parameters.add("w", {1}, Init::fill(2), false);
  double x = 0;
  TrainTask task{.samples_per_step = 8};
  ByHand() {
    parameters.allocate(Device::cpu, DType::f64, 1);
    task.work.batch = [this](int64_t part) -> HostBatch {
      x = double(part + 1);
      return {{{1}, DType::f64, &x}};
    };
    task.work.loss = [this](Tape& tape, const DeviceBatch& batch) {
      return scalar_affine(tape, batch[0], &w, nullptr);
    };
    task.evaluate = [this](Tape&, bool) {
      return Evaluation{.test_loss = value(), .test_accuracy = -value()};
    };
  }
  double value() const { return parameters.values(w)[0]; }
};

TrainOptions by_hand() {
  TrainOptions options{.steps = 6, .batch = 8, .accumulate = 2, .lr = 0.02, .lr_floor = 0.01};
  options.warmup = 2;
  options.sgd = SgdOptions{.momentum = 0.5f};
  options.ema_decay = 0.75;
  options.evaluate_every = 3;
  return options;
}

TEST(Trainer, AgreesWithALoopByHand) {
  ByHand run;
  const TrainResult result = Trainer(run.parameters, by_hand()).run(run.task);
  ASSERT_EQ(result.curve.size(), 2u);
  double w = 2, velocity = 0, average = 2, losses = 0;
  for (int step = 0; step < 6; ++step) {
    const double x = 2 * step + 1.5;  // of two parts
    losses += w * x;
    const double lr = step == 0   ? 0.01
                      : step == 1 ? 0.02
                                  : 0.015 + 0.005 * std::cos(std::acos(-1) * (step - 2) / 4);
    velocity = 0.5 * velocity + x;
    w -= lr * velocity;
    average = 0.75 * average + 0.25 * w;
    if (step % 3 != 2) continue;
    const Evaluation& e = result.curve[size_t(step / 3)];
    EXPECT_EQ(e.step, step + 1);
    EXPECT_NEAR(e.train_loss, losses / 3, 1e-6);
    EXPECT_NEAR(e.test_loss, w, 1e-7);
    EXPECT_NEAR(e.test_accuracy, -w, 1e-7);
    EXPECT_NEAR(e.average_loss, average, 1e-7);
    EXPECT_NEAR(e.average_accuracy, -average, 1e-7);
    losses = 0;
  }
  EXPECT_NEAR(run.value(), w, 1e-7);  // and not the average
  EXPECT_EQ(result.samples, 6 * 8);
}

// Beside the cosine, the inverse square root: of warm-up, too.
TEST(Trainer, TakesTheInverseSquareRootIfAsked) {
  ByHand run;
  TrainOptions options = by_hand();
  options.inverse_sqrt_from = 3;
  options.sgd->momentum = 0;
  Trainer(run.parameters, options).run(run.task);
  double w = 2;
  for (int n = 1; n <= 6; ++n) {
    w -= 0.02 * std::min(1.0, n / 2.0) * std::min(1.0, std::sqrt(3.0 / n)) * (2 * n - 0.5);
  }
  EXPECT_NEAR(run.value(), w, 1e-7);
}

TEST(Trainer, CountsWhatADivergedRunHasSeen) {
  ByHand run;
  TrainOptions options = by_hand();
  options.diverged_above = 8;  // the losses are 3, 7, 10
  const TrainResult result = Trainer(run.parameters, options).run(run.task);
  EXPECT_EQ(result.diverged_at, 2);
  EXPECT_EQ(result.samples, 2 * 8);
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

// Every part of every batch has random numbers of its own; alpha is measured in the first alone.
TEST(Trainer, EveryPartDrawsItsOwnRandomNumbers) {
  ByHand run;
  std::set<float> drawn;
  int calibrating = 0;
  const auto loss = run.task.work.loss;
  run.task.work.loss = [&](Tape& tape, const DeviceBatch& batch) {
    drawn.insert(tape.random().uniform(0));
    calibrating += tape.calibrating;
    return loss(tape, batch);
  };
  Trainer(run.parameters, by_hand()).run(run.task);
  EXPECT_EQ(drawn.size(), 12u);
  EXPECT_EQ(calibrating, 1);
}

// Labels are smoothed in training and not in evaluation, those that are mixed, too.
TEST(Trainer, SmoothsTheLabelsOfTraining) {
  ImageSplits data = stripes(6, 6);
  data.train.labels = data.test.labels = std::vector<int32_t>(6, 0);
  const double lse = std::log(std::exp(2) + std::exp(1) + 1);
  for (const Mix& mix : {Mix{}, Mix{.mixup = 1}}) {
    ByHand any;  // there must be something to train
    const Forward constant = [](Tape& tape, const Tensor& images) {
      std::vector<double> logits;
      for (int64_t b = 0; b < images.shape[0]; ++b) logits.insert(logits.end(), {2.0, 1.0, 0.0});
      return tape.upload({images.shape[0], 3}, DType::f64, logits.data());
    };
    TrainOptions options{.steps = 1, .batch = 6, .label_smoothing = 0.3f, .mix = mix};
    const TrainResult result = train_classifier(constant, any.parameters, data, options);
    EXPECT_NEAR(result.last().train_loss, lse - (0.7 * 2 + 0.3 * 1), 1e-6);
    EXPECT_NEAR(result.last().test_loss, lse - 2, 1e-6);
  }
}

// Black and white images: what is neither has been mixed.
TEST(Trainer, MixesImagesIfAsked) {
  ImageSplits data = stripes(2, 2);
  for (size_t i = 0; i < data.train.images.size(); ++i) {
    data.train.images[i] = i < data.train.images.size() / 2 ? 0 : 255;
  }
  set_mean_and_std(data);
  for (const bool mixes : {false, true}) {
    Model model(NormKind::layernorm, Device::cpu, DType::f32);
    std::set<float> seen;
    const Forward forward = [&](Tape& tape, const Tensor& images) {
      if (tape.training) {
        for (const float v : host_floats(tape, images)) seen.insert(v);
      }
      return model.vit.forward(tape, images);
    };
    TrainOptions options{.steps = 1, .batch = 2, .augment = {}};
    if (mixes) options.mix.mixup = 1;
    train_classifier(forward, model.parameters, data, options);
    EXPECT_EQ(seen.size(), 2u);
    EXPECT_EQ(*seen.begin() > -0.999f && *seen.rbegin() < 0.999f, mixes);
  }
}

// The loss and accuracy of evaluate_classifier, by hand.
TEST(Trainer, EvaluatesWithTheDefinitions) {
  ImageSplits data = stripes(6, 6);
  const Forward constant = [](Tape& tape, const Tensor& images) {
    EXPECT_FALSE(tape.training);
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
