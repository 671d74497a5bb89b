#include "training/translation.h"

#include <algorithm>
#include <numeric>

namespace dyt {
namespace {

Texts upload_source(Tape& tape, const PairBatch& batch) {
  return {tape.upload({batch.rows, batch.source_tokens}, DType::i32, batch.source.data()),
          tape.upload({batch.rows}, DType::i32, batch.source_lengths.data())};
}

// Source, its lengths, target, labels.
HostBatch arrays_of(const PairBatch& batch) {
  const Shape target{batch.rows, batch.target_tokens};
  return {{{batch.rows, batch.source_tokens}, DType::i32, batch.source.data()},
          {{batch.rows}, DType::i32, batch.source_lengths.data()},
          {target, DType::i32, batch.target.data()},
          {target, DType::i32, batch.labels.data()}};
}

Tensor batch_loss(const Transformer& model, Tape& tape, const DeviceBatch& batch, float smoothing) {
  return model.loss(tape, {batch[0], batch[1]}, batch[2], batch[3], smoothing);
}

void check_lengths(const Transformer& model, std::span<const TokenPair> pairs) {
  for (const TokenPair& pair : pairs) {
    const size_t longer = std::max(pair.source.size(), pair.target.size());
    require(int64_t(longer) <= model.config().context, "a pair of ", longer,
            " tokens is longer than the model's context of ", model.config().context);
  }
}

}  // namespace

TranslationTask make_translation_task(const ParallelText& text, int vocabulary, int64_t longest,
                                      int64_t test_pairs) {
  TranslationTask task{.name = text.name, .words = {}, .train = {}, .val = {}, .test = text.test};
  std::vector<std::string> both;
  for (const SentencePair& pair : text.train) {
    both.push_back(pair.source);
    both.push_back(pair.target);
  }
  task.words = BytePairs::learn(both, vocabulary);
  task.train = encode_pairs(text.train, task.words, longest);
  task.val = encode_pairs(text.val, task.words, longest);
  require(!task.train.empty() && !task.val.empty(), text.name, " has no pair of at most ", longest,
          " tokens a side to train on, or none to validate on");
  if (test_pairs > 0 && size_t(test_pairs) < task.test.size()) task.test.resize(size_t(test_pairs));
  return task;
}

double evaluate_translation(const Transformer& model, Tape& tape, std::span<const TokenPair> pairs,
                            int64_t batch_tokens) {
  const bool was_training = tape.training;
  tape.training = false;
  Feed feed(tape.device());
  double sum = 0, words = 0;
  for (const std::vector<int64_t>& chosen : batches_by_length(pairs, batch_tokens)) {
    const PairBatch batch = make_batch(pairs, chosen);
    tape.begin(0);
    const Tensor loss = batch_loss(model, tape, feed.send(arrays_of(batch)), 0);
    sum += double(batch.words) * double(host_floats(tape, loss)[0]);
    words += double(batch.words);
  }
  tape.training = was_training;
  return sum / words;
}

TrainResult train_translation(const Transformer& model, Parameters& parameters,
                              const TranslationTask& task, const TrainOptions& options,
                              const ShowProgress& show) {
  check_lengths(model, task.train);
  check_lengths(model, task.val);
  Trainer trainer(parameters, options);
  const auto batches = batches_by_length(task.train, options.batch / options.accumulate);
  int64_t words = 0;
  for (const TokenPair& pair : task.train) words += int64_t(pair.target.size());
  TrainTask training{.samples = "tokens",
                     .samples_per_step = words * options.accumulate / int64_t(batches.size())};
  PairBatch batch;
  training.work.batch = [&](int64_t part) {
    const int64_t n = batch_of_step(int64_t(batches.size()), options.seed, part);
    batch = make_batch(task.train, batches[size_t(n)]);
    return arrays_of(batch);
  };
  training.work.loss = [&](Tape& tape, const DeviceBatch& on_device) {
    return batch_loss(model, tape, on_device, options.label_smoothing);
  };
  training.evaluate = [&](Tape& tape, bool) {
    return Evaluation{.test_loss = evaluate_translation(model, tape, task.val, options.batch)};
  };
  return trainer.run(training, show);
}

namespace {

// Translates texts[order[first]] ... of one batch into `results`.
void translate_batch(const Transformer& model, const Parameters& parameters, Tape& tape,
                     const std::vector<std::vector<int32_t>>& texts,
                     std::span<const int64_t> chosen, const BeamOptions& options,
                     std::vector<std::vector<int32_t>>& results) {
  std::vector<TokenPair> pairs;
  std::vector<int64_t> all, longest;
  for (const int64_t i : chosen) {
    all.push_back(int64_t(all.size()));
    pairs.push_back({texts[size_t(i)], {BytePairs::end}});
    longest.push_back(
        std::min<int64_t>(model.config().context, 2 * int64_t(texts[size_t(i)].size()) + 10));
  }
  const PairBatch batch = make_batch(pairs, all);
  TransformerCache cache(model.config(), parameters.device(), parameters.dtype(), batch.rows,
                         options.beams, batch.source_tokens,
                         *std::max_element(longest.begin(), longest.end()));
  tape.begin(0);
  model.read(tape, upload_source(tape, batch), cache);
  const NextLogits next = [&](const std::vector<int32_t>& tokens,
                              const std::vector<int32_t>& parents) {
    cache.reorder(parents);
    tape.begin(0);
    return host_floats(
        tape,
        model.next(tape, tape.upload({int64_t(tokens.size())}, DType::i32, tokens.data()), cache));
  };
  const auto found = beam_search(longest, model.config().vocabulary, BytePairs::begin,
                                 BytePairs::end, options, next);
  for (size_t i = 0; i < chosen.size(); ++i) results[size_t(chosen[i])] = found[i];
}

}  // namespace

std::vector<std::string> translate(const Transformer& model, const Parameters& parameters,
                                   const BytePairs& words, std::span<const std::string> texts,
                                   const BeamOptions& options) {
  constexpr size_t at_once = 64;
  std::vector<std::vector<int32_t>> sources;
  for (const std::string& text : texts) {
    std::vector<int32_t> tokens = words.encode(text);
    tokens.resize(std::min(tokens.size(), size_t(model.config().context - 1)));
    tokens.push_back(BytePairs::end);
    sources.push_back(std::move(tokens));
  }
  // Texts of about equal length come together.
  std::vector<int64_t> order(sources.size());
  std::iota(order.begin(), order.end(), int64_t(0));
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return sources[size_t(a)].size() < sources[size_t(b)].size();
  });
  Tape tape(parameters.device(), parameters.dtype());
  tape.training = false;
  std::vector<std::vector<int32_t>> results(sources.size());
  for (size_t first = 0; first < order.size(); first += at_once) {
    const size_t count = std::min(at_once, order.size() - first);
    translate_batch(model, parameters, tape, sources, std::span(order).subspan(first, count),
                    options, results);
  }
  std::vector<std::string> translations;
  for (const std::vector<int32_t>& tokens : results) translations.push_back(words.decode(tokens));
  return translations;
}

}  // namespace dyt
