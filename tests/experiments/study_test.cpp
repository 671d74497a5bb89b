#include "experiments/study.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <set>

#include "core/error.h"
#include "experiments/classifier_study.h"
#include "experiments/language_study.h"
#include "tests/datasets/temporary_folder.h"

namespace dyt {
namespace {

namespace fs = std::filesystem;

// A run whose numbers need all their bits, and that counts how often it is done.
struct FakeRuns {
  int done = 0;
  int fails_at = -1;  // the run, counted from 0, that throws
  RunBody body() {
    return [this](size_t arm, int64_t seed, const ShowRun& show) {
      show(1, 2, "loss 1");
      if (done == fails_at) throw std::runtime_error("the power went off");
      ++done;
      RunRecord run;
      run.numbers["loss"] = std::sqrt(double(seed)) / 3 + double(arm) * 1e-17;
      run.numbers["nothing"] = std::nan("");
      run.curve.push_back({.step = 7, .metric = "loss", .value = std::exp(-double(seed)) * 1e-300});
      run.lists.emplace_back("z",
                             std::vector<double>{0.1, -std::numeric_limits<double>::infinity()});
      run.lists.emplace_back("a", std::vector<double>{1.0 / 3});
      run.parameters = 5, run.samples = 6, run.seconds = 0.1;
      run.diverged_at = arm == 1 ? 3 : -1;
      show(2, 2, "loss 1");
      return run;
    };
  }
};

const std::vector<StudyArm> two_arms = {{"LN", "width 1"}, {"DyT, alpha 0.5", "width 1"}};

Study study_in(const TemporaryFolder& folder, int number = 42) {
  return {.number = number,
          .options = {.device = "cpu", .out = folder.path("out")},
          .settings = "steps 10"};
}

bool same_bits(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }

void expect_same(const std::vector<RunRecord>& a, const std::vector<RunRecord>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].arm, b[i].arm);
    EXPECT_EQ(a[i].seed, b[i].seed);
    EXPECT_EQ(a[i].diverged_at, b[i].diverged_at);
    EXPECT_TRUE(same_bits(a[i].number("loss"), b[i].number("loss")));
    EXPECT_TRUE(std::isnan(b[i].number("nothing")));
    ASSERT_EQ(b[i].curve.size(), 1u);
    EXPECT_EQ(b[i].curve[0].arm, a[i].arm);
    EXPECT_EQ(b[i].curve[0].seed, a[i].seed);
    EXPECT_TRUE(same_bits(a[i].curve[0].value, b[i].curve[0].value));
    EXPECT_EQ(a[i].lists, b[i].lists);
    EXPECT_EQ(a[i].parameters, b[i].parameters);
    EXPECT_EQ(a[i].samples, b[i].samples);
    EXPECT_EQ(a[i].seconds, b[i].seconds);
    EXPECT_EQ(a[i].commit, b[i].commit);
  }
}

std::vector<fs::path> records(const TemporaryFolder& folder, const char* number = "42") {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder.path("out") + "/" + number + "/runs")) {
    found.push_back(entry.path());
  }
  return found;
}

TEST(Study, AnInterruptedOneGoesOnWithTheSameNumbers) {
  const TemporaryFolder whole, broken;
  FakeRuns all, some, rest;
  const std::vector<RunRecord> expected = run_study(study_in(whole), two_arms, 3, all.body());
  EXPECT_EQ(all.done, 6);
  EXPECT_EQ(records(whole).size(), 6u);
  some.fails_at = 3;
  EXPECT_THROW(run_study(study_in(broken), two_arms, 3, some.body()), std::runtime_error);
  EXPECT_EQ(records(broken).size(), 3u);  // and no half of a fourth
  expect_same(expected, run_study(study_in(broken), two_arms, 3, rest.body()));
  EXPECT_EQ(rest.done, 3);
  FakeRuns none;
  expect_same(expected, run_study(study_in(broken), two_arms, 3, none.body()));
  EXPECT_EQ(none.done, 0);
}

TEST(Study, MoreSeedsAddToThoseThere) {
  const TemporaryFolder folder;
  FakeRuns first, more;
  run_study(study_in(folder), two_arms, 2, first.body());
  EXPECT_EQ(run_study(study_in(folder), two_arms, 3, more.body()).size(), 6u);
  EXPECT_EQ(more.done, 2);
}

TEST(Study, FreshSeedsAreThoseOfALongerStudy) {
  const auto runs_from = [](int first, int seeds) {
    Study study{.number = 42, .options = {.device = "cpu"}};
    study.options.first_seed = first;
    return run_study(study, {{"arm", "", 1}}, seeds, [](size_t, int64_t seed, const ShowRun&) {
      RunRecord run;
      run.numbers["seed"] = double(seed);
      return run;
    });
  };
  EXPECT_EQ(numbers_of(runs_from(1, 5), "arm", "seed"), (std::vector<double>{1, 2, 3, 4, 5}));
  EXPECT_EQ(numbers_of(runs_from(4, 2), "arm", "seed"), (std::vector<double>{4, 5}));
}

TEST(Study, OtherSettingsAreOtherRuns) {
  const TemporaryFolder folder;
  const auto runs_done = [&](const Study& study, const std::vector<StudyArm>& arms) {
    FakeRuns runs;
    run_study(study, arms, 1, runs.body());
    return runs.done;
  };
  const Study study = study_in(folder);
  EXPECT_EQ(runs_done(study, two_arms), 2);
  Study longer = study;
  longer.settings = "steps 11";
  EXPECT_EQ(runs_done(longer, two_arms), 2);
  std::vector<StudyArm> wider = two_arms;
  wider[1].settings = "width 2";
  EXPECT_EQ(runs_done(study, wider), 1);  // the other arm is as it was
  EXPECT_EQ(runs_done(study_in(folder, 43), two_arms), 2);
  EXPECT_EQ(runs_done(study, two_arms), 0);  // nothing was overwritten
  EXPECT_EQ(runs_done(longer, two_arms), 0);
}

TEST(Study, ForceForgetsTheRunsOfThatExperimentOnly) {
  const TemporaryFolder folder;
  FakeRuns first, second, third;
  run_study(study_in(folder, 42), two_arms, 1, first.body());
  run_study(study_in(folder, 43), two_arms, 1, first.body());
  forget_runs(study_in(folder).options, 42);
  run_study(study_in(folder, 42), two_arms, 1, second.body());
  EXPECT_EQ(second.done, 2);
  run_study(study_in(folder, 43), two_arms, 1, third.body());
  EXPECT_EQ(third.done, 0);
}

TEST(Study, ABrokenRecordIsDoneAgainWithAWarning) {
  const TemporaryFolder folder;
  FakeRuns first, again;
  const std::vector<RunRecord> expected = run_study(study_in(folder), two_arms, 2, first.body());
  const std::vector<fs::path> paths = records(folder);
  fs::resize_file(paths[0], fs::file_size(paths[0]) / 2);
  std::ofstream(paths[1]) << "{}";
  testing::internal::CaptureStderr();
  expect_same(expected, run_study(study_in(folder), two_arms, 2, again.body()));
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(again.done, 2);
  EXPECT_NE(said.find("warning: "), said.npos) << said;
  EXPECT_NE(said.find(paths[0].filename().string()), said.npos) << said;
  EXPECT_NE(said.find(paths[1].filename().string()), said.npos) << said;
}

// A record whose name is right and whose settings are not (a collision, a copied file) is not
// taken.
TEST(Study, ARecordOfOtherSettingsIsNotTaken) {
  const TemporaryFolder folder;
  FakeRuns first, again;
  run_study(study_in(folder), {two_arms[0]}, 1, first.body());
  const fs::path path = records(folder).at(0);
  std::string settings;
  RunRecord run = run_from_json(read_file(path), settings);
  EXPECT_NE(settings.find("steps 10"), settings.npos);
  EXPECT_NE(settings.find("width 1"), settings.npos);
  run.numbers["loss"] = -1;
  write_file(path, to_json(run, settings + " or so"));
  EXPECT_GT(run_study(study_in(folder), {two_arms[0]}, 1, again.body())[0].number("loss"), 0);
  EXPECT_EQ(again.done, 1);
}

TEST(Study, ARecordOfAnotherRunIsNotTaken) {
  const TemporaryFolder folder;
  FakeRuns first, again;
  run_study(study_in(folder), two_arms, 1, first.body());
  std::string settings;
  for (const fs::path& path : records(folder)) {
    RunRecord run = run_from_json(read_file(path), settings);
    run.arm == "LN" ? run.seed = 7 : run.arm[0] = '?';
    write_file(path, to_json(run, settings));
  }
  testing::internal::CaptureStderr();
  run_study(study_in(folder), two_arms, 1, again.body());
  EXPECT_NE(testing::internal::GetCapturedStderr().find("it is of LN, seed 7"), std::string::npos);
  EXPECT_EQ(again.done, 2);
}

TEST(Study, ListsOfOneArmAreEquallyLong) {
  std::vector<RunRecord> runs(2);
  runs[0].lists = {{"alpha", {1, 2}}}, runs[1].lists = {{"alpha", {3, 6}}};
  EXPECT_EQ(mean_of_lists(runs, "", "alpha")->y, (std::vector<double>{2, 4}));
  runs[1].lists = {{"alpha", {3, 4, 5}}};
  EXPECT_THROW(mean_of_lists(runs, "", "alpha"), Error);
}

TEST(Study, KeepsNothingWithoutAFolder) {
  FakeRuns first, again;
  const Study study{.number = 42, .options = {.device = "cpu"}};
  run_study(study, two_arms, 1, first.body());
  run_study(study, two_arms, 1, again.body());
  EXPECT_EQ(again.done, 2);
}

TEST(Study, ResultsAndReport) {
  const TemporaryFolder folder;
  FakeRuns fake;
  const std::string dyt = two_arms[1].name;
  std::vector<RunRecord> runs = run_study(study_in(folder), two_arms, 3, fake.body());
  EXPECT_EQ(numbers_of(runs, "LN", "loss").size(), 3u);
  EXPECT_EQ(numbers_of(runs, "LN", "loss")[1], runs[2].number("loss"));
  EXPECT_FALSE(any_diverged(runs, "LN"));
  EXPECT_TRUE(any_diverged(runs, dyt));
  EXPECT_THROW(numbers_of(runs, "RMS", "loss"), Error);
  EXPECT_THROW(runs[0].number("gain"), Error);
  EXPECT_THROW(runs[0].list("gain"), Error);
  EXPECT_THROW(run_study(study_in(folder), {two_arms[0], two_arms[0]}, 1, fake.body()), Error);

  const Table table = table_of_seeds(runs, "Loss", "loss");
  EXPECT_EQ(table.header, (std::vector<std::string>{"seed", "LN", dyt}));
  ASSERT_EQ(table.rows.size(), 3u);
  EXPECT_EQ(table.rows[1], (std::vector<std::string>{"2", "0.47", "diverged at step 3"}));

  Report report;
  add_runs(report, study_in(folder), runs);
  EXPECT_EQ(report.curves.size(), 6u);
  EXPECT_NEAR(report.seconds, 0.6, 1e-9);
  EXPECT_TRUE(report.notes.empty());
  runs[0].commit = "0123456789";
  Report mixed;
  add_runs(mixed, study_in(folder), runs);
  ASSERT_EQ(mixed.notes.size(), 1u);
  EXPECT_NE(mixed.notes[0].find("0123456789"), std::string::npos);
  EXPECT_NE(mixed.notes[0].find(build_commit()), std::string::npos);
}

// --- With real training --------------------------------------------------------------------------

const ViTConfig tiny_vit{.width = 16, .depth = 1, .heads = 1};
const TrainOptions short_training{.steps = 4, .batch = 8, .lr = 1e-3, .evaluate_every = 2};

TEST(ClassifierStudy, GivesTheNumbersOfDirectTraining) {
  const ImageSplits data = load_images("synthetic", 32, 20);
  const Study study{.number = 42, .options = {.device = "cpu"}};
  const std::vector<RunRecord> runs =
      run_classifiers(study, {classifier_arm<ViT>("LN", tiny_vit)}, 2, data, short_training);
  Parameters parameters;
  const ViT model(tiny_vit, parameters);
  parameters.allocate(Device::cpu, DType::f32, 2);
  TrainOptions options = short_training;
  options.seed = 2;
  const TrainResult result = train_classifier(
      [&](Tape& tape, const Tensor& images) { return model.forward(tape, images); }, parameters,
      data, options);
  EXPECT_EQ(runs[1].number("test loss"), result.last().test_loss);
  EXPECT_EQ(runs[1].number("test accuracy"), result.last().test_accuracy);
  ASSERT_EQ(runs[1].curve.size(), 6u);
  EXPECT_EQ(runs[1].curve[0].value, result.curve[0].train_loss);
  EXPECT_EQ(runs[1].parameters, parameters.count());
  EXPECT_NE(runs[0].number("test loss"), runs[1].number("test loss"));
}

TEST(ClassifierStudy, ADivergedRunCountsAsGuessing) {
  const ImageSplits data = load_images("synthetic", 32, 20);
  TrainOptions train = short_training;
  train.diverged_above = 1e-3;  // the first loss is above this
  int looks = 0;
  Look look{.every = 1, .at = [&](int64_t, auto&, auto&, RunRecord&) { ++looks; }};
  const std::vector<RunRecord> runs =
      run_classifiers({.number = 42, .options = {.device = "cpu"}},
                      {classifier_arm<ViT>("LN", tiny_vit)}, 1, data, train, look);
  EXPECT_EQ(runs[0].diverged_at, 0);
  EXPECT_EQ(accuracies_of(runs, "LN"), std::vector<double>{0.1});
  EXPECT_TRUE(std::isnan(runs[0].number("test loss")));
  EXPECT_EQ(looks, 1);  // before the first step
  EXPECT_TRUE(plots_of_training(runs, train, "LN").empty());
  const Table table = table_of_accuracies(runs, {"LN"}, "LN");
  EXPECT_EQ(table.rows[0].back(), "1 of 1");
}

TEST(ClassifierStudy, LooksInsideWithoutChangingTheRun) {
  const ImageSplits data = load_images("synthetic", 32, 20);
  const Study study{.number = 42, .options = {.device = "cpu"}};
  const std::vector<ClassifierArm> arms = {classifier_arm<ViT>("LN", tiny_vit)};
  const auto plain = run_classifiers(study, arms, 1, data, short_training);
  std::vector<int64_t> steps;
  const Look look{.every = 3, .at = [&](int64_t step, auto&, auto&, RunRecord& run) {
                    steps.push_back(step);
                    run.numbers["seen"] = double(step);
                  }};
  const auto seen = run_classifiers(study, arms, 1, data, short_training, look);
  EXPECT_EQ(steps, (std::vector<int64_t>{0, 3, 4}));
  EXPECT_EQ(seen[0].number("seen"), 4);
  EXPECT_EQ(seen[0].number("test loss"), plain[0].number("test loss"));
}

// By the whole interval, and only of models that have learned something.
TEST(ClassifierStudy, AsGoodAsLayerNorm) {
  const auto outcome = [](std::vector<double> dyt, std::vector<double> ln) {
    return judge_as_good(dyt, ln, 0.1).outcome;
  };
  EXPECT_EQ(outcome({0.600, 0.602, 0.601}, {0.600, 0.600, 0.600}), Outcome::reproduced);
  EXPECT_EQ(outcome({0.60, 0.64, 0.59}, {0.60, 0.60, 0.60}), Outcome::inconclusive);  // scatters
  EXPECT_EQ(outcome({0.580, 0.581, 0.582}, {0.600, 0.600, 0.600}), Outcome::not_reproduced);
  EXPECT_EQ(outcome({0.101, 0.100, 0.101}, {0.100, 0.100, 0.100}), Outcome::inconclusive);
  EXPECT_EQ(outcome({0.6}, {0.6}), Outcome::inconclusive);
}

// The learning rate of an arm is the whole schedule's.
TEST(ClassifierStudy, AnArmMayHaveAnotherLearningRate) {
  const ImageSplits data = load_images("synthetic", 32, 20);
  const Study study{.number = 42, .options = {.device = "cpu"}};
  ClassifierArm arm = classifier_arm<ViT>("twice", tiny_vit);
  arm.lr = 2e-3;
  TrainOptions train = short_training;
  const auto by_arm = run_classifiers(study, {arm}, 1, data, train);
  arm.lr = 0;
  train.lr *= 2, train.lr_floor *= 2;
  const auto by_study = run_classifiers(study, {arm}, 1, data, train);
  EXPECT_EQ(by_arm[0].number("test loss"), by_study[0].number("test loss"));
}

TEST(LanguageStudy, GivesTheNumbersOfDirectTraining) {
  const TextDataset text = load_text("grammar:20000");
  const GPTConfig config{.context = 16, .width = 16, .depth = 1, .heads = 1};
  const TrainOptions train{.steps = 4, .batch = 4, .warmup = 1, .evaluate_every = 2};
  const std::vector<RunRecord> runs = run_language_models(
      {.number = 42, .options = {.device = "cpu"}}, {{"LN", config}}, 2, text, train);
  Parameters parameters;
  const GPT model(config, parameters);
  parameters.allocate(Device::cpu, DType::f32, 2);
  TrainOptions options = train;
  options.seed = 2;
  const TrainResult result = train_language_model(model, parameters, text, options);
  EXPECT_EQ(runs[1].number("val loss"), result.last().test_loss);
  EXPECT_EQ(runs[1].curve.size(), 4u);
}

TEST(RunSettings, NameWhatARunDependsOn) {
  ViTConfig vit = tiny_vit;
  const std::string before = settings_of(vit);
  vit.norm.learn_alpha = false;
  EXPECT_NE(settings_of(vit), before);
  TrainOptions train = short_training;
  train.seed = 77;  // is the run's
  EXPECT_EQ(settings_of(train), settings_of(short_training));
  std::set<std::string> all = {settings_of(train)};
  const auto changes = {+[](TrainOptions& o) { o.steps = 5; },
                        +[](TrainOptions& o) { o.accumulate = 2; },
                        +[](TrainOptions& o) { o.lr_floor = 0; },
                        +[](TrainOptions& o) { o.warmup = 1; },
                        +[](TrainOptions& o) { o.inverse_sqrt_from = 1; },
                        +[](TrainOptions& o) { o.adamw.beta2 = 0.95f; },
                        +[](TrainOptions& o) { o.adamw.epsilon = 1e-6f; },
                        +[](TrainOptions& o) { o.adamw.weight_decay = 0.5f; },
                        +[](TrainOptions& o) { o.adamw.max_norm = 2; },
                        +[](TrainOptions& o) { o.sgd = SgdOptions{}; },
                        +[](TrainOptions& o) { o.sgd = SgdOptions{.momentum = 0.5f}; },
                        +[](TrainOptions& o) { o.label_smoothing = 0.5f; },
                        +[](TrainOptions& o) { o.augment->erase = 0.5f; },
                        +[](TrainOptions& o) { o.mix.cutmix = 0.5f; },
                        +[](TrainOptions& o) { o.ema_decay = 0.5; },
                        +[](TrainOptions& o) { o.diverged_above = 9; }};
  for (const auto change : changes) {
    TrainOptions changed = train;
    change(changed);
    all.insert(settings_of(changed));
  }
  EXPECT_EQ(all.size(), 1 + changes.size());
  ImageSplits data = load_images("synthetic", 32, 20);
  const std::string of_data = settings_of(data);
  data.test.images.back() ^= 1;
  EXPECT_NE(settings_of(data), of_data);
}

TEST(LanguageStudy, LossOfFrequencies) {
  const TextDataset text{.name = "", .vocabulary = 4, .train = {0, 0, 0, 1}, .val = {0, 1, 3}};
  // Seen 3, 1, 0, 0 times, and each once more: 4, 2, 1, 1 of 8.
  EXPECT_NEAR(loss_of_frequencies(text), (std::log(2) + std::log(4) + std::log(8)) / 3, 1e-12);
}

TEST(LanguageStudy, TheLowestLossIsTheCurvesAndNotTheLast) {
  const auto run = [](int64_t seed, std::vector<CurvePoint> curve) {
    RunRecord record;
    record.arm = "LN", record.seed = seed, record.curve = std::move(curve);
    record.numbers["val loss"] = record.curve.back().value;
    return record;
  };
  const std::vector<RunRecord> runs = {
      run(1, {{.step = 5, .metric = "val loss", .value = 3},
              {.step = 10, .metric = "val loss", .value = 1.25},
              {.step = 10, .metric = "train loss", .value = 1},
              {.step = 15, .metric = "val loss", .value = 2}}),
      run(2, {{.step = 5, .metric = "train loss", .value = 3}}),  // diverged before its first look
      run(3, {{.step = 5, .metric = "val loss", .value = 9}})};
  // Guessing, where it is better.
  EXPECT_EQ(lowest_losses_of(runs, "LN", {.name = "", .vocabulary = 8}),
            (std::vector<double>{1.25, std::log(8.0), std::log(8.0)}));
  const Table table = table_of_lowest_loss_by_seed(runs);
  ASSERT_EQ(table.rows.size(), 3u);
  EXPECT_EQ(table.rows[0], (std::vector<std::string>{"1", "1.2500 at 10"}));
  EXPECT_EQ(table.rows[1], (std::vector<std::string>{"2", "-"}));
}

}  // namespace
}  // namespace dyt
