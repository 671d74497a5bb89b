#include "training/language.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>

#include "datasets/masked_text.h"

namespace dyt {
namespace {

// Streams of a seed, as in datasets/images.cpp.
constexpr uint64_t sample_stream = uint64_t('S') << 56;
constexpr uint64_t mask_stream = uint64_t('M') << 56;

// Windows of a text on their way to the device.
class Windows {
 public:
  Windows(const std::vector<uint16_t>& text, int64_t context, size_t count)
      : text_(text), context_(context), tokens_(count * size_t(context)), labels_(tokens_.size()) {}

  void fill(std::span<const int64_t> begins) {
    count_ = int64_t(begins.size());
    fill_windows(text_, begins, context_, tokens_.data(), labels_.data());
  }
  // Hides tokens from a model whose mask is the token `mask`; returns how many.
  int64_t hide(int mask, uint64_t seed, uint64_t number) {
    RandomSequence random(seed, mask_stream | number);
    const size_t n = size_t(count_ * context_);
    return hide_tokens(std::span(tokens_).first(n), std::span(labels_).first(n), mask, random);
  }
  HostBatch batch() const {  // tokens and labels
    const Shape shape{count_, context_};
    return {{shape, DType::i32, tokens_.data()}, {shape, DType::i32, labels_.data()}};
  }

 private:
  const std::vector<uint16_t>& text_;
  int64_t context_, count_ = 0;
  std::vector<int32_t> tokens_, labels_;
};

}  // namespace

double evaluate_language_model(const GPT& model, Tape& tape, const std::vector<uint16_t>& text,
                               int64_t windows, int batch) {
  const int64_t context = model.config().context;
  const std::vector<int64_t> begins = even_windows(int64_t(text.size()), context, windows);
  Windows some(text, context, std::min(begins.size(), size_t(batch)));
  const bool was_training = tape.training;
  tape.training = false;
  const GPTConfig& c = model.config();
  Feed feed(tape.device());
  Readout losses(tape.device());
  std::deque<double> weights;  // of the batches whose losses are on their way
  double sum = 0, total = 0;
  const auto receive = [&] {
    sum += weights.front() * double(losses.receive()[0]);
    total += weights.front();
    weights.pop_front();
  };
  for (size_t first = 0; first < begins.size(); first += size_t(batch)) {
    const size_t count = std::min(begins.size() - first, size_t(batch));
    some.fill(std::span(begins).subspan(first, count));
    weights.push_back(double(c.causal ? int64_t(count) : some.hide(c.vocabulary - 1, 0, first)));
    const DeviceBatch& on_device = feed.send(some.batch());
    tape.begin(0);
    losses.send(model.loss(tape, on_device[0], on_device[1]));
    if (weights.size() > 1) receive();
  }
  receive();
  tape.training = was_training;
  return sum / total;
}

TrainOptions language_defaults() {
  return {.steps = 1000,
          .batch = 32,
          .lr = 2e-3,
          .lr_floor = 2e-4,
          .warmup = 100,
          .adamw = {.beta2 = 0.99f, .weight_decay = 0.1f, .max_norm = 1},
          .evaluate_every = 100};
}

TrainResult train_language_model(const GPT& model, Parameters& parameters, const TextDataset& text,
                                 const TrainOptions& options, const ShowProgress& show) {
  const int words = model.config().vocabulary - (model.config().causal ? 0 : 1);  // less the mask
  require(text.vocabulary <= words, text.name, " has a vocabulary of ", text.vocabulary,
          " words, more than the ", words, " of the model");
  const int64_t context = model.config().context;
  require_context(text, context);
  Trainer trainer(parameters, options);
  const int64_t count = options.batch / options.accumulate;
  Windows windows(text.train, context, size_t(count));
  TrainTask task{.samples = "tokens", .samples_per_step = options.batch * context};
  task.work.batch = [&](int64_t part) {
    windows.fill(
        random_windows(int64_t(text.train.size()), context, count, options.seed, uint64_t(part)));
    if (!model.config().causal) windows.hide(words, options.seed, uint64_t(part));
    return windows.batch();
  };
  task.work.loss = [&](Tape& tape, const DeviceBatch& batch) {
    return model.loss(tape, batch[0], batch[1]);
  };
  task.evaluate = [&](Tape& tape, bool last) {
    const int64_t some = last ? 0 : options.evaluate_windows;
    return Evaluation{.test_loss =
                          evaluate_language_model(model, tape, text.val, some, int(count))};
  };
  return trainer.run(task, show);
}

int32_t choose_token(std::span<const float> logits, double temperature, int top_k, double u) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  // Likeliest first; of equals, the one that comes first in the vocabulary.
  const auto likelier = [&](int32_t a, int32_t b) {
    return logits[size_t(a)] != logits[size_t(b)] ? logits[size_t(a)] > logits[size_t(b)] : a < b;
  };
  if (temperature == 0) top_k = 1;
  if (top_k > 0 && size_t(top_k) < order.size()) {
    std::partial_sort(order.begin(), order.begin() + top_k, order.end(), likelier);
    order.resize(size_t(top_k));
  }
  if (order.size() == 1) return order[0];
  float top = logits[size_t(order[0])];
  for (int32_t k : order) top = std::max(top, logits[size_t(k)]);
  const auto weight = [&](int32_t k) {
    return std::exp((double(logits[size_t(k)]) - double(top)) / temperature);
  };
  double sum = 0;
  for (int32_t k : order) sum += weight(k);
  require(std::isfinite(sum), "the model's logits are not finite: it has diverged");
  double left = u * sum;
  for (int32_t k : order) {
    left -= weight(k);
    if (left < 0) return k;
  }
  return order.back();
}

std::vector<int32_t> generate(const GPT& model, const Parameters& parameters,
                              std::span<const int32_t> prompt, const SampleOptions& options,
                              const std::function<void(int32_t token)>& show) {
  require(model.config().causal, "a model that sees the whole text can't write on");
  require(!prompt.empty(), "a prompt needs at least one token to go on from");
  require(options.temperature >= 0, "the temperature must not be negative: ", options.temperature);
  require(options.top_k >= 0, "top-k must not be negative: ", options.top_k);
  const size_t context = size_t(model.config().context);
  Tape tape(parameters.device(), parameters.dtype());
  tape.training = false;
  GPTCache cache(model.config(), parameters.device(), parameters.dtype());
  RandomSequence random(options.seed, sample_stream);
  // The part of the text that the model reads, and how much of it is in the cache.
  std::vector<int32_t> read(prompt.end() - std::ptrdiff_t(std::min(prompt.size(), context)),
                            prompt.end());
  std::vector<int32_t> written;
  for (int64_t n = 0; n < options.tokens; ++n) {
    if (read.size() > context) {
      read.erase(read.begin(), read.end() - std::ptrdiff_t((context + 1) / 2));
      cache.clear();
    }
    const std::span<const int32_t> fresh = std::span(read).subspan(size_t(cache.length()));
    const int64_t count = int64_t(fresh.size());
    tape.begin(0);
    const Tensor tokens = tape.upload({1, count}, DType::i32, fresh.data());
    const Tensor logits = options.cache ? model.next(tape, tokens, cache)
                                        : take_token(tape, model.logits(tape, tokens), count - 1);
    const int32_t token = choose_token(host_floats(tape, logits), options.temperature,
                                       options.top_k, double(random.uniform()));
    read.push_back(token);
    written.push_back(token);
    if (show) show(token);
  }
  return written;
}

}  // namespace dyt
