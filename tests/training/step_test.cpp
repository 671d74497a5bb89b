// Recorded steps against computed ones: the same bits, whatever changes from step to step.
#include "training/step.h"

#include <gtest/gtest.h>

#include "layers/layers.h"
#include "models/gpt.h"
#include "models/resnet.h"
#include "models/vit.h"
#include "tests/datasets/expect_error.h"
#include "tests/datasets/temporary_folder.h"
#include "tests/op_check.h"
#include "training/classifier.h"
#include "training/language.h"

namespace dyt::test {
namespace {

// Noise of three classes, one brighter than the other.
ImageSplits noise(size_t train, size_t test) {
  const auto make = [](size_t n, uint64_t seed) {
    ImageDataset d;
    d.name = "noise";
    d.height = d.width = 8;
    d.channels = 3;
    d.class_names = {"dark", "grey", "bright"};
    RandomSequence random(seed, 9);
    for (size_t i = 0; i < n; ++i) {
      d.labels.push_back(int(i % 3));
      for (int k = 0; k < 8 * 8 * 3; ++k) {
        d.images.push_back(uint8_t(40 * (i % 3) + random.below(120)));
      }
    }
    return d;
  };
  ImageSplits splits{make(train, 1), make(test, 2)};
  set_mean_and_std(splits);
  return splits;
}

// What a run leaves: its result, and all numbers of the model.
struct Outcome {
  TrainResult result;
  std::vector<double> numbers;
};

Outcome outcome_of(TrainResult result, const Parameters& parameters) {
  Outcome o{std::move(result), {}};
  const auto add = [&](const std::vector<double>& v) {
    o.numbers.insert(o.numbers.end(), v.begin(), v.end());
  };
  for (const Parameter& p : parameters.all()) add(parameters.values(p));
  for (const ModelBuffer& b : parameters.buffers()) add(parameters.values(b));
  return o;
}

Outcome train_vit(const TrainOptions& options, DType dtype = DType::f32) {
  Parameters parameters;
  const ViT vit({.image_size = 8,
                 .patch_size = 4,
                 .classes = 3,
                 .width = 16,
                 .depth = 2,
                 .heads = 1,
                 .drop_path = 0.3f,
                 .norm = {.kind = NormKind::dyt}},
                parameters);
  parameters.allocate(kernel_device, dtype, 7);
  const ImageSplits data = noise(30, 9);
  TrainResult result =
      train_classifier([&](Tape& tape, const Tensor& images) { return vit.forward(tape, images); },
                       parameters, data, options);
  return outcome_of(std::move(result), parameters);
}

Outcome train_resnet(const TrainOptions& options, uint64_t seed = 7,
                     Device device = kernel_device) {
  Parameters parameters;
  const ResNet resnet({.image_size = 8,
                       .classes = 3,
                       .large_stem = false,
                       .stem_width = 4,
                       .depths = {1},
                       .widths = {4},
                       .drop_path = 0.2f},
                      parameters);
  parameters.allocate(device, DType::f32, seed);
  const ImageSplits data = noise(30, 9);
  TrainResult result = train_classifier(
      [&](Tape& tape, const Tensor& images) { return resnet.forward(tape, images); }, parameters,
      data, options);
  return outcome_of(std::move(result), parameters);
}

Outcome train_gpt(const TrainOptions& options, const NormSpec& norm = {},
                  Device device = kernel_device) {
  Parameters parameters;
  const GPT gpt({.vocabulary = 8,
                 .context = 8,
                 .width = 16,
                 .depth = 1,
                 .heads = 1,
                 .hidden = 32,
                 .dropout = 0.2f,
                 .norm = norm},
                parameters);
  parameters.allocate(device, DType::f32, 7);
  TextDataset text{.name = "counting", .vocabulary = 8};
  for (int i = 0; i < 400; ++i) text.train.push_back(uint16_t(i * i % 7));
  text.val.assign(text.train.begin(), text.train.begin() + 60);
  TrainResult result = train_language_model(gpt, parameters, text, options);
  return outcome_of(std::move(result), parameters);
}

TrainOptions tiny_options(int64_t steps) {
  return {.steps = steps,
          .batch = 4,
          .lr = 3e-3,
          .warmup = steps / 4,
          .adamw = {.max_norm = 0.5f},
          .augment = {},
          .seed = 3,
          .evaluate_every = steps / 4,
          .evaluate_windows = 3};
}

// With graphs and without; all but the first few steps must have been repeated.
void expect_same(const std::function<Outcome(const TrainOptions&)>& train, TrainOptions options,
                 int64_t computed_at_most = 6) {
  options.graphs = Graphs::off;
  const Outcome plain = train(options);
  options.graphs = Graphs::on;
  const Outcome graph = train(options);
  EXPECT_EQ(plain.result.steps_repeated, 0);
  EXPECT_EQ(graph.result.graph_problem, "");
  EXPECT_GE(graph.result.steps_repeated, options.steps - computed_at_most);
  EXPECT_EQ(graph.numbers, plain.numbers);
  ASSERT_EQ(graph.result.curve.size(), plain.result.curve.size());
  for (size_t i = 0; i < plain.result.curve.size(); ++i) {
    const Evaluation &a = graph.result.curve[i], &b = plain.result.curve[i];
    EXPECT_EQ(a.train_loss, b.train_loss) << i;
    EXPECT_EQ(a.test_loss, b.test_loss) << i;
    EXPECT_EQ(a.test_accuracy, b.test_accuracy) << i;
    if (options.ema_decay > 0) {
      EXPECT_EQ(a.average_loss, b.average_loss) << i;
    }
    if (i > 0) {  // a run that stands still shows nothing
      EXPECT_NE(b.train_loss, plain.result.curve[i - 1].train_loss);
    }
  }
}

TEST(StepKernels, GraphsOfAGptWithDropoutAgreeOverTwoHundredSteps) {
  SKIP_WITHOUT_KERNELS();
  expect_same([](const TrainOptions& o) { return train_gpt(o); }, tiny_options(200));
}

// --- Fused and apart: not the same bits, but the same curves -------------------------------------

void expect_same_curves(const TrainResult& fused, const TrainResult& apart) {
  ASSERT_EQ(fused.curve.size(), apart.curve.size());
  ASSERT_GE(fused.curve.size(), 10u);
  for (size_t i = 0; i < apart.curve.size(); ++i) {
    const Evaluation &a = fused.curve[i], &b = apart.curve[i];
    EXPECT_NEAR(a.train_loss, b.train_loss, 2e-3 * b.train_loss) << "step " << a.step;
    EXPECT_NEAR(a.test_loss, b.test_loss, 2e-3 * b.test_loss) << "step " << a.step;
  }
  EXPECT_LT(apart.last().train_loss, 0.9 * apart.curve[0].train_loss);  // it has learned something
}

TrainOptions two_hundred_steps() {
  TrainOptions options = tiny_options(200);
  options.evaluate_every = 20;
  return options;
}

// The cpu, and a GPU if there is one: emulated, it would take minutes.
std::vector<Device> fast_devices() {
  if (is_available(Device::cuda)) return {Device::cpu, Device::cuda};
  return {Device::cpu};
}

TEST(Step, FusedNormsTrainAsUnfusedOnesOverTwoHundredSteps) {
  for (const Device device : fast_devices()) {
    for (const NormKind kind : {NormKind::layernorm, NormKind::rmsnorm, NormKind::dyt}) {
      SCOPED_TRACE(std::string(name_of(device)) + ", " + name_of(kind));
      const Outcome fused = train_gpt(two_hundred_steps(), {.kind = kind}, device);
      const Outcome apart = train_gpt(two_hundred_steps(), {.kind = kind, .unfused = true}, device);
      expect_same_curves(fused.result, apart.result);
    }
  }
}

// An observer, who wants to see every norm, keeps a ReLU out of it.
TEST(Step, BatchnormWithReluTrainsAsBatchnormAndReluOverTwoHundredSteps) {
  for (const Device device : fast_devices()) {
    SCOPED_TRACE(name_of(device));
    TrainOptions options = two_hundred_steps();
    const Outcome fused = train_resnet(options, 7, device);
    int seen = 0;
    options.after_step = [&](int64_t, Tape& tape) {
      tape.observer = [&](const std::string&, const Tensor&, const Tensor&) { ++seen; };
    };
    const Outcome apart = train_resnet(options, 7, device);
    EXPECT_GT(seen, 200);
    expect_same_curves(fused.result, apart.result);
  }
}

TEST(StepKernels, GraphsOfAVitWithStochasticDepthAgree) {
  SKIP_WITHOUT_KERNELS();
  TrainOptions options = tiny_options(20);
  options.label_smoothing = 0.1f;
  options.accumulate = 2;
  options.ema_decay = 0.9;
  expect_same([](const TrainOptions& o) { return train_vit(o); }, options);
  options.mix = {.mixup = 0.5f, .cutmix = 0.5f};
  options.accumulate = 1;
  expect_same([](const TrainOptions& o) { return train_vit(o, DType::bf16); }, options);
}

TEST(StepKernels, GraphsOfAResnetWithRunningStatisticsAgree) {
  SKIP_WITHOUT_KERNELS();
  TrainOptions options = tiny_options(20);
  options.ema_decay = 0.9;
  expect_same([](const TrainOptions& o) { return train_resnet(o); }, options);
  options.sgd = SgdOptions{.weight_decay = 0.01f};
  expect_same([](const TrainOptions& o) { return train_resnet(o); }, options);
}

// A run that goes on from its checkpoint is one that did not stop.
TEST(StepKernels, GraphsGoOnFromACheckpoint) {
  SKIP_WITHOUT_KERNELS();
  const TemporaryFolder folder;
  TrainOptions options = tiny_options(20);
  options.ema_decay = 0.9;
  options.graphs = Graphs::on;
  const Outcome whole = train_resnet(options);
  options.checkpoint.save = folder.path("run.safetensors");
  struct Stopped {};
  options.after_step = [](int64_t step, Tape&) {
    if (step == 13) throw Stopped{};
  };
  EXPECT_THROW(train_resnet(options), Stopped);
  options.after_step = nullptr;
  options.checkpoint.resume = options.checkpoint.save;
  const Outcome resumed = train_resnet(options, 99);
  EXPECT_GT(resumed.result.steps_repeated, 0);
  EXPECT_EQ(resumed.numbers, whole.numbers);
  EXPECT_EQ(resumed.result.last().test_loss, whole.result.last().test_loss);
  EXPECT_EQ(resumed.result.last().train_loss, whole.result.last().train_loss);
}

// --- One step after the other --------------------------------------------------------------------

// A linear layer on batches of changing shape. Every step adds lr times the gradient, where lr lies
// on the device.
struct Line {
  Parameters parameters;
  Parameter& w;
  Line() : w(parameters.add("weight", {1, 4}, Init::ones())) {
    parameters.allocate(kernel_device, DType::f32, 1);
    sgd = std::make_unique<Sgd>(parameters, SgdOptions{.momentum = 0});
  }
  std::unique_ptr<Sgd> sgd;
  Tape tape{kernel_device, DType::f32};
  std::vector<float> x;
  std::vector<double> losses;

  StepWork work(const std::function<int64_t(int64_t)>& rows) {
    return {.batch = [this, rows](int64_t part) -> HostBatch {
              x.resize(size_t(rows(part) * 4));
              for (size_t i = 0; i < x.size(); ++i) x[i] = float(part % 5) - float(i % 3);
              return {{{rows(part), 4}, DType::f32, x.data()}};
            },
            .loss =
                [this](Tape& t, const DeviceBatch& batch) {
                  const Tensor y = linear(t, batch[0], w, nullptr);
                  const Tensor loss = t.empty({1});
                  copy_on_device(t.device(), loss.data, y.data, sizeof(float));
                  t.record(loss, [=, &t] {  // of the first output alone
                    const auto dy = t.gradient<float>(y);
                    fill_zero(t.device(), dy.data, size_t(y.size()) * sizeof(float));
                    copy_on_device(t.device(), dy.data, t.gradient_of_output<float>(loss), 4);
                  });
                  return loss;
                }};
  }
  void run(TrainingStep& step, const StepWork& work, int64_t steps) {
    for (int64_t n = 0; n < steps; ++n) {
      sgd->prepare(0.01f * float(n));
      step.run(n, work, [this] { sgd->update(); });
      step.send_loss();
    }
    while (step.losses_waiting() > 0) losses.push_back(step.receive_loss());
  }
};

// By hand: the loss of step n is w . x, and w falls by lr(n) x.
std::vector<double> line_by_hand(int64_t steps, std::vector<double>& w) {
  std::vector<double> losses;
  w.assign(4, 1.0);
  for (int64_t n = 0; n < steps; ++n) {
    double loss = 0;
    for (size_t i = 0; i < 4; ++i) {
      const double x = double(n % 5) - double(i % 3);
      loss += w[i] * x;
      w[i] -= 0.01 * double(n) * x;
    }
    losses.push_back(loss);
  }
  return losses;
}

TEST(StepKernels, EveryShapeHasItsGraph) {
  SKIP_WITHOUT_KERNELS();
  Line line;
  TrainingStep step(line.parameters, line.tape, 1, Graphs::on);
  line.run(step, line.work([](int64_t part) { return 2 + part % 3; }), 24);
  EXPECT_GE(step.repeated(), 12);
  EXPECT_EQ(step.problem(), "");
  std::vector<double> w;
  const std::vector<double> losses = line_by_hand(24, w);
  expect_close(line.losses, losses, 1e-5, "losses");
  expect_close(line.parameters.values(line.w), w, 1e-5, "weights");
}

// Those of batches whose memory has gone, as larger ones came, don't count among the 32.
TEST(StepKernels, GraphsOfBatchesThatWereMovedAreForgotten) {
  SKIP_WITHOUT_KERNELS();
  Line line;
  TrainingStep step(line.parameters, line.tape, 1, Graphs::on);
  line.run(step, line.work([](int64_t part) { return part < 40 ? 8 * part + 2 : 2; }), 50);
  EXPECT_GE(step.repeated(), 6);
  std::vector<double> w;
  const std::vector<double> losses = line_by_hand(50, w);
  expect_close(line.losses, losses, 1e-5, "losses");
  expect_close(line.parameters.values(line.w), w, 1e-5, "weights");
}

// Whoever looks at every tensor, and a loss that reads what it has computed, get no graph, but the
// same results.
TEST(StepKernels, WhatCantBeRecordedIsComputed) {
  SKIP_WITHOUT_KERNELS();
  std::vector<double> w;
  const std::vector<double> losses = line_by_hand(12, w);
  for (const bool observed : {true, false}) {
    Line line;
    if (observed) line.tape.observer = [](const std::string&, const Tensor&, const Tensor&) {};
    TrainingStep step(line.parameters, line.tape, 1, Graphs::on);
    StepWork work = line.work([](int64_t) { return 2; });
    const auto loss = work.loss;
    if (!observed) {
      work.loss = [&](Tape& tape, const DeviceBatch& batch) {
        const Tensor l = loss(tape, batch);
        host_floats(tape, l);
        return l;
      };
    }
    testing::internal::CaptureStderr();
    line.run(step, work, 12);
    const std::string said = testing::internal::GetCapturedStderr();
    EXPECT_EQ(step.repeated(), 0);
    EXPECT_EQ(step.problem().find("the host reads") != std::string::npos, !observed);
    EXPECT_EQ(said.find("training goes on") == said.rfind("training goes on"), true);
    EXPECT_EQ(said.find("training goes on") != std::string::npos, !observed);
    expect_close(line.losses, losses, 1e-5, "losses");
    expect_close(line.parameters.values(line.w), w, 1e-5, "weights");
  }
}

TEST(Step, GraphsAreAutomaticOnOrOff) {
  EXPECT_EQ(parse_graphs("auto"), Graphs::automatic);
  EXPECT_EQ(parse_graphs("on"), Graphs::on);
  EXPECT_EQ(parse_graphs("off"), Graphs::off);
  expect_error([] { parse_graphs("yes"); }, {"auto, on or off", "yes"});
}

}  // namespace
}  // namespace dyt::test
