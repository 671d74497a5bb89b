// Experiment 12: Where DyT fails: BatchNorm in ResNet and VGG.
//
// THE CLAIM (DyT, appendix). In classic ConvNets DyT is no replacement for BatchNorm. ImageNet-1K
// top-1 with BN and with DyT: ResNet-50 76.2 / 68.9, VGG19 72.7 / 71.0.
//
// WHAT WE MEASURE. Final test accuracy of a small ResNet and a small VGG on small images, with the
// same seeds and the same recipe for all arms: one with which BN learns well. And, to see why, what
// goes into each norm after training: how large it is, how much of it the tanh saturates, and how
// different a layer's channels are. BN gives every channel a scale of its own; DyT has one alpha
// for all of them.
//
// THE ARMS, for each network. BN: BatchNorm, epsilon 1e-5. DyT: gamma * tanh(alpha x) + beta in its
// place, alpha0 = 0.5. none: nothing in its place, to see whether DyT does at least better than
// that.
//
// THE RULE. See `rule`: "DyT is behind" must hold in both networks. It was written before the first
// run. The runs of `small` had 240 steps at first; but DyT is slow to start everywhere, in ViTs
// (experiment 03) too, where it is as good in the end by the paper, and so this length could not
// tell the one from the other. They have as many epochs as 03's now.
#include <algorithm>
#include <cmath>

#include "experiments/activations.h"
#include "experiments/vit_setting.h"

namespace dyt {
namespace {

constexpr const char* rule =
    "The gap is BN's accuracy minus DyT's. REPRODUCED if the 95 % interval of the gap lies above 0 "
    "in both networks. NOT REPRODUCED if it lies below 0 in one of them, or below 1 point in both. "
    "Otherwise INCONCLUSIVE. A run that diverges counts as guessing.";

struct Setting {
  ResNetConfig resnet;
  VGGConfig vgg;
  TrainOptions train;
  size_t train_images, test_images;  // 0: all there are
  int seeds;
};

Setting setting_of(Size size) {
  TrainOptions train{.batch = 100, .lr = 2e-3, .lr_floor = 2e-5};
  train.adamw.weight_decay = 0.05f;
  train.adamw.max_norm = 1;
  switch (size) {
    case Size::smoke:
      train.batch = 20;
      train.steps = 5, train.warmup = 1, train.evaluate_every = 5;
      return {{.large_stem = false, .stem_width = 4, .depths = {1, 1}, .widths = {4, 8}},
              {.features = {4, 0, 8, 0}, .hidden = 0},
              train,
              100,
              40,
              2};
    case Size::small: {
      train.steps = 1100, train.warmup = 100, train.evaluate_every = 100;
      ResNetConfig resnet = resnet_preset("resnet20");  // at half its width
      resnet.stem_width = 8, resnet.widths = {8, 16, 32};
      return {resnet, {.features = {16, 0, 32, 0, 64, 64, 0, 128, 128, 0}, .hidden = 0},
              train,  10000,
              2000,   3};
    }
    case Size::full:
      train.batch = 256;
      train.steps = 10000, train.warmup = 500, train.evaluate_every = 500;
      return {resnet_preset("resnet20"), vgg_preset("vgg11_bn_cifar"), train, 0, 0, 5};
  }
  fail("unknown size");
}

struct Network {
  std::string name, paper_bn, paper_dyt;
};
const Network networks[] = {{"ResNet", "76.2 %", "68.9 %"}, {"VGG", "72.7 %", "71.0 %"}};

// ------------------------------------------------------------- what goes into the norms, and why

// The ratio of the standard deviations of two of the channels: of that which 90 % of the channels
// are below to that which 10 % are below.
double channel_ratio(const SiteActivations& s) {
  std::vector<double> stds;
  for (int64_t c = 0; c < s.channels; ++c) {
    std::vector<float> of_channel;
    for (int64_t r = 0; r < s.rows; ++r) of_channel.push_back(s.in[size_t(r * s.channels + c)]);
    stds.push_back(spread_of(of_channel).std);
  }
  std::sort(stds.begin(), stds.end());
  const auto at = [&](double share) { return stds[size_t(share * double(stds.size() - 1) + 0.5)]; };
  return at(0.9) / std::max(at(0.1), 1e-12);
}

const std::vector<std::pair<std::string, std::string>> statistics = {
    {"std", "standard deviation of the input"},
    {"largest", "largest input / standard deviation"},
    {"channels", "std of a large / of a small channel"},
    {"saturated", "inputs in tanh's flat ends (%)"}};

// Lists over the network's norms, in order of depth. A network without norms still shows what would
// have gone into them.
Look look_at_norms(const ImageDataset& dataset, int64_t images, const TrainOptions& train) {
  const auto at = [&dataset, images, last = train.steps](int64_t step, const Forward& forward,
                                                         const Parameters& parameters,
                                                         RunRecord& run) {
    if (step != last) return;
    for (const auto& [name, label] : statistics)
      run.lists.emplace_back(name, std::vector<double>{});
    for (const SiteActivations& s : observe_norms(forward, parameters, dataset, images)) {
      const Spread spread = spread_of(s.in);
      run.lists[0].second.push_back(spread.std);
      run.lists[1].second.push_back(spread.largest / spread.std);
      run.lists[2].second.push_back(channel_ratio(s));
      for (const Parameter& p : parameters.all()) {
        if (p.name != s.site + ".alpha") continue;
        run.lists[3].second.push_back(100 * saturated_share(s.in, parameters.values(p)[0]));
      }
    }
  };
  return {.at = at, .settings = "inputs of the norms, " + std::to_string(images) + " test images"};
}

// Mean over the seeds of a list over the norms, and its lowest and highest.
std::optional<Series> over_depth(const std::vector<RunRecord>& runs, const std::string& arm,
                                 const std::string& list) {
  Series s{.style = SeriesStyle::line_points};
  double count = 0;
  for (const RunRecord* run : runs_of(runs, arm)) {
    if (run->diverged() || run->list(list).empty()) continue;
    const std::vector<double>& values = run->list(list);
    if (s.x.empty()) s.y.assign(values.size(), 0), s.low = s.high = values;
    s.x.clear(), ++count;
    for (size_t i = 0; i < values.size(); ++i) {
      s.x.push_back(double(i + 1)), s.y[i] += values[i];
      s.low[i] = std::min(s.low[i], values[i]), s.high[i] = std::max(s.high[i], values[i]);
    }
  }
  if (count == 0) return std::nullopt;
  for (double& y : s.y) y /= count;
  return s;
}

Plot plot_over_depth(const std::vector<RunRecord>& runs, const Network& network, size_t statistic,
                     const std::string& title) {
  const auto& [list, label] = statistics[statistic];
  Plot plot{.name = network.name + "-" + list,
            .title = network.name + ": " + title,
            .x_label = "place of the norm in the network",
            .y_label = label,
            .log_y = statistic != 3,
            .caption =
                "After training, on test images. Mean over the seeds; the bands reach from "
                "the lowest to the highest."};
  int color = 0;
  for (const std::string arm : {"BN", "DyT", "none"}) {
    if (std::optional<Series> s = over_depth(runs, network.name + " " + arm, list)) {
      s->name = arm, s->color = color;
      plot.series.push_back(std::move(*s));
    }
    ++color;
  }
  return plot;
}

// ---------------------------------------------------------------------------------- the verdict

MeanInterval gap_of(const std::vector<RunRecord>& runs, const Network& network) {
  return paired_difference_interval(accuracies_of(runs, network.name + " BN"),
                                    accuracies_of(runs, network.name + " DyT"));
}

Verdict judge(const std::vector<RunRecord>& runs, int seeds) {
  Verdict verdict{.rule = rule};
  if (seeds < 2) {
    verdict.because = "one seed gives no interval";
    return verdict;
  }
  int above = 0, below = 0, small = 0;
  for (const Network& network : networks) {
    const MeanInterval gap = gap_of(runs, network);
    above += gap.low > 0, below += gap.high < 0, small += gap.high < 0.01;
    verdict.because += (verdict.because.empty() ? "" : "; ") + network.name + ": gap " +
                       signed_fixed(100 * gap.mean) + " points, 95 % interval " +
                       points_interval(gap);
  }
  if (above == 2) {
    verdict.outcome = Outcome::reproduced;
  } else if (below > 0 || small == 2) {
    verdict.outcome = Outcome::not_reproduced;
  }
  verdict.because += "; " + std::to_string(seeds) + " seeds";
  return verdict;
}

Table comparison(const std::vector<RunRecord>& runs, int seeds) {
  Table table{.title = "Top-1 accuracy",
              .header = {"network", "BN", "DyT", "none", "BN - DyT (points)", "95 % interval",
                         "paper: BN", "DyT"},
              .note =
                  "The paper's networks are ResNet-50 and VGG19 on ImageNet-1K. Ours: mean ± "
                  "standard deviation over " +
                  counted(seeds, "seed") +
                  "; the interval is that of the paired "
                  "difference."};
  for (const Network& network : networks) {
    std::vector<std::string> row = {network.name};
    for (const std::string arm : {" BN", " DyT", " none"}) {
      row.push_back(percent_plus_minus(accuracies_of(runs, network.name + arm)));
    }
    const double gap = mean(accuracies_of(runs, network.name + " BN")) -
                       mean(accuracies_of(runs, network.name + " DyT"));
    row.push_back(signed_fixed(100 * gap));
    row.push_back(seeds > 1 ? points_interval(gap_of(runs, network)) : "-");
    row.push_back(network.paper_bn), row.push_back(network.paper_dyt);
    table.rows.push_back(std::move(row));
  }
  return table;
}

Plot training_plot(const std::vector<RunRecord>& runs, const Network& network,
                   const TrainOptions& train) {
  std::vector<RunRecord> of_network;
  for (RunRecord run : runs) {
    if (run.arm.rfind(network.name, 0) != 0) continue;
    for (CurvePoint& p : run.curve) p.arm = p.arm.substr(network.name.size() + 1);
    of_network.push_back(std::move(run));
  }
  std::vector<Plot> plots = plots_of_training(of_network, train, "");
  if (plots.empty()) return {.name = network.name + "-accuracy", .title = "All runs diverged"};
  plots[0].name = network.name + "-accuracy";
  plots[0].title = network.name + ": test accuracy while training";
  return plots[0];
}

}  // namespace

Report run_12_batchnorm(const Options& options) {
  Setting setting = setting_of(options.size);
  if (options.seeds > 0) setting.seeds = options.seeds;
  const ImageSplits data = load_images(options.data, setting.train_images, setting.test_images);
  setting.resnet.image_size = setting.vgg.image_size = data.train.height;
  setting.resnet.classes = setting.vgg.classes = data.train.classes();
  std::vector<ClassifierArm> arms;
  std::vector<std::string> names;
  const std::pair<const char*, NormSpec> norms[] = {{"BN", {.kind = NormKind::batchnorm}},
                                                    {"DyT", {.kind = NormKind::dyt}},
                                                    {"none", {.kind = NormKind::none}}};
  for (const auto& [name, norm] : norms) {
    setting.resnet.norm = norm;
    arms.push_back(classifier_arm<ResNet>(std::string("ResNet ") + name, setting.resnet));
  }
  for (const auto& [name, norm] : norms) {
    setting.vgg.norm = norm;
    arms.push_back(classifier_arm<VGG>(std::string("VGG ") + name, setting.vgg));
  }
  const Study study{.number = 12, .options = options};
  const Look look = look_at_norms(data.test, options.size == Size::smoke ? 10 : 100, setting.train);
  const std::vector<RunRecord> runs =
      run_classifiers(study, arms, setting.seeds, data, setting.train, look);

  Report report;
  report.verdict = judge(runs, setting.seeds);
  report.paper = "BN / DyT: ResNet-50 76.2 / 68.9 %, VGG19 72.7 / 71.0 %";
  for (const Network& network : networks) {
    report.ours += (report.ours.empty() ? "BN / DyT: " : ", ") + network.name + " " +
                   fixed(100 * mean(accuracies_of(runs, network.name + " BN")), 1) + " / " +
                   percent(mean(accuracies_of(runs, network.name + " DyT")), 1);
  }
  for (const Network& network : networks) {
    report.plots.push_back(training_plot(runs, network, setting.train));
    report.plots.push_back(plot_over_depth(runs, network, 0, "how large the activations are"));
    report.plots.push_back(plot_over_depth(runs, network, 1, "how far the extremes reach"));
    report.plots.push_back(plot_over_depth(runs, network, 2, "how different the channels are"));
    report.plots.push_back(plot_over_depth(runs, network, 3, "how much the tanh saturates"));
  }
  report.tables = {comparison(runs, setting.seeds), table_of_accuracy_by_seed(runs)};
  report.notes = {
      "\"How different the channels are\": the standard deviation of a channel that 90 % of the "
      "layer's channels are below, over that which 10 % are below. BatchNorm brings them all to 1; "
      "DyT's alpha is one number for all of them.",
      "A tanh is counted as saturated where it is within 5 % of its bounds."};
  report.settings = settings_for_report(data, setting.train);
  report.settings.insert(report.settings.begin(),
                         {{"ResNet", std::to_string(runs[0].parameters) + " parameters, widths " +
                                         std::to_string(setting.resnet.widths.front()) + " to " +
                                         std::to_string(setting.resnet.widths.back())},
                          {"VGG", std::to_string(runs[3].parameters) + " parameters"}});
  add_runs(report, study, runs);
  return report;
}

}  // namespace dyt
