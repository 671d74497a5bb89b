#include "training/translation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/safetensors.h"
#include "tests/datasets/expect_error.h"
#include "tests/op_check.h"
#include "training/bleu.h"
#include "training/schedule.h"

namespace dyt::test {
namespace {

const TranslationTask& task() {
  static const TranslationTask t = make_translation_task(load_parallel("sagas:600"), 400, 48, 12);
  return t;
}

TransformerConfig tiny() {
  return {.vocabulary = task().words.vocabulary(),
          .context = 60,
          .width = 32,
          .depth = 1,
          .heads = 2,
          .hidden = 64,
          .dropout = 0.1f};
}

TrainOptions options() {
  return {.steps = 12,
          .batch = 300,
          .lr = 3e-3,
          .warmup = 4,
          .inverse_sqrt_from = 4,
          .adamw = {.beta2 = 0.98f, .epsilon = 1e-9f, .weight_decay = 0},
          .label_smoothing = 0.1f,
          .seed = 3,
          .evaluate_every = 6};
}

TEST(Translation, LearnsAndIsRepeatable) {
  std::vector<double> losses[2];
  for (std::vector<double>& of_run : losses) {
    Parameters p;
    const Transformer model(tiny(), p);
    p.allocate(Device::cpu, DType::f32, 1);
    for (const Evaluation& e : train_translation(model, p, task(), options()).curve) {
      of_run.push_back(e.test_loss);
    }
  }
  EXPECT_EQ(losses[0], losses[1]);
  ASSERT_EQ(losses[0].size(), 2u);
  EXPECT_LT(losses[0][1], losses[0][0]);
  EXPECT_LT(losses[0][1], std::log(double(task().words.vocabulary())));
}

// The mean over all labels, however the pairs are put into batches.
TEST(Translation, TheLossDoesNotDependOnTheBatches) {
  Parameters p;
  const Transformer model(tiny(), p);
  p.allocate(Device::cpu, DType::f64, 1);
  Tape tape(Device::cpu, DType::f64);
  const std::span<const TokenPair> some = std::span(task().val).first(20);
  const double apart = evaluate_translation(model, tape, some, 1);
  EXPECT_NEAR(evaluate_translation(model, tape, some, 200), apart, 1e-6);  // read as f32
  EXPECT_NEAR(evaluate_translation(model, tape, some, 5000), apart, 1e-6);
  EXPECT_TRUE(tape.training);
}

// Labels are smoothed in training, and not in evaluation: all pairs in one batch.
TEST(Translation, SmoothsTheLabelsOfTraining) {
  TransformerConfig config = tiny();
  config.dropout = 0;
  TranslationTask few = task();
  few.train.resize(6);
  few.val = few.train;
  TrainOptions o = options();
  o.steps = 1, o.warmup = 0, o.batch = 10000, o.lr = 1e-12;
  Parameters p;
  const Transformer model(config, p);
  p.allocate(Device::cpu, DType::f64, 1);
  const std::vector<int64_t> all = {0, 1, 2, 3, 4, 5};
  const PairBatch batch = make_batch(few.train, all);
  const auto loss = [&](float smoothing) {
    Tape tape(Device::cpu, DType::f64);
    const Shape target{6, batch.target_tokens};
    const Texts source{tape.upload({6, batch.source_tokens}, DType::i32, batch.source.data()),
                       tape.upload({6}, DType::i32, batch.source_lengths.data())};
    return to_host(tape,
                   model.loss(tape, source, tape.upload(target, DType::i32, batch.target.data()),
                              tape.upload(target, DType::i32, batch.labels.data()), smoothing))[0];
  };
  const double smoothed = loss(0.1f), plain = loss(0);
  EXPECT_GT(std::abs(smoothed - plain), 1e-3);
  const TrainResult result = train_translation(model, p, few, o);
  EXPECT_NEAR(result.last().train_loss, smoothed, 1e-5);
  EXPECT_NEAR(result.last().test_loss, plain, 1e-5);
}

// A model that has learned a handful of pairs by heart writes them, greedily and with beams, one
// at a time or all together.
TEST(Translation, WritesWhatItHasLearned) {
  TranslationTask few = task();
  few.train.resize(6), few.val.resize(1);
  TransformerConfig config = tiny();
  config.dropout = 0;
  TrainOptions o = options();
  o.steps = 150, o.evaluate_every = 0, o.batch = 400, o.lr = 5e-3;
  Parameters p;
  const Transformer model(config, p);
  p.allocate(Device::cpu, DType::f32, 2);
  train_translation(model, p, few, o);
  std::vector<std::string> sources, targets;
  for (const TokenPair& pair : few.train) {
    sources.push_back(few.words.decode(pair.source));
    targets.push_back(few.words.decode(pair.target));
  }
  EXPECT_EQ(translate(model, p, few.words, sources, {.beams = 1}), targets);
  EXPECT_EQ(translate(model, p, few.words, sources, {.beams = 3}), targets);
  EXPECT_EQ(translate(model, p, few.words, std::span(sources).first(1)).at(0), targets[0]);
  EXPECT_NEAR(bleu(targets, targets).score, 100, 1e-9);
}

TEST(Translation, RefusesPairsLongerThanTheContext) {
  TransformerConfig config = tiny();
  config.context = 8;
  Parameters p;
  const Transformer model(config, p);
  p.allocate(Device::cpu, DType::f32, 1);
  expect_error([&] { train_translation(model, p, task(), options()); },
               {"longer than the model's"});
  expect_error([] { make_translation_task(load_parallel("sagas:100"), 300, 2); },
               {"no pair of at most 2"});
}

// arXiv 1706.03762, equation 3, with its peak in place of d^-0.5 warmup^-0.5.
TEST(InverseSqrtSchedule, IsThatOfThePaperWhereBothStepsAreEqual) {
  const InverseSqrtSchedule schedule{.peak = 0.7, .warmup = 40, .decay_from = 40};
  for (const int64_t step : {1, 7, 39, 40, 41, 1000}) {
    const double n = double(step), paper = std::min(std::pow(n, -0.5), n * std::pow(40, -1.5));
    EXPECT_NEAR(schedule(step - 1), 0.7 * paper * std::sqrt(40.0), 1e-12) << step;
  }
}

TEST(InverseSqrtSchedule, WithoutWarmUpOnlyTheBeginningDiffers) {
  const InverseSqrtSchedule with{.peak = 1, .warmup = 40, .decay_from = 40};
  const InverseSqrtSchedule without{.peak = 1, .warmup = 0, .decay_from = 40};
  EXPECT_EQ(without(0), 1);
  EXPECT_EQ(without(38), 1);
  for (int64_t step = 39; step < 200; ++step) EXPECT_EQ(with(step), without(step));
}

}  // namespace
}  // namespace dyt::test
