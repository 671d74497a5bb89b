#include "training/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "core/product.h"
#include "layers/layers.h"
#include "models/resnet.h"
#include "models/vit.h"
#include "tests/datasets/expect_error.h"
#include "tests/datasets/temporary_folder.h"
#include "tests/op_check.h"
#include "training/classifier.h"

namespace dyt::test {
namespace {

// Images of two classes that differ in brightness.
ImageSplits bright_or_dark(size_t train, size_t test) {
  const auto make = [](size_t n, uint64_t seed) {
    ImageDataset d;
    d.name = "bright or dark";
    d.height = d.width = 8;
    d.channels = 3;
    d.class_names = {"bright", "dark"};
    RandomSequence random(seed, 9);
    for (size_t i = 0; i < n; ++i) {
      d.labels.push_back(int(i % 2));
      for (int k = 0; k < 8 * 8 * 3; ++k) {
        d.images.push_back(uint8_t((i % 2 ? 60 : 90) + random.below(120)));
      }
    }
    return d;
  };
  ImageSplits splits{make(train, 1), make(test, 2)};
  set_mean_and_std(splits);
  return splits;
}

// A network with running statistics, which a checkpoint must hold as well.
struct Network {
  static constexpr NormSpec batchnorm = {.kind = NormKind::batchnorm};
  Parameters parameters;
  ResNet model;
  explicit Network(uint64_t seed = 1, int width = 4, const NormSpec& norm = batchnorm)
      : model({.image_size = 8,
               .classes = 2,
               .large_stem = false,
               .stem_width = width,
               .depths = {1, 1},
               .widths = {width, 2 * width},
               .drop_path = 0.2f,
               .norm = norm},
              parameters) {
    parameters.allocate(Device::cpu, DType::f32, seed);
  }
  TrainResult train(const ImageSplits& data, const TrainOptions& options) {
    return train_classifier(
        [&](Tape& tape, const Tensor& images) { return model.forward(tape, images); }, parameters,
        data, options);
  }
  std::vector<double> everything() const {
    std::vector<double> all;
    for (const Parameter& p : parameters.all()) {
      for (double v : parameters.values(p)) all.push_back(v);
    }
    for (const ModelBuffer& b : parameters.buffers()) {
      for (double v : parameters.values(b)) all.push_back(v);
    }
    return all;
  }
};

// Everything random and everything with a memory is on.
TrainOptions all_of_it() {
  TrainOptions options{.steps = 12, .batch = 8, .accumulate = 2, .lr = 3e-3, .warmup = 3};
  options.label_smoothing = 0.1f;
  options.mix = {.mixup = 0.5f, .cutmix = 0.5f};
  options.ema_decay = 0.9;
  options.seed = 5;
  options.evaluate_every = 4;
  options.checkpoint.model = "a small ResNet";
  options.checkpoint.run = {{"batch", "8"}, {"lr", "0.003"}};
  return options;
}

// Stops a run after `steps` updates, as if the process had ended.
struct Stopped {};
void stop_after(TrainOptions& options, int64_t steps) {
  options.after_step = [steps](int64_t step, Tape&) {
    if (step == steps) throw Stopped{};
  };
}

void expect_same_curves(const TrainResult& a, const TrainResult& b) {
  ASSERT_EQ(a.curve.size(), b.curve.size());
  for (size_t i = 0; i < a.curve.size(); ++i) {
    EXPECT_EQ(a.curve[i].step, b.curve[i].step);
    EXPECT_EQ(a.curve[i].train_loss, b.curve[i].train_loss);
    EXPECT_EQ(a.curve[i].test_loss, b.curve[i].test_loss);
    EXPECT_EQ(a.curve[i].average_loss, b.curve[i].average_loss);
    EXPECT_EQ(a.curve[i].average_accuracy, b.curve[i].average_accuracy);
  }
}

TEST(Checkpoint, GoingOnGivesTheSameBitsAsNotHavingStopped) {
  const TemporaryFolder folder;
  const ImageSplits data = bright_or_dark(40, 12);  // 5 batches an epoch
  Network whole;
  const TrainResult expected = whole.train(data, all_of_it());
  for (int64_t every : {1, 3, 5}) {
    for (int64_t stop : {5, 7, 11}) {
      TrainOptions options = all_of_it();
      options.checkpoint.save = folder.path("run.safetensors");
      options.checkpoint.every = every;
      stop_after(options, stop);
      Network first;
      EXPECT_THROW(first.train(data, options), Stopped);
      options.after_step = nullptr;
      options.checkpoint.resume = options.checkpoint.save;
      Network second(99);  // other initial weights: none may be left
      const TrainResult result = second.train(data, options);
      EXPECT_EQ(second.everything(), whole.everything()) << every << " " << stop;
      expect_same_curves(result, expected);
      EXPECT_GE(result.samples, expected.samples);
    }
  }
}

TEST(Checkpoint, GoingOnGivesTheSameBitsWithSgd) {
  const TemporaryFolder folder;
  const ImageSplits data = bright_or_dark(40, 12);
  TrainOptions options = all_of_it();
  options.sgd = SgdOptions{.weight_decay = 0.01f};
  Network whole;
  const TrainResult expected = whole.train(data, options);
  options.checkpoint.save = folder.path("run.safetensors");
  options.checkpoint.every = 3;
  stop_after(options, 7);
  Network first;
  EXPECT_THROW(first.train(data, options), Stopped);
  options.after_step = nullptr;
  options.checkpoint.resume = options.checkpoint.save;
  Network second(99);
  expect_same_curves(second.train(data, options), expected);
  EXPECT_EQ(second.everything(), whole.everything());
  const TensorFile file = read_safetensors(options.checkpoint.save);
  EXPECT_EQ(file.at("optimizer.velocity.fc.weight").shape, (std::vector<int64_t>{2, 8}));
  EXPECT_FALSE(file.contains("optimizer.m.fc.weight"));
  options.sgd.reset();
  expect_error([&] { Network().train(data, options); }, {"optimizer.m."});
}

TEST(Checkpoint, GoingOnGivesTheSameBitsWithProductsInBf16) {
  const TemporaryFolder folder;
  const ImageSplits data = bright_or_dark(40, 12);
  const CpuProductsIn narrow(DType::bf16);
  const auto train = [&](const TrainOptions& options, uint64_t seed) {
    Parameters parameters;
    const ViT model({.image_size = 8, .classes = 2, .width = 32, .depth = 2, .heads = 2},
                    parameters);
    parameters.allocate(Device::cpu, DType::f32, seed);
    train_classifier([&](Tape& tape, const Tensor& images) { return model.forward(tape, images); },
                     parameters, data, options);
    std::vector<double> all;
    for (const Parameter& p : parameters.all()) {
      for (double v : parameters.values(p)) all.push_back(v);
    }
    return all;
  };
  TrainOptions options = all_of_it();
  const std::vector<double> expected = train(options, 1);
  options.checkpoint.save = folder.path("run.safetensors");
  options.checkpoint.every = 3;
  stop_after(options, 7);
  EXPECT_THROW(train(options, 1), Stopped);
  options.after_step = nullptr;
  options.checkpoint.resume = options.checkpoint.save;
  EXPECT_EQ(train(options, 99), expected);
}

// Alpha is measured in the first batch and not again: it moves from there by what the optimizer
// does, also where a run goes on, and the average of the weights begins there, too.
TEST(Checkpoint, AlphaIsMeasuredOnce) {
  const TemporaryFolder folder;
  const ImageSplits data = bright_or_dark(40, 12);
  const NormSpec measured{.kind = NormKind::dyt, .calibrate = 1};
  TrainOptions options = all_of_it();
  options.ema_decay = 0.999;
  Network whole(1, 4, measured), at_once(1, 4, measured);
  options.steps = 1, options.warmup = 0, options.lr = options.lr_floor = 1e-9;
  options.adamw.weight_decay = 0;
  const TrainResult one = at_once.train(data, options);
  // After a step of no size, model and average are the same, which at alpha0 they would not be.
  EXPECT_NEAR(one.last().average_loss, one.last().test_loss, 1e-4);
  const Parameter& alpha = at_once.parameters.find("bn1.alpha");
  EXPECT_GT(std::abs(at_once.parameters.values(alpha)[0] - 0.5), 0.05);

  options = all_of_it();
  const TrainResult expected = whole.train(data, options);
  options.checkpoint.save = folder.path("run.safetensors");
  options.checkpoint.every = 1;
  stop_after(options, 1);
  Network first(1, 4, measured), second(99, 4, measured);
  EXPECT_THROW(first.train(data, options), Stopped);
  options.after_step = nullptr;
  options.checkpoint.resume = options.checkpoint.save;
  expect_same_curves(second.train(data, options), expected);
  EXPECT_EQ(second.everything(), whole.everything());
}

TEST(Checkpoint, AFinishedRunIsOver) {
  const TemporaryFolder folder;
  const ImageSplits data = bright_or_dark(40, 12);
  TrainOptions options = all_of_it();
  options.checkpoint.save = options.checkpoint.resume = folder.path("run.safetensors");
  options.checkpoint.resume.clear();
  Network whole;
  const TrainResult expected = whole.train(data, options);
  options.checkpoint.resume = options.checkpoint.save;
  Network again(99);
  expect_same_curves(again.train(data, options), expected);
  EXPECT_EQ(again.everything(), whole.everything());
}

TEST(Checkpoint, HoldsWeightsUnderTheirNames) {
  const TemporaryFolder folder;
  TrainOptions options = all_of_it();
  options.checkpoint.save = folder.path("run.safetensors");
  Network network;
  network.train(bright_or_dark(40, 12), options);
  const TensorFile file = read_safetensors(options.checkpoint.save);
  const Parameter& p = network.parameters.find("fc.weight");
  EXPECT_EQ(file.doubles("fc.weight"), network.parameters.values(p));
  EXPECT_NE(file.doubles("ema.fc.weight"), network.parameters.values(p));
  EXPECT_EQ(file.at("optimizer.m.fc.weight").shape, (std::vector<int64_t>{2, 8}));
  EXPECT_TRUE(file.contains("optimizer.v.bn1.weight"));
  EXPECT_TRUE(file.contains("ema.bn1.running_mean"));
}

// Gradient accumulation is the same mean: a model without batch statistics sees no difference. By
// plain SGD, which, unlike Adam, would see a factor.
TEST(Trainer, PartsOfABatchGiveItsGradient) {
  const ImageSplits data = bright_or_dark(40, 12);
  std::vector<std::vector<double>> weights;
  for (int accumulate : {1, 2, 4}) {
    Parameters parameters;
    const ResNet model({.image_size = 8,
                        .classes = 2,
                        .large_stem = false,
                        .stem_width = 4,
                        .depths = {1},
                        .widths = {4},
                        .norm = {.kind = NormKind::dyt}},
                       parameters);
    parameters.allocate(Device::cpu, DType::f32, 1);
    TrainOptions options{.steps = 4, .batch = 8, .accumulate = accumulate, .lr = 1e-2};
    options.sgd = SgdOptions{.momentum = 0};
    options.augment = {};
    const TrainResult result = train_classifier(
        [&](Tape& tape, const Tensor& images) { return model.forward(tape, images); }, parameters,
        data, options);
    EXPECT_EQ(result.samples, 32);
    std::vector<double>& all = weights.emplace_back();
    for (const Parameter& p : parameters.all()) {
      const std::vector<double> values = parameters.values(p);
      all.insert(all.end(), values.begin(), values.end());
    }
  }
  for (size_t i = 0; i < weights[0].size(); ++i) {
    EXPECT_NEAR(weights[1][i], weights[0][i], 2e-5);
    EXPECT_NEAR(weights[2][i], weights[0][i], 2e-5);
  }
}

TEST(Checkpoint, OfAnotherModelOrRunIsRefused) {
  const TemporaryFolder folder;
  const ImageSplits data = bright_or_dark(40, 12);
  TrainOptions options = all_of_it();
  options.checkpoint.save = folder.path("run.safetensors");
  Network().train(data, options);
  options.checkpoint.resume = options.checkpoint.save;
  TrainOptions other = options;
  other.checkpoint.model = "a ViT";
  expect_error([&] { Network().train(data, other); }, {"another model", "a small ResNet", "a ViT"});
  other = options;
  other.checkpoint.run["batch"] = "16";
  expect_error([&] { Network().train(data, other); },
               {"another run", "batch is 16 here and 8 there"});
  // The description agrees, the tensors don't.
  expect_error([&] { Network(1, 6).train(data, options); },
               {"run.safetensors", "[4, 3, 3, 3], this model's has [6, 3, 3, 3]"});
}

TEST(Checkpoint, WeightsAloneAreNone) {
  const TemporaryFolder folder;
  const auto path = folder.path("weights.safetensors");
  TensorFile file;
  file.add("fc.weight", {2}, std::vector<float>{1, 2});
  write_safetensors(path, file);
  TrainOptions options = all_of_it();
  options.checkpoint.resume = path;
  const ImageSplits data = bright_or_dark(40, 12);
  expect_error([&] { Network().train(data, options); }, {"no checkpoint", "--init"});
  std::ofstream(path, std::ios::trunc) << "short";
  expect_error([&] { Network().train(data, options); }, {"weights.safetensors"});
  options.checkpoint.resume = folder.path("missing.safetensors");
  expect_error([&] { Network().train(data, options); }, {"missing.safetensors"});
}

// A file may not grow beyond `bytes`, as on a full disk.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit now{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &now);
  }
  ~FullDisk() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST(Checkpoint, AFullDiskLeavesTheOldOneAndTheRunGoesOn) {
  const TemporaryFolder folder;
  const ImageSplits data = bright_or_dark(40, 12);
  TrainOptions options = all_of_it();
  options.checkpoint.save = folder.path("run.safetensors");
  options.checkpoint.every = 4;
  stop_after(options, 5);
  EXPECT_THROW(Network().train(data, options), Stopped);
  const TensorFile old = read_safetensors(options.checkpoint.save);

  options.checkpoint.resume = options.checkpoint.save;
  int64_t seen = 0;
  options.after_step = [&](int64_t step, Tape&) { seen = step; };
  {
    const FullDisk full(1000);
    testing::internal::CaptureStderr();
    expect_error([&] { Network().train(data, options); }, {"run.safetensors"});  // at the end
  }
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("training goes on"), std::string::npos) << said;
  EXPECT_EQ(seen, 11);
  EXPECT_EQ(read_safetensors(options.checkpoint.save).metadata, old.metadata);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);

  Network going_on(99), whole;
  const TrainResult result = going_on.train(data, options);
  options.checkpoint = {};
  expect_same_curves(result, whole.train(data, options));
}

}  // namespace
}  // namespace dyt::test
