#include "training/classifier.h"

#include <algorithm>
#include <deque>

#include "layers/layers.h"

namespace dyt {
namespace {

// Images stay f32 whatever the model computes in.
HostArray images_of(const ImageSource& source, const ImageBatch& batch) {
  return {
      {batch.count, source.height, source.width, source.channels}, DType::f32, batch.images.data()};
}

// The sum of the cross-entropies of a batch is added to `loss`, the number of labels that have the
// largest logit to `correct`.
void count(const std::vector<float>& logits, int64_t classes, const std::vector<int32_t>& labels,
           double& loss, int64_t& correct) {
  for (size_t b = 0; b < labels.size(); ++b) {
    const float* row = logits.data() + int64_t(b) * classes;
    const float* top = std::max_element(row, row + classes);
    double sum = 0;
    for (int64_t k = 0; k < classes; ++k) sum += std::exp(double(row[k] - *top));
    loss += std::log(sum) + double(*top - row[labels[b]]);
    correct += top - row == labels[b];
  }
}

ImageSources in_memory(const ImageSplits& data) {
  ImageSources sources;
  sources.train = std::make_unique<MemorySource>(data.train);
  sources.test = std::make_unique<MemorySource>(data.test);
  return sources;
}

}  // namespace

Evaluation evaluate_classifier(const Forward& forward, Tape& tape, const ImageSource& source,
                               const TrainOptions& options, std::vector<std::string>* skipped) {
  ImageLoader loader(source, {.batch = options.batch / options.accumulate,
                              .training = false,
                              .threads = options.workers,
                              .strict = options.strict});
  const bool was_training = tape.training;
  tape.training = false;
  Feed feed(tape.device());
  Readout logits_sent(tape.device());
  std::deque<std::vector<int32_t>> labels;  // of the batches whose logits are on their way
  double loss = 0;
  int64_t correct = 0, images = 0;
  const auto receive = [&] {
    const std::vector<float> logits = logits_sent.receive();
    count(logits, int64_t(logits.size() / labels.front().size()), labels.front(), loss, correct);
    images += int64_t(labels.front().size());
    labels.pop_front();
  };
  while (const ImageBatch* batch = loader.next()) {
    if (batch->count == 0) continue;
    const DeviceBatch& on_device = feed.send({images_of(source, *batch)});
    tape.begin(0);
    logits_sent.send(forward(tape, on_device[0]));
    labels.push_back(batch->labels);
    if (labels.size() > 1) receive();
  }
  while (!labels.empty()) receive();
  tape.training = was_training;
  require(images > 0, "none of the images of ", source.name, " can be decoded");
  if (skipped) *skipped = loader.skipped();
  return {.test_loss = loss / double(images), .test_accuracy = double(correct) / double(images)};
}

Evaluation evaluate_classifier(const Forward& forward, Tape& tape, const ImageDataset& dataset,
                               int batch) {
  return evaluate_classifier(forward, tape, MemorySource(dataset), {.batch = batch});
}

TrainResult train_classifier(const Forward& forward, Parameters& parameters,
                             const ImageSources& data, const TrainOptions& options,
                             const ShowProgress& show) {
  require(options.batch <= 0 || size_t(options.batch) <= data.train->size(), "a batch of ",
          options.batch, " is more than the ", data.train->size(), " images of the train split");
  Trainer trainer(parameters, options);
  ImageLoader loader(*data.train, {.batch = options.batch / options.accumulate,
                                   .seed = options.seed,
                                   .augment = options.augment,
                                   .mix = options.mix,
                                   .label_smoothing = options.label_smoothing,
                                   .first_batch = trainer.first_part(),
                                   .threads = options.workers,
                                   .strict = options.strict});
  std::vector<std::string> skipped;  // of the test split
  TrainTask task{.samples_per_step = options.batch};
  task.work.batch = [&](int64_t) -> HostBatch {
    const ImageBatch& batch = *loader.next();
    const HostArray images = images_of(*data.train, batch);
    if (batch.targets.empty()) return {images, {{batch.count}, DType::i32, batch.labels.data()}};
    return {images, {{batch.count, data.train->classes()}, DType::f32, batch.targets.data()}};
  };
  task.work.loss = [&](Tape& tape, const DeviceBatch& batch) {
    const Tensor logits = forward(tape, batch[0]);
    if (batch[1].dtype == DType::f32) return cross_entropy_soft(tape, logits, batch[1]);
    return cross_entropy(tape, logits, batch[1], options.label_smoothing);
  };
  task.evaluate = [&](Tape& tape, bool) {
    return evaluate_classifier(forward, tape, *data.test, options, &skipped);
  };
  TrainResult result = trainer.run(task, show);
  result.seconds_waited = loader.seconds_waited();
  result.skipped = loader.skipped();
  result.skipped.insert(result.skipped.end(), skipped.begin(), skipped.end());
  return result;
}

TrainResult train_classifier(const Forward& forward, Parameters& parameters,
                             const ImageSplits& data, const TrainOptions& options,
                             const ShowProgress& show) {
  return train_classifier(forward, parameters, in_memory(data), options, show);
}

}  // namespace dyt
