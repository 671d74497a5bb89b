// Experiments about language models at their smallest: everything is in the report, and finite.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>

#include "core/error.h"
#include "experiments/alpha0_study.h"
#include "experiments/gpt_setting.h"
#include "experiments/initial_scale.h"
#include "experiments/translation_study.h"
#include "tests/datasets/temporary_folder.h"

namespace dyt {
namespace {

const Options smoke{.device = "cpu", .size = Size::smoke};

// What every report of these must have.
void expect_complete(const Report& report, size_t tables, size_t plots) {
  EXPECT_EQ(report.tables.size(), tables);
  ASSERT_EQ(report.plots.size(), plots);
  EXPECT_FALSE(report.verdict.rule.empty());
  EXPECT_FALSE(report.verdict.because.empty());
  EXPECT_FALSE(report.paper.empty());
  EXPECT_FALSE(report.ours.empty());
  EXPECT_FALSE(report.settings.empty());
  EXPECT_FALSE(report.curves.empty());
  for (const Table& table : report.tables) {
    EXPECT_FALSE(table.rows.empty()) << table.title;
    for (const auto& row : table.rows) {
      EXPECT_EQ(row.size(), table.header.size()) << table.title;
      for (const std::string& cell : row) {
        EXPECT_EQ(cell.find("not finite"), cell.npos) << table.title << ": " << cell;
      }
    }
  }
  for (const Plot& plot : report.plots) {
    EXPECT_FALSE(plot.series.empty()) << plot.name;
    EXPECT_FALSE(plot.x_label.empty()) << plot.name;
    EXPECT_FALSE(plot.y_label.empty()) << plot.name;
    EXPECT_NO_THROW(render_text(plot)) << plot.name;
  }
  EXPECT_NO_THROW(to_json(report));
}

TEST(Experiment05, Smoke) {
  const Report report = run_experiment(find_experiment(5), smoke, "cpu");
  expect_complete(report, 6, 2);
  EXPECT_EQ(report.curves.size(), 5u * 2u * 2u * 2u * 2u);  // models, rates, seeds, looks, metrics
}

TEST(Experiment05, ReadsATextFromAFile) {
  const TemporaryFolder folder;
  std::ofstream out(folder.path("text.txt"));
  for (int i = 0; i < 2000; ++i) out << "line " << i << " of a text\n";
  out.close();
  Options options = smoke;
  options.text = "text:" + folder.path("text.txt");
  options.seeds = 1;
  const Report report = run_05_gpt(options);
  expect_complete(report, 6, 2);
  EXPECT_TRUE(report.plots[0].horizontal.empty());  // its entropy isn't known
  EXPECT_EQ(report.verdict.outcome, Outcome::inconclusive);
}

TEST(Experiment06, Smoke) {
  const Report report = run_experiment(find_experiment(6), smoke, "cpu");
  expect_complete(report, 4, 2);
  EXPECT_EQ(report.curves.size(), 3u * (1 + 7 * 2 + 8 * 2));
  // What the notes say of the traffic: fused 2 tensors, unfused RMSNorm 7 and DyT 6.
  const Table& layers = report.tables[1];
  const auto moved = [&](size_t row) { return layers.rows[row][2]; };
  EXPECT_EQ(moved(1), fixed(7 * 256 * 64 * 4 * 1e-6, 0));
  EXPECT_EQ(moved(3), fixed(6 * 256 * 64 * 4 * 1e-6, 0));
}

TEST(Experiment06, DoesNotTimeTheEmulator) {
  if (kernel_device != Device::emulated) GTEST_SKIP() << "this build has no emulator";
  Options options = smoke;
  options.device = "emulated";
  const Report report = run_06_norm_cost(options);
  EXPECT_EQ(report.verdict.outcome, Outcome::inconclusive);
  EXPECT_NE(report.verdict.because.find("not timed"), std::string::npos);
}

TEST(Experiment11, Smoke) {
  const Report report = run_experiment(find_experiment(11), smoke, "cpu");
  EXPECT_EQ(report.tables.size(), 4u);
  // RMSNorm and seven alpha0 for each of three widths and a depth, six more of each of three grids,
  // and three predictions; seeds, looks, metrics.
  EXPECT_EQ(report.curves.size(), (4u * 8u + 3u * 6u + 3u) * 2u * 2u * 2u);
}

// Losses that are a parabola in log2 alpha0, of which the sweep has 0.5, 1, 2 ... 32; at its ends;
// and what a law of power -1/2 lets one expect of another width.
TEST(Experiment11, FindsAndTransfersTheBestAlpha0) {
  const auto parabola = [](double at) {
    std::vector<double> losses;
    for (double log = -1; log <= 5; ++log) losses.push_back(1 + 0.1 * (log - at) * (log - at));
    return losses;
  };
  EXPECT_NEAR(best_log_alpha0(parabola(2.3)), 2.3, 1e-12);
  EXPECT_NEAR(best_log_alpha0(parabola(-7)), -1, 1e-12);
  EXPECT_NEAR(best_log_alpha0(parabola(9)), 5, 1e-12);
  const auto sweep = [](int width, double best, double scale) {
    Sweep s{.width = width, .depth = 2};
    s.best_log = {std::log2(best) - 0.5, std::log2(best) + 0.5};
    s.scale = scale;
    return s;
  };
  const Predictions p =
      predict_alpha0({sweep(64, 8, 0.2), sweep(256, 4, 0.4)}, sweep(1024, 77, 0.8));
  EXPECT_NEAR(p.c, 1.6, 1e-12);
  EXPECT_NEAR(p.power, 0.5, 1e-12);
  EXPECT_NEAR(p.by_std, 2, 1e-12);
  EXPECT_NEAR(p.by_power, 2, 1e-12);
}

// Theory and measurement, where theory should hold: a stream of the embeddings alone in a narrow
// model (0.02 sqrt(width)), and branches that matter in a wider one.
TEST(InitialScale, TheoryAgreesWithMeasurement) {
  const TextDataset text = load_text("grammar:20000");
  for (const auto& [width, depth] : {std::pair{64, 2}, std::pair{512, 3}}) {
    GPTConfig config = gpt_preset("llama_char");
    config.width = width, config.depth = depth, config.heads = width / 32, config.hidden = 0;
    config.context = 64, config.tied = false;
    config.norm = {.kind = NormKind::dyt, .calibrate = 1};
    const std::vector<SiteScale> measured = measured_scales(config, text, 1, 2);
    const std::vector<double> predicted =
        predicted_scales(width, depth, config.hidden_width(), config.context, 1);
    ASSERT_EQ(measured.size(), predicted.size());
    EXPECT_NEAR(predicted[0], 0.02 * std::sqrt(double(width)), 1e-12);
    for (size_t i = 0; i < measured.size(); ++i) {
      EXPECT_NEAR(measured[i].std / predicted[i], 1, 0.1) << width << " " << measured[i].site;
      EXPECT_NEAR(measured[i].std * measured[i].alpha, 1, 1e-5);
    }
  }
  EXPECT_NEAR(rms_of_tanh(1), 0.6278, 1e-3);
  EXPECT_NEAR(rms_of_silu(1e-3), 0.5e-3, 1e-6);  // silu(z) is about z / 2
  EXPECT_THROW(predicted_scales(64, 0, 192, 64, 1), Error);
}

TEST(Experiment14, Smoke) {
  const Report report = run_experiment(find_experiment(14), smoke, "cpu");
  expect_complete(report, 2, 2);
  EXPECT_EQ(report.curves.size(), 4u * 3u * 3u);  // arms, depths, seeds
  for (const CurvePoint& p : report.curves) EXPECT_GT(p.value, 0);
}

// The logarithm of what experiment 14 measures at its smallest: the norm of the gradient of the
// last feed-forward layer's second matrix. The initial values have the variance of Glorot and
// Bengio (2010), 2 / (in + out), and those of the two embeddings 1/2, but another generator draws
// them.
double log_gradient_norm(const GPTConfig& config, const TextDataset& text, int64_t seed) {
  Parameters parameters;
  const GPT model(config, parameters);
  parameters.allocate(Device::cpu, DType::f32, uint64_t(seed));
  std::mt19937_64 random(static_cast<uint64_t>(seed));
  for (const Parameter& p : parameters.all()) {
    if (p.shape.rank() != 2) continue;
    const bool embedding = p.name == "transformer.wte.weight" || p.name == "transformer.wpe.weight";
    std::normal_distribution<double> normal(
        0, std::sqrt(embedding ? 0.5 : 2.0 / double(p.shape[0] + p.shape[1])));
    std::vector<double> values(size_t(p.size()));
    for (double& v : values) v = normal(random);
    parameters.set_values(p, values);
  }
  std::vector<int32_t> tokens(2 * 16), labels(2 * 16);
  fill_windows(text.train, random_windows(int64_t(text.train.size()), 16, 2, uint64_t(seed), 0), 16,
               tokens.data(), labels.data());
  Tape tape(Device::cpu, DType::f32);
  tape.begin(0);
  parameters.zero_gradients();
  tape.backward(model.loss(tape, tape.upload({2, 16}, DType::i32, tokens.data()),
                           tape.upload({2, 16}, DType::i32, labels.data())));
  double squares = 0;
  for (const double g : parameters.gradient(parameters.find(
           "transformer.h." + std::to_string(config.depth - 1) + ".mlp.c_proj.weight"))) {
    squares += g * g;
  }
  return std::log(squares) / 2;
}

// One seed's logarithm scatters by 0.07 to 0.14. Half or twice the variance of the matrices is 0.25
// and more in every arm, of the embeddings 0.15 and more in Pre-LN's.
TEST(Experiment14, StartsFromXaviersValues) {
  Options options = smoke;
  options.seeds = 40;
  const Report report = run_14_gradients_at_init(options);
  const TextDataset text = load_text(options.text);
  for (const std::string arm : {"Post-LN", "Pre-LN", "Post-DyT", "Pre-DyT"}) {
    for (const int depth : {2, 4}) {
      GPTConfig config{.vocabulary = text.vocabulary, .context = 16, .width = 32, .depth = depth};
      config.heads = 2, config.tied = false;
      if (arm.ends_with("DyT")) config.norm.kind = NormKind::dyt, config.norm.alpha0 = 1;
      config.norm.placement = arm.starts_with("Post") ? Placement::post : Placement::pre;
      config.embedding_scale = false;
      std::vector<double> ours, expected;
      for (int64_t seed = 1; seed <= options.seeds; ++seed) {
        expected.push_back(log_gradient_norm(config, text, seed));
      }
      for (const CurvePoint& p : report.curves) {
        if (p.arm == arm && p.step == depth) ours.push_back(std::log(p.value));
      }
      ASSERT_EQ(ours.size(), expected.size());
      EXPECT_NEAR(mean(ours), mean(expected), 0.1) << arm << ", depth " << depth;
    }
  }
}

TEST(Experiment15, Smoke) {
  const Report report = run_experiment(find_experiment(15), smoke, "cpu");
  expect_complete(report, 4, 6);
  EXPECT_EQ(report.curves.size(), 2u * 2u * 2u * 4u * 24u);  // looks, metrics, seeds, grids, arms
}

TEST(Experiment24, Smoke) {
  const Report report = run_experiment(find_experiment(24), smoke, "cpu");
  expect_complete(report, 2, 2);
  EXPECT_EQ(report.curves.size(), 2u * 2u * 2u * 6u);  // looks, metrics, seeds, arms
}

TEST(Experiment24, TranslatesFiles) {
  const TemporaryFolder folder;
  std::ofstream a(folder.path("a.txt")), b(folder.path("b.txt"));
  for (int i = 0; i < 80; ++i) {
    a << "line " << i << " of a text\n";
    b << i << " is its number\n";
  }
  a.close(), b.close();
  Options options = smoke;
  options.parallel = "parallel:" + folder.path("a.txt") + "," + folder.path("b.txt");
  options.seeds = 1;
  const Report report = run_24_translation(options);
  expect_complete(report, 2, 2);
  for (const auto& [name, value] : report.settings) {
    if (name != "translation") continue;
    EXPECT_EQ(value.find("a.txt to b.txt: 72 training, 4 validation"), 0u) << value;
  }
}

TEST(TranslationStudy, ADivergedRunCountsAsGuessingAndHasNoBleu) {
  TranslationSetting setting =
      small_translation({.device = "cpu", .size = Size::smoke, .seeds = 1});
  setting.train.diverged_above = 1e-3;
  const std::vector<RunRecord> runs = run_translation({.number = 42, .options = {.device = "cpu"}},
                                                      {{"LN", setting.model}}, setting);
  EXPECT_EQ(losses_of(runs, "LN", setting.task.words.vocabulary()),
            std::vector<double>{std::log(double(setting.task.words.vocabulary()))});
  EXPECT_EQ(numbers_of(runs, "LN", "bleu"), std::vector<double>{0});
  EXPECT_TRUE(plot_of_translation(runs, {"LN"}, setting, "loss").empty());
}

TEST(Experiment17, Smoke) {
  const Report report = run_experiment(find_experiment(17), smoke, "cpu");
  expect_complete(report, 1, 3);
  ASSERT_EQ(report.tables[0].rows.size(), 3u + 2u);  // lengths of text, and the paper's
  for (const CurvePoint& p : report.curves) EXPECT_TRUE(std::isfinite(p.value));
}

TEST(Experiment25, Smoke) {
  const Report report = run_experiment(find_experiment(25), smoke, "cpu");
  expect_complete(report, 2, 2);
  // looks, metrics, seeds; models, warm-ups, learning rates
  EXPECT_EQ(report.curves.size(), 2u * 2u * 2u * (3u * 2u * 2u));
}

TEST(TextSpecs, AreToldFromImages) {
  for (const char* parallel : {"sagas", "sagas:50", "multi30k:a:de-en", "parallel:a,b"}) {
    EXPECT_TRUE(names_parallel(parallel) && !names_text(parallel)) << parallel;
  }
  for (const char* text : {"grammar", "grammar:5", "text:a", "tokens:a,b"}) {
    EXPECT_TRUE(names_text(text) && !names_parallel(text)) << text;
  }
  for (const char* images : {"synthetic", "cifar10:grammar", "folder:text:a", ""}) {
    EXPECT_FALSE(names_text(images) || names_parallel(images)) << images;
  }
}

TEST(LanguageStudy, ADivergedRunCountsAsGuessing) {
  const TextDataset text = load_text("grammar:20000");
  const GPTConfig config{.context = 16, .width = 16, .depth = 1, .heads = 1};
  TrainOptions train{.steps = 4, .batch = 4, .evaluate_every = 2};
  train.diverged_above = 1e-3;
  const std::vector<RunRecord> runs = run_language_models(
      {.number = 42, .options = {.device = "cpu"}}, {{"LN", config}}, 1, text, train);
  EXPECT_EQ(losses_of(runs, "LN", text), std::vector<double>{std::log(256.0)});
  EXPECT_TRUE(plot_of_losses(runs, {"LN"}, text, train, "loss").empty());
}

}  // namespace
}  // namespace dyt
