// Every experiment at its smallest: all that a report needs is there, finite, and the same again.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/frozen.h"
#include "experiments/activations.h"
#include "experiments/norm_shapes.h"
#include "experiments/registry.h"
#include "experiments/vit_setting.h"
#include "tests/datasets/temporary_folder.h"

namespace dyt {
namespace {

class SmokeTest : public testing::TestWithParam<int> {};

std::string name_of_number(const testing::TestParamInfo<int>& info) {
  return two_digits(info.param);
}

void expect_drawn(const Plot& plot) {
  EXPECT_FALSE(plot.title.empty());
  EXPECT_FALSE(plot.x_label.empty()) << plot.name;
  EXPECT_FALSE(plot.y_label.empty()) << plot.name;
  EXPECT_NO_THROW(render_text(plot)) << plot.name;
  if (plot.heat_map) return;
  EXPECT_FALSE(plot.series.empty()) << plot.name;
  for (const Series& s : plot.series) {
    const auto finite = [](double v) { return std::isfinite(v); };
    EXPECT_FALSE(s.y.empty()) << plot.name << " " << s.name;
    EXPECT_TRUE(std::all_of(s.y.begin(), s.y.end(), finite)) << plot.name << " " << s.name;
    EXPECT_LE(s.name.size(), 45u) << plot.name;
  }
}

TEST_P(SmokeTest, ReportIsCompleteAndRepeats) {
  const TemporaryFolder folder;
  Options options{.device = "cpu", .size = Size::smoke, .out = folder.path("out")};
  const Experiment& experiment = find_experiment(GetParam());
  const Report report = run_experiment(experiment, options, "cpu");
  EXPECT_FALSE(report.paper.empty());
  EXPECT_FALSE(report.ours.empty());
  EXPECT_FALSE(report.verdict.rule.empty());
  EXPECT_FALSE(report.verdict.because.empty());
  EXPECT_EQ(report.verdict.outcome, Outcome::inconclusive);  // as of every smoke test
  EXPECT_GE(report.settings.size(), 5u);
  std::set<std::string> names;
  for (const Plot& plot : report.plots) {
    EXPECT_TRUE(names.insert(plot.name).second) << "two plots are called " << plot.name;
    expect_drawn(plot);
  }
  EXPECT_GE(names.size(), 2u);
  EXPECT_FALSE(report.tables.empty());
  for (const Table& table : report.tables) {
    EXPECT_FALSE(table.rows.empty()) << table.title;
    for (const auto& row : table.rows) {
      EXPECT_EQ(row.size(), table.header.size()) << table.title;
      for (const std::string& cell : row) {
        EXPECT_EQ(cell.find("not finite"), cell.npos) << table.title;
        EXPECT_EQ(cell.find("nan"), cell.npos) << table.title;
      }
    }
  }
  EXPECT_NO_THROW(to_json(report));
  // From the records the same report comes, but for when and how long.
  Report again = run_experiment(experiment, options, "cpu");
  again.date = report.date, again.seconds = report.seconds;
  EXPECT_EQ(to_json(again), to_json(report));
  EXPECT_EQ(to_csv(again.curves), to_csv(report.curves));
}

INSTANTIATE_TEST_SUITE_P(Experiments, SmokeTest,
                         testing::Values(2, 3, 4, 7, 8, 9, 10, 11, 12, 13, 16, 18), name_of_number);

// What an experiment reports of an arm after this many steps.
double reported_loss(const Report& report, const std::string& arm, int64_t steps) {
  std::vector<double> values;
  for (const CurvePoint& p : report.curves) {
    if (p.arm == arm && p.step == steps && p.metric == "test loss") values.push_back(p.value);
  }
  EXPECT_EQ(values.size(), 1u) << arm;
  return values.empty() ? std::nan("") : values[0];
}

// What an experiment reports of an arm is what training that model directly gives.
TEST(Experiment07, GivesTheNumbersOfDirectTraining) {
  const Options options{.device = "cpu", .size = Size::smoke, .seeds = 1};
  const Report report = run_07_squashing(options);
  ViTSetting setting = small_vit(options);
  const ImageSplits data = load_for(setting, options);
  setting.model.norm = {.kind = NormKind::hardtanh, .alpha0 = 0.5f};
  Parameters parameters;
  const ViT model(setting.model, parameters);
  parameters.allocate(Device::cpu, DType::f32, 1);
  setting.train.seed = 1;
  const TrainResult result = train_classifier(
      [&](Tape& tape, const Tensor& images) { return model.forward(tape, images); }, parameters,
      data, setting.train);
  EXPECT_EQ(reported_loss(report, "hardtanh", setting.train.steps), result.last().test_loss);
}

// Norms alone are trained at a rate of 1 that falls to a hundredth, everything at the setting's.
TEST(Experiment18, TrainsNormsAloneAtARateOfTheirOwn) {
  const Options options{.device = "cpu", .size = Size::smoke, .seeds = 1};
  const Report report = run_18_only_norms(options);
  ViTSetting setting = small_vit(options);
  const ImageSplits data = load_for(setting, options);
  setting.model.width = 16, setting.model.heads = 1;
  setting.train.seed = 1;
  for (const NormKind norm : {NormKind::layernorm, NormKind::dyt}) {
    setting.model.norm = {.kind = norm, .alpha0 = 0.5f};
    const std::string name = norm == NormKind::dyt ? "DyT" : "LN";
    for (const bool only_norms : {false, true}) {
      TrainOptions train = setting.train;
      if (only_norms) train.lr = 1, train.lr_floor = 0.01;
      Parameters parameters;
      const ViT model(setting.model, parameters);
      const Frozen frozen = only_norms ? all_but_norms(parameters) : Frozen();
      parameters.allocate(Device::cpu, DType::f32, 1);
      const auto forward = [&](Tape& tape, const Tensor& images) {
        frozen.begin(tape);
        return model.forward(tape, images);
      };
      const TrainResult result = train_classifier(forward, parameters, data, train);
      const std::string arm = name + (only_norms ? ", norms alone" : ", everything") + ", width 16";
      EXPECT_EQ(reported_loss(report, arm, train.steps), result.last().test_loss) << arm;
    }
  }
}

// Trains a ConvNet as experiment 12 does at its smallest, and returns how many % of what goes into
// each norm of ten test images tanh brings within 5 % of its bounds.
template <class Model, class Config>
std::vector<double> saturated_inputs(Config config, const ImageSplits& data, uint64_t seed) {
  config.image_size = data.train.height, config.classes = data.train.classes();
  config.norm = {.kind = NormKind::dyt};
  Parameters parameters;
  const Model model(config, parameters);
  parameters.allocate(Device::cpu, DType::f32, seed);
  TrainOptions train{.steps = 5, .batch = 20, .lr = 2e-3, .lr_floor = 2e-5, .warmup = 1};
  train.adamw.weight_decay = 0.05f, train.adamw.max_norm = 1;
  train.seed = seed;
  const auto forward = [&](Tape& tape, const Tensor& images) {
    return model.forward(tape, images);
  };
  train_classifier(forward, parameters, data, train);
  std::vector<double> percent;
  for (const SiteActivations& s : observe_norms(forward, parameters, data.test, 10)) {
    const double alpha = parameters.values(parameters.find(s.site + ".alpha"))[0];
    double count = 0;
    for (const float x : s.in) count += std::abs(std::tanh(alpha * double(x))) > 0.95;
    percent.push_back(100 * count / double(s.in.size()));
  }
  return percent;
}

// Of seed 7, which moves both networks' first alpha so far that inputs cross the bound.
TEST(Experiment12, ReportsWhereTheTanhSaturates) {
  const Report report =
      run_12_batchnorm({.device = "cpu", .size = Size::smoke, .seeds = 1, .first_seed = 7});
  const ImageSplits data = load_images("synthetic", 100, 40);
  const auto expect_reported = [&](const std::string& network, const std::vector<double>& percent) {
    EXPECT_GT(percent[0], 0) << network;
    const auto plot = std::find_if(report.plots.begin(), report.plots.end(),
                                   [&](const Plot& p) { return p.name == network + "-saturated"; });
    ASSERT_NE(plot, report.plots.end()) << network;
    ASSERT_EQ(plot->series.size(), 1u) << network;  // the other arms have no tanh
    EXPECT_EQ(plot->series[0].name, "DyT");
    ASSERT_EQ(plot->series[0].y.size(), percent.size()) << network;
    for (size_t i = 0; i < percent.size(); ++i) {
      EXPECT_DOUBLE_EQ(plot->series[0].y[i], percent[i]) << network << ", norm " << i;
    }
  };
  const ResNetConfig resnet{
      .large_stem = false, .stem_width = 4, .depths = {1, 1}, .widths = {4, 8}};
  const VGGConfig vgg{.features = {4, 0, 8, 0}, .hidden = 0};
  expect_reported("ResNet", saturated_inputs<ResNet>(resnet, data, 7));
  expect_reported("VGG", saturated_inputs<VGG>(vgg, data, 7));
}

// --- What looks inside models --------------------------------------------------------------------

TEST(Activations, AreThoseOfTheNorms) {
  const ImageSplits data = load_images("synthetic", 10, 6);
  Parameters parameters;
  const ViT model({.width = 32, .depth = 2, .heads = 2}, parameters);
  parameters.allocate(Device::cpu, DType::f32, 1);
  const std::vector<SiteActivations> sites =
      observe_norms([&](Tape& tape, const Tensor& images) { return model.forward(tape, images); },
                    parameters, data.test, 4);
  ASSERT_EQ(sites.size(), 5u);
  EXPECT_EQ(sites[0].site, "blocks.0.norm1");
  EXPECT_EQ(sites[4].site, "fc_norm");
  EXPECT_EQ(sites[0].rows, 4 * 64);
  EXPECT_EQ(sites[4].rows, 4);
  EXPECT_EQ(sites[0].in.size(), size_t(4 * 64 * 32));
  // gamma = 1 and beta = 0 at first, so LayerNorm's output is what standardised() says.
  const std::vector<float> expected = standardised(sites[2].in, 32, 1e-6);
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(sites[2].out[i], expected[i], 1e-4);
  EXPECT_THROW(standardised(sites[2].in, 31, 1e-6), Error);
}

TEST(Activations, Statistics) {
  const std::vector<float> x = {-3, -1, 1, 3};
  EXPECT_DOUBLE_EQ(spread_of(x).mean, 0);
  EXPECT_DOUBLE_EQ(spread_of(x).std, std::sqrt(5));
  EXPECT_DOUBLE_EQ(spread_of(x).largest, 3);
  EXPECT_DOUBLE_EQ(saturated_share(x, 1), 0.5);  // tanh(3) = 0.995, tanh(1) = 0.76
  EXPECT_DOUBLE_EQ(saturated_share(x, 0.5), 0);
  // tanh(1.83) = 0.9498, tanh(1.84) = 0.9508
  EXPECT_DOUBLE_EQ(saturated_share({-1.84f, -1.83f, 0, 1.83f, 1.84f}, 1), 0.4);
  EXPECT_THROW(spread_of({}), Error);
}

// Sites made so that the answer is known: lines early, tanhs deep.
TEST(NormShapes, DepthTrendOfKnownSites) {
  std::vector<SiteActivations> sites;
  for (int depth = 0; depth < 7; ++depth) {
    SiteActivations s{
        .site = "norm" + std::to_string(depth), .rows = 60, .channels = 8, .in = {}, .out = {}};
    for (int token = 0; token < 60; ++token) {
      for (int c = 0; c < 8; ++c) {
        // The deep ones: two channels that are extreme in some tokens.
        const float extreme = depth >= 4 && c < 2 && token % 2 ? float(token) : 0;
        s.in.push_back(std::sin(float(7 * token + 3 * c * c)) + (c ? extreme : -extreme));
      }
    }
    sites.push_back(std::move(s));
  }
  RunRecord run;
  note_norm_shapes(sites, /*keep_points=*/true, run);
  const std::vector<NormShape> shapes = norm_shapes_of(run);
  ASSERT_EQ(shapes.size(), 7u);
  EXPECT_EQ(shapes[3].site, "norm3");
  EXPECT_GT(shapes[0].line_r2, 0.9);
  EXPECT_LT(shapes[5].line_r2, 0.9);
  EXPECT_GT(shapes[5].tanh_r2, shapes[5].line_r2 + 0.1);
  const DepthTrend trend = depth_trend_of(run);
  EXPECT_GT(trend.difference(), 0.1);
  EXPECT_LT(trend.deep_left_over, 0.8);
  const std::vector<Plot> plots = plots_of_norm_shapes(run, "ViT");
  ASSERT_EQ(plots.size(), 4u);  // three clouds, and the tokens of the deep one
  EXPECT_EQ(plots[0].series.size(), 4u);
  EXPECT_EQ(plots[3].series.size(), 5u);
  EXPECT_EQ(plots[3].series[0].x.size(), 8u);
  sites.resize(3);
  EXPECT_THROW(note_norm_shapes(sites, false, run), Error);
}

}  // namespace
}  // namespace dyt
