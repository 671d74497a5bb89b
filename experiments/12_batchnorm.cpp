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
// that. And a control: a ViT with LN and with DyT, where by the paper nothing is lost in the end.
// DyT is slow to start there, too (experiment 03), and a run as short as `small` must not mistake a
// slow start for a failure.
//
// THE RULE. See `rule`: "DyT is behind" must hold in both networks, and by more than in the ViT.
// The first half was written before the first run; the control, and 480 steps of `small` instead of
// 240, were added on 2026-11-28, when a reader found that the rule would have "reproduced" DyT's
// failure in ViTs as well.
#include <algorithm>
#include <cmath>

#include "experiments/activations.h"
#include "experiments/vit_setting.h"

namespace dyt {
namespace {

constexpr const char* rule =
    "The gap is BN's accuracy minus DyT's, the control's that of LN minus DyT in a ViT trained as "
    "long; intervals are of 95 %, over paired seeds. REPRODUCED if the gap's interval lies above 0 "
    "in both networks, and so does that of the gap minus the control's. NOT REPRODUCED if the "
    "gap's lies below 0 in one of them, or below 1 point in both. Otherwise INCONCLUSIVE. A run "
    "that diverges counts as guessing.";

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
      train.steps = 480, train.warmup = 60, train.evaluate_every = 60;
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
  std::string name, paper_norm, paper_dyt, norm = "BN";
};
const Network networks[] = {{"ResNet", "76.2 %", "68.9 %"}, {"VGG", "72.7 %", "71.0 %"}};
const Network control{"ViT", "82.3 %", "82.5 %", "LN"};

// --- What goes into the norms, and why -----------------------------------------------------------

// Of the channels' standard deviations, their 90th percentile over their 10th.
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
    {"channels", "channels' std: 90th / 10th percentile"},
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
    if (std::optional<Series> s = mean_of_lists(runs, network.name + " " + arm, list)) {
      s->name = arm, s->color = color;
      plot.series.push_back(std::move(*s));
    }
    ++color;
  }
  return plot;
}

// --- The verdict ---------------------------------------------------------------------------------

// By seed.
std::vector<double> gaps_of(const std::vector<RunRecord>& runs, const Network& network) {
  std::vector<double> gaps = accuracies_of(runs, network.name + " " + network.norm);
  const std::vector<double> dyt = accuracies_of(runs, network.name + " DyT");
  for (size_t i = 0; i < gaps.size(); ++i) gaps[i] -= dyt[i];
  return gaps;
}

Verdict judge(const std::vector<RunRecord>& runs, int seeds) {
  Verdict verdict{.rule = rule};
  if (seeds < 2) {
    verdict.because = "one seed gives no interval";
    return verdict;
  }
  int above = 0, below = 0, small = 0;
  const std::vector<double> of_control = gaps_of(runs, control);
  const auto text = [](const MeanInterval& d) {
    return signed_fixed(100 * d.mean) + " " + points_interval(d);
  };
  for (const Network& network : networks) {
    const MeanInterval gap = mean_interval(gaps_of(runs, network));
    const MeanInterval more = paired_difference_interval(gaps_of(runs, network), of_control);
    above += gap.low > 0 && more.low > 0, below += gap.high < 0, small += gap.high < 0.01;
    verdict.because +=
        network.name + ": gap " + text(gap) + " points, minus the control's " + text(more) + "; ";
  }
  verdict.because += "the control's " + text(mean_interval(of_control));
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
              .header = {"network", "its norm", "its accuracy", "DyT", "none",
                         "norm - DyT (points)", "95 % interval", "paper: its norm", "paper: DyT"},
              .note =
                  "The paper's networks are ResNet-50, VGG19 and, for the control, ViT-B on "
                  "ImageNet-1K. Ours: mean ± standard deviation over " +
                  counted(seeds, "seed") +
                  "; the interval is that of the paired "
                  "difference."};
  const auto add = [&](const Network& network, bool with_none) {
    const auto ours = [&](const std::string& arm) {
      return percent_plus_minus(accuracies_of(runs, network.name + " " + arm));
    };
    const std::vector<double> gaps = gaps_of(runs, network);
    table.rows.push_back({network.name, network.norm, ours(network.norm), ours("DyT"),
                          with_none ? ours("none") : "-", signed_fixed(100 * mean(gaps)),
                          seeds > 1 ? points_interval(mean_interval(gaps)) : "-",
                          network.paper_norm, network.paper_dyt});
  };
  for (const Network& network : networks) add(network, true);
  add(control, false);
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
  ViTSetting vit = small_vit(options);
  vit.model.image_size = data.train.height, vit.model.classes = data.train.classes();
  for (const auto& [name, kind] :
       {std::pair{"LN", NormKind::layernorm}, std::pair{"DyT", NormKind::dyt}}) {
    ClassifierArm& arm =
        arms.emplace_back(vit_arm(control.name + " " + name, vit, NormSpec{.kind = kind}));
    arm.lr = vit.train.lr;
    arm.work = 0.3;
  }
  const Study study{.number = 12, .options = options};
  const Look look = look_at_norms(data.test, options.size == Size::smoke ? 10 : 100, setting.train);
  const std::vector<RunRecord> runs =
      run_classifiers(study, arms, setting.seeds, data, setting.train, look);

  Report report;
  report.verdict = judge(runs, setting.seeds);
  report.paper =
      "BN / DyT: ResNet-50 76.2 / 68.9 %, VGG19 72.7 / 71.0 %; LN / DyT: ViT-B 82.3 / 82.5 %";
  for (const Network& network : networks) {
    report.ours += (report.ours.empty() ? "BN / DyT: " : ", ") + network.name + " " +
                   fixed(100 * mean(accuracies_of(runs, network.name + " BN")), 1) + " / " +
                   percent(mean(accuracies_of(runs, network.name + " DyT")), 1);
  }
  report.ours += "; LN / DyT: ViT " + fixed(100 * mean(accuracies_of(runs, "ViT LN")), 1) + " / " +
                 percent(mean(accuracies_of(runs, "ViT DyT")), 1);
  for (const Network& network : networks) {
    report.plots.push_back(training_plot(runs, network, setting.train));
    report.plots.push_back(plot_over_depth(runs, network, 0, "how large the activations are"));
    report.plots.push_back(plot_over_depth(runs, network, 1, "how far the extremes reach"));
    report.plots.push_back(plot_over_depth(runs, network, 2, "how different the channels are"));
    report.plots.push_back(plot_over_depth(runs, network, 3, "how much the tanh saturates"));
  }
  report.plots.push_back(training_plot(runs, control, setting.train));
  report.plots.back().title = "ViT, the control: test accuracy while training";
  report.tables = {comparison(runs, setting.seeds), table_of_accuracy_by_seed(runs)};
  report.notes = {
      "\"How different the channels are\": of the standard deviations of a layer's channels, the "
      "90th percentile over the 10th. BatchNorm brings them all to 1; DyT's alpha is one number "
      "for all of them.",
      "A tanh is counted as saturated where it is within 5 % of its bounds."};
  report.settings = settings_for_report(data, setting.train);
  report.settings.insert(report.settings.begin(),
                         {{"ResNet", std::to_string(runs[0].parameters) + " parameters, widths " +
                                         std::to_string(setting.resnet.widths.front()) + " to " +
                                         std::to_string(setting.resnet.widths.back())},
                          {"VGG", std::to_string(runs[3].parameters) + " parameters"},
                          {"ViT", describe(vit.model)}});
  add_runs(report, study, runs);
  return report;
}

}  // namespace dyt
