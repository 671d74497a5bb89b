#include "training/language.h"

#include <gtest/gtest.h>

#include <cmath>

#include "datasets/masked_text.h"
#include "tests/datasets/expect_error.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

// "abc...h" again and again, now and then with two letters swapped: easy, but not empty of
// surprise.
TextDataset alphabet(size_t train, size_t val) {
  const auto make = [](size_t n, uint64_t seed) {
    RandomSequence random(seed, 9);
    std::vector<uint16_t> text;
    while (text.size() < n) {
      std::vector<uint16_t> word = {0, 1, 2, 3, 4, 5, 6, 7};
      if (random.below(4) == 0) std::swap(word[2], word[5]);
      text.insert(text.end(), word.begin(), word.end());
    }
    text.resize(n);
    return text;
  };
  return {.name = "alphabet", .vocabulary = 8, .train = make(train, 1), .val = make(val, 2)};
}

GPTConfig tiny(NormKind norm, GPTStyle style = GPTStyle::gpt2) {
  return {.style = style,
          .vocabulary = 8,
          .context = 12,
          .width = 32,
          .depth = 2,
          .heads = 2,
          .hidden = 64,
          .norm = {.kind = norm}};
}

struct Model {
  Parameters parameters;
  GPT gpt;
  Model(const GPTConfig& config, Device device, DType dtype) : gpt(config, parameters) {
    parameters.allocate(device, dtype, 7);
  }
};

TrainOptions twenty_steps() {
  return {.steps = 20,
          .batch = 8,
          .lr = 3e-3,
          .lr_floor = 3e-4,
          .warmup = 4,
          .seed = 3,
          .evaluate_every = 5,
          .evaluate_windows = 6};
}

TEST(Language, LearnsAndItsArenaDoesNotGrow) {
  const TextDataset text = alphabet(2000, 300);
  for (GPTStyle style : {GPTStyle::gpt2, GPTStyle::llama}) {
    for (NormKind norm : {NormKind::layernorm, NormKind::dyt}) {
      TrainOptions options = twenty_steps();
      Model model(tiny(norm, style), Device::cpu, DType::f32);
      const TrainResult few = train_language_model(model.gpt, model.parameters, text, options);
      options.steps = 300;
      Model again(tiny(norm, style), Device::cpu, DType::f32);
      const TrainResult many = train_language_model(again.gpt, again.parameters, text, options);
      EXPECT_EQ(few.curve.size(), 4u);
      EXPECT_LT(many.last().test_loss, 0.35) << name_of(norm);  // log 8 is 2.08, the entropy 0.07
      EXPECT_LT(many.last().test_loss, few.curve.front().test_loss);
      EXPECT_EQ(few.arena_bytes, many.arena_bytes);
      EXPECT_EQ(many.samples, 300 * 8 * 12);
    }
  }
}

// Forward, backward and update together: the kernels take the CPU's course.
TEST(LanguageKernels, TwentyStepsMatchTheCpu) {
  SKIP_WITHOUT_KERNELS();
  const TextDataset text = alphabet(500, 100);
  for (GPTStyle style : {GPTStyle::gpt2, GPTStyle::llama}) {
    Model cpu(tiny(NormKind::dyt, style), Device::cpu, DType::f32);
    Model gpu(tiny(NormKind::dyt, style), kernel_device, DType::f32);
    TrainOptions options = twenty_steps();
    options.evaluate_every = 10;
    const TrainResult a = train_language_model(cpu.gpt, cpu.parameters, text, options);
    const TrainResult b = train_language_model(gpu.gpt, gpu.parameters, text, options);
    ASSERT_EQ(a.curve.size(), b.curve.size());
    for (size_t i = 0; i < a.curve.size(); ++i) {
      EXPECT_NEAR(a.curve[i].test_loss, b.curve[i].test_loss, 1e-4 * a.curve[i].test_loss);
    }
  }
}

GPTConfig tiny_bert(NormKind norm) {
  GPTConfig config = tiny(norm);
  config.causal = false;
  config.vocabulary = 9;  // and the mask
  return config;
}

// The letter between two others is known but for the words with swapped letters.
TEST(MaskedLanguage, LearnsWhatIsHidden) {
  const TextDataset text = alphabet(4000, 600);
  TrainOptions options = twenty_steps();
  options.steps = 3000, options.evaluate_every = 200;  // it stays at 0.8 to 1 until about 1,200
  Model model(tiny_bert(NormKind::layernorm), Device::cpu, DType::f32);
  const TrainResult result = train_language_model(model.gpt, model.parameters, text, options);
  EXPECT_GT(result.curve.front().test_loss, 1.0);
  EXPECT_LT(result.last().test_loss, 0.35);  // log 8 is 2.08
  // The same places are hidden in every evaluation.
  Tape tape(Device::cpu, DType::f32);
  EXPECT_EQ(evaluate_language_model(model.gpt, tape, text.val, 0, 8), result.last().test_loss);
}

TEST(MaskedLanguageKernels, TenStepsMatchTheCpu) {
  SKIP_WITHOUT_KERNELS();
  const TextDataset text = alphabet(500, 100);
  Model cpu(tiny_bert(NormKind::dyt), Device::cpu, DType::f32);
  Model gpu(tiny_bert(NormKind::dyt), kernel_device, DType::f32);
  TrainOptions options = twenty_steps();
  options.steps = options.evaluate_every = 10;
  const double a = train_language_model(cpu.gpt, cpu.parameters, text, options).last().test_loss;
  const double b = train_language_model(gpu.gpt, gpu.parameters, text, options).last().test_loss;
  EXPECT_NEAR(a, b, 1e-4 * a);
}

// The last batch of an evaluation is smaller, and counts for less.
TEST(Language, TheLossDoesNotDependOnTheBatches) {
  const TextDataset text = alphabet(500, 150);
  for (const bool causal : {true, false}) {
    Model model(causal ? tiny(NormKind::layernorm) : tiny_bert(NormKind::layernorm), Device::cpu,
                DType::f32);
    Tape tape(Device::cpu, DType::f32);
    const auto loss = [&](int batch) {
      return evaluate_language_model(model.gpt, tape, text.val, 0, batch);
    };
    if (causal) {  // what is hidden depends on the batch
      EXPECT_NEAR(loss(5), loss(1), 1e-6);
      EXPECT_NEAR(loss(7), loss(1), 1e-6);
    }
    EXPECT_NEAR(loss(1), std::log(8), 0.5);
  }
}

// Nothing is dropped when a model is evaluated.
TEST(Language, EvaluatesWithoutDropout) {
  const TextDataset text = alphabet(500, 150);
  const auto loss = [&](float dropout) {
    GPTConfig config = tiny(NormKind::layernorm);
    config.dropout = dropout;
    Model model(config, Device::cpu, DType::f32);
    Tape tape(Device::cpu, DType::f32);
    const double l = evaluate_language_model(model.gpt, tape, text.val, 0, 5);
    EXPECT_TRUE(tape.training);
    return l;
  };
  EXPECT_EQ(loss(0.5f), loss(0));
}

// In an evaluation, too, every hidden token counts alike, whatever batch it is in: as if all
// windows were one batch.
TEST(MaskedLanguage, EveryHiddenTokenCountsAlike) {
  const TextDataset text = alphabet(500, 150);
  Model model(tiny_bert(NormKind::layernorm), Device::cpu, DType::f32);
  const std::vector<int64_t> begins = even_windows(150, 12, 0);
  const int64_t count = int64_t(begins.size());
  std::vector<int32_t> tokens(size_t(count) * 12), labels(tokens.size());
  fill_windows(text.val, begins, 12, tokens.data(), labels.data());
  for (size_t first = 0; first < begins.size(); first += 5) {
    RandomSequence random(0, uint64_t('M') << 56 | first);  // as documented in language.cpp
    const size_t n = std::min<size_t>(5, begins.size() - first) * 12;
    hide_tokens(std::span(tokens).subspan(first * 12, n), std::span(labels).subspan(first * 12, n),
                8, random);
  }
  Tape tape(Device::cpu, DType::f32);
  tape.begin(0);
  const Tensor loss = model.gpt.loss(tape, tape.upload({count, 12}, DType::i32, tokens.data()),
                                     tape.upload({count, 12}, DType::i32, labels.data()));
  const double expected = to_host(tape, loss)[0];
  EXPECT_NEAR(evaluate_language_model(model.gpt, tape, text.val, 0, 5), expected, 1e-6);
}

// A token sees those that follow it, and only what was hidden counts.
TEST(MaskedLanguage, SeesBothSides) {
  Model bert(tiny_bert(NormKind::layernorm), Device::cpu, DType::f32);
  Model gpt(tiny(NormKind::layernorm), Device::cpu, DType::f32);
  const auto first_logits = [](const Model& model, std::vector<int32_t> tokens) {
    Tape tape(Device::cpu, DType::f32);
    const Tensor t = tape.upload({1, int64_t(tokens.size())}, DType::i32, tokens.data());
    std::vector<double> logits = to_host(tape, model.gpt.logits(tape, t));
    logits.resize(size_t(model.gpt.config().vocabulary));
    return logits;
  };
  EXPECT_NE(first_logits(bert, {1, 2, 3}), first_logits(bert, {1, 2, 4}));
  EXPECT_EQ(first_logits(gpt, {1, 2, 3}), first_logits(gpt, {1, 2, 4}));

  const std::vector<double> logits = first_logits(bert, {8, 2, 3});
  double sum = 0;
  for (double l : logits) sum += std::exp(l);
  const std::vector<int32_t> tokens = {8, 2, 3}, labels = {1, -1, -1};
  Tape tape(Device::cpu, DType::f32);
  const Tensor loss = bert.gpt.loss(tape, tape.upload({1, 3}, DType::i32, tokens.data()),
                                    tape.upload({1, 3}, DType::i32, labels.data()));
  EXPECT_NEAR(to_host(tape, loss)[0], std::log(sum) - logits[1], 1e-5);
  tape.training = false;
  GPTCache cache(bert.gpt.config(), Device::cpu, DType::f32);
  const Tensor prompt = tape.upload({1, 3}, DType::i32, tokens.data());
  EXPECT_THROW(bert.gpt.next(tape, prompt, cache), Error);
}

// Same seed, same bits; another seed, another run.
TEST(Language, IsRepeatable) {
  const TextDataset text = alphabet(500, 100);
  const auto losses = [&](uint64_t seed) {
    GPTConfig config = tiny(NormKind::dyt);
    config.dropout = 0.1f;
    Model model(config, Device::cpu, DType::f32);
    TrainOptions options = twenty_steps();
    options.seed = seed;
    std::vector<double> v;
    for (const Evaluation& e :
         train_language_model(model.gpt, model.parameters, text, options).curve) {
      v.push_back(e.train_loss);
    }
    return v;
  };
  EXPECT_EQ(losses(1), losses(1));
  EXPECT_NE(losses(1), losses(2));
}

TEST(Language, ReportsDivergenceInsteadOfGoingOn) {
  Model model(tiny(NormKind::layernorm), Device::cpu, DType::f32);
  const std::vector<double> nan(32, std::nan(""));
  model.parameters.set_values(model.parameters.find("transformer.ln_f.bias"), nan);
  const TrainResult result =
      train_language_model(model.gpt, model.parameters, alphabet(500, 100), twenty_steps());
  EXPECT_TRUE(result.diverged());
  EXPECT_EQ(result.diverged_at, 0);
  EXPECT_TRUE(result.curve.empty());
}

TEST(Language, ShowsItsProgress) {
  Model model(tiny(NormKind::layernorm), Device::cpu, DType::f32);
  std::vector<Progress> seen;
  train_language_model(model.gpt, model.parameters, alphabet(500, 100), twenty_steps(),
                       [&](const Progress& p) { seen.push_back(p); });
  ASSERT_EQ(seen.size(), 20u);
  EXPECT_EQ(seen[0].step, 1);
  EXPECT_FALSE(seen[0].last);
  EXPECT_NEAR(seen[0].loss, std::log(8), 0.1);
  EXPECT_EQ(seen[19].step, 20);
  EXPECT_GT(seen[19].last.value().test_loss, 0);
  EXPECT_EQ(seen[19].seconds_left, 0);
}

TEST(Language, RefusesImpossibleOptionsAndTexts) {
  Model model(tiny(NormKind::layernorm), Device::cpu, DType::f32);
  const auto train = [&](const TextDataset& text, const TrainOptions& options) {
    return [&, text, options] { train_language_model(model.gpt, model.parameters, text, options); };
  };
  const TextDataset good = alphabet(500, 100);
  const auto changed = [](auto change) {
    TrainOptions options = twenty_steps();
    change(options);
    return options;
  };
  expect_error(train(good, changed([](auto& o) { o.steps = 0; })),
               {"steps must be positive, not 0"});
  expect_error(train(good, changed([](auto& o) { o.batch = -1; })), {"batch size", "-1"});
  expect_error(train(good, changed([](auto& o) { o.warmup = 20; })), {"warm-up (20 steps)"});
  expect_error(train(alphabet(500, 12), twenty_steps()), {"alphabet", "12", "at least 13"});
  TextDataset large = good;
  large.vocabulary = 9;
  expect_error(train(large, twenty_steps()), {"vocabulary of 9 words", "the 8 of the model"});
}

// --- Sampling ------------------------------------------------------------------------------------

TEST(Choose, FollowsTheProbabilities) {
  const std::vector<float> logits = {std::log(1.0f), std::log(6.0f), std::log(3.0f)};
  EXPECT_EQ(choose_token(logits, 1, 0, 0.05), 0);
  EXPECT_EQ(choose_token(logits, 1, 0, 0.15), 1);
  EXPECT_EQ(choose_token(logits, 1, 0, 0.65), 1);
  EXPECT_EQ(choose_token(logits, 1, 0, 0.75), 2);
  EXPECT_EQ(choose_token(logits, 1, 0, 0.9999), 2);
  // The two likeliest, in the order 1, 2: shares 2/3 and 1/3.
  EXPECT_EQ(choose_token(logits, 1, 2, 0.6), 1);
  EXPECT_EQ(choose_token(logits, 1, 2, 0.7), 2);
  // Temperature 1/2 squares the shares: 1, 36, 9 of 46.
  EXPECT_EQ(choose_token(logits, 0.5, 0, 0.02), 0);
  EXPECT_EQ(choose_token(logits, 0.5, 0, 0.03), 1);
  EXPECT_EQ(choose_token(logits, 0.5, 0, 0.79), 1);
  EXPECT_EQ(choose_token(logits, 0.5, 0, 0.81), 2);
  EXPECT_EQ(choose_token(logits, 0, 0, 0.999), 1);
  EXPECT_EQ(choose_token(logits, 1, 1, 0.999), 1);
  EXPECT_EQ(choose_token(std::vector<float>{5, 5}, 0, 0, 0.9), 0);  // of equals, the first
  const std::vector<float> bad = {0, std::nanf("")};
  expect_error([&] { choose_token(bad, 1, 0, 0.5); }, {"not finite"});
}

// Larger weights: a text with surprises.
void enlarge_weights(Model& model) {
  for (const Parameter& p : model.parameters.all()) {
    std::vector<double> values = model.parameters.values(p);
    for (double& v : values) v *= p.shape.rank() == 2 ? 8 : 1;
    model.parameters.set_values(p, values);
  }
}

// The same tokens with the cache and without, past the end of the context too.
void check_cache(Device device, int64_t tokens) {
  for (GPTStyle style : {GPTStyle::gpt2, GPTStyle::llama}) {
    GPTConfig config = tiny(NormKind::layernorm, style);
    Model model(config, device, DType::f32);
    enlarge_weights(model);
    const std::vector<int32_t> prompt = {1, 2, 3};
    SampleOptions options{.tokens = tokens, .temperature = 0.9, .top_k = 5, .seed = 4};
    std::vector<int32_t> shown;
    const auto with = generate(model.gpt, model.parameters, prompt, options,
                               [&](int32_t token) { shown.push_back(token); });
    options.cache = false;
    EXPECT_EQ(with, generate(model.gpt, model.parameters, prompt, options));
    EXPECT_EQ(with, shown);
    EXPECT_EQ(with.size(), size_t(tokens));
    options.seed = 5;
    EXPECT_NE(with, generate(model.gpt, model.parameters, prompt, options));
  }
}

TEST(Generate, WritesTheSameWithAndWithoutTheCache) { check_cache(Device::cpu, 40); }
TEST(GenerateKernels, WriteTheSameWithAndWithoutTheCache) {
  SKIP_WITHOUT_KERNELS();
  check_cache(kernel_device, 16);
}

// The likeliest tokens by direct forward passes over what should be visible: a text that has
// outgrown the context, of which only the last `kept` tokens are read again.
std::vector<int32_t> likeliest(const Model& model, std::vector<int32_t> visible, int64_t count,
                               size_t kept) {
  const GPTConfig& config = model.gpt.config();
  std::vector<int32_t> written;
  for (int64_t n = 0; n < count; ++n) {
    if (visible.size() > size_t(config.context)) {
      visible = {visible.end() - std::ptrdiff_t(kept), visible.end()};
    }
    Tape tape(Device::cpu, DType::f32);
    tape.training = false;
    const int64_t length = int64_t(visible.size());
    const std::vector<double> logits =
        to_host(tape, model.gpt.logits(tape, tape.upload({1, length}, DType::i32, visible.data())));
    const auto last = logits.end() - config.vocabulary;
    written.push_back(int32_t(std::max_element(last, logits.end()) - last));
    visible.push_back(written.back());
  }
  return written;
}

// A text that is a token longer than the context goes on from its later half: 6 of 13 tokens, and 6
// of 12. That many and no other: the text of each number is different.
TEST(Generate, ReadsTheLaterHalfOfAFullContextAgain) {
  for (const int context : {12, 11}) {
    GPTConfig config = tiny(NormKind::layernorm);
    config.vocabulary = 50, config.context = context, config.tied = false;
    Model model(config, Device::cpu, DType::f32);
    enlarge_weights(model);
    const std::vector<int32_t> prompt = {1, 2, 3};
    const auto written = generate(model.gpt, model.parameters, prompt,
                                  {.tokens = 60, .temperature = 0, .cache = false});
    for (size_t kept = 1; kept <= size_t(context); ++kept) {
      EXPECT_EQ(likeliest(model, prompt, 60, kept) == written, kept == 6)
          << kept << " of " << context + 1;
    }
    EXPECT_EQ(generate(model.gpt, model.parameters, prompt, {.tokens = 60, .temperature = 0}),
              written);
  }
}

TEST(Generate, WritesWhatItHasLearned) {
  Model model(tiny(NormKind::dyt), Device::cpu, DType::f32);
  TrainOptions options = twenty_steps();
  options.steps = 300;
  train_language_model(model.gpt, model.parameters, alphabet(2000, 300), options);
  const std::vector<int32_t> prompt = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1};
  const std::vector<int32_t> expected = {2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1};
  EXPECT_EQ(generate(model.gpt, model.parameters, prompt, {.tokens = 16, .temperature = 0}),
            expected);
}

TEST(Generate, TakesTheEndOfALongPrompt) {
  Model model(tiny(NormKind::layernorm), Device::cpu, DType::f32);
  std::vector<int32_t> prompt(30);
  for (size_t i = 0; i < 30; ++i) prompt[i] = int32_t(i % 7);
  const std::span<const int32_t> end = std::span<const int32_t>(prompt).last(12);
  EXPECT_EQ(generate(model.gpt, model.parameters, prompt, {.tokens = 9}),
            generate(model.gpt, model.parameters, end, {.tokens = 9}));
}

TEST(Generate, RefusesImpossibleOptions) {
  Model model(tiny(NormKind::layernorm), Device::cpu, DType::f32);
  const auto write = [&](std::vector<int32_t> prompt, SampleOptions options) {
    return [&, prompt, options] { generate(model.gpt, model.parameters, prompt, options); };
  };
  expect_error(write({}, {}), {"at least one token"});
  expect_error(write({8}, {}), {"8", "vocabulary has 8 words"});
  expect_error(write({1}, {.temperature = -1}), {"temperature", "-1"});
  expect_error(write({1}, {.top_k = -1}), {"top-k", "-1"});
}

}  // namespace
}  // namespace dyt::test
