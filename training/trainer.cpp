#include "training/trainer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/clock.h"
#include "layers/layers.h"
#include "training/schedule.h"

namespace dyt {
namespace {

// A batch on its way to the device. Images stay f32 whatever the model computes in.
class Batch {
 public:
  Batch(const ImageDataset& dataset, int size)
      : dataset_(dataset), images_(size_t(size) * dataset.image_size()), labels_(size_t(size)) {}

  void fill(std::span<const uint32_t> indices, const Augment* augment, uint64_t seed,
            uint64_t epoch) {
    count_ = int64_t(indices.size());
    fill_batch(dataset_, indices, augment, seed, epoch, images_.data(), labels_.data());
  }
  Tensor images(Tape& tape) const {
    return tape.upload({count_, dataset_.height, dataset_.width, dataset_.channels}, DType::f32,
                       images_.data());
  }
  Tensor labels(Tape& tape) const { return tape.upload({count_}, DType::i32, labels_.data()); }
  int32_t label(int64_t i) const { return labels_[size_t(i)]; }

 private:
  const ImageDataset& dataset_;
  std::vector<float> images_;
  std::vector<int32_t> labels_;
  int64_t count_ = 0;
};

}  // namespace

Evaluation evaluate_classifier(const Forward& forward, Tape& tape, const ImageDataset& dataset,
                               int batch_size) {
  Evaluation result;
  Batch batch(dataset, batch_size);
  const bool was_training = tape.training;
  tape.training = false;
  int64_t correct = 0;
  for (size_t begin = 0; begin < dataset.size(); begin += size_t(batch_size)) {
    std::vector<uint32_t> indices(std::min(size_t(batch_size), dataset.size() - begin));
    std::iota(indices.begin(), indices.end(), uint32_t(begin));
    batch.fill(indices, nullptr, 0, 0);
    tape.begin(0);
    const Tensor logits = forward(tape, batch.images(tape));
    const std::vector<float> values = host_floats(tape, logits);
    const int64_t classes = logits.channels();
    for (int64_t b = 0; b < logits.rows(); ++b) {
      const float* row = values.data() + b * classes;
      const float top = *std::max_element(row, row + classes);
      double sum = 0;
      for (int64_t k = 0; k < classes; ++k) sum += std::exp(double(row[k] - top));
      result.test_loss += std::log(sum) + double(top - row[batch.label(b)]);
      correct += std::max_element(row, row + classes) - row == batch.label(b);
    }
  }
  tape.training = was_training;
  result.test_loss /= double(dataset.size());
  result.test_accuracy = double(correct) / double(dataset.size());
  return result;
}

TrainResult train_classifier(const Forward& forward, Parameters& parameters,
                             const ImageSplits& data, const TrainOptions& options,
                             const std::function<void(const Progress&)>& show) {
  require(options.steps > 0, "steps must be positive, not ", options.steps);
  require(options.batch > 0, "the batch size must be positive, not ", options.batch);
  require(size_t(options.batch) <= data.train.size(), "a batch of ", options.batch,
          " is more than the ", data.train.size(), " images of the train split");
  require(options.warmup >= 0 && options.warmup < options.steps, "warm-up (", options.warmup,
          " steps) must be shorter than the run (", options.steps, " steps)");
  Tape tape(parameters.device(), parameters.dtype(), options.seed);
  AdamW optimizer(parameters, options.adamw);
  const CosineSchedule schedule{options.lr, options.lr_floor, options.warmup, options.steps};
  const Augment augment;
  Batch batch(data.train, options.batch);
  const int64_t batches = int64_t(data.train.size()) / options.batch;       // per epoch
  const int64_t loss_every = parameters.device() == Device::cuda ? 10 : 1;  // reading it waits
  std::vector<uint32_t> order;
  TrainResult result;
  double sum = 0, test_accuracy = -1;
  int64_t sums = 0;
  const double start = seconds_now();

  for (int64_t step = 0; step < options.steps; ++step) {
    const int64_t epoch = step / batches, position = step % batches;
    if (position == 0) order = epoch_order(data.train.size(), options.seed, uint64_t(epoch));
    batch.fill(std::span(order).subspan(size_t(position * options.batch), size_t(options.batch)),
               options.augment ? &augment : nullptr, options.seed, uint64_t(epoch));

    tape.begin(uint64_t(step));
    parameters.zero_gradients();
    const Tensor logits = forward(tape, batch.images(tape));
    const Tensor loss = cross_entropy(tape, logits, batch.labels(tape), options.label_smoothing);
    tape.backward(loss);
    optimizer.step(float(schedule(step)));

    if (step % loss_every == 0 || step + 1 == options.steps) {
      const double value = double(host_floats(tape, loss)[0]);
      if (!(value <= options.diverged_above)) {
        result.diverged_at = step;
        break;
      }
      sum += value;
      ++sums;
    }
    const bool last = step + 1 == options.steps;
    if (last || (options.evaluate_every > 0 && (step + 1) % options.evaluate_every == 0)) {
      Evaluation e = evaluate_classifier(forward, tape, data.test, options.batch);
      e.step = step + 1;
      e.train_loss = sums ? sum / double(sums) : std::nan("");
      sum = 0, sums = 0;
      test_accuracy = e.test_accuracy;
      result.curve.push_back(e);
    }
    if (show) {
      const double seconds = seconds_now() - start, done = double(step + 1);
      const double loss_now = sums ? sum / double(sums) : result.curve.back().train_loss;
      show({step + 1, options.steps, loss_now, test_accuracy, done * options.batch / seconds,
            seconds / done * double(options.steps - step - 1)});
    }
    result.images += options.batch;
  }
  result.seconds = seconds_now() - start;
  result.arena_bytes = tape.arena().capacity();
  return result;
}

}  // namespace dyt
