// Experiment 18: Tuning only the norms.
//
// THE CLAIM ("The Expressive Power of Tuning Only the Normalization Layers", arXiv 2302.07937). A
// network whose weights are random and stay so, of which only the norms' gamma and beta are
// trained, can compute any smaller network of about the square root of its width. So it fits a lot,
// and the more the wider it is. (For BatchNorm in ResNets it was seen in "Training BatchNorm and
// Only BatchNorm", 2003.00152: 82 % on CIFAR-10 with the widest and deepest.)
//
// WHAT WE MEASURE. Final test accuracy of small ViTs of several widths, of which everything but the
// norms is frozen where it starts: embeddings, attention, feed-forward layers, head. Beside it the
// accuracy of guessing and of the same network trained as a whole. And, which the paper doesn't
// have, the same with DyT in LN's place, where alpha is trained, too.
//
// THE ARMS, at each width: LN and DyT (alpha0 = 0.5), norms alone; LN and DyT, everything. All have
// the same seeds, so the frozen weights of an arm are the ones that its neighbours start at. Two
// learning rates, one for norms alone and one for everything, the same for LN and DyT. That for
// norms alone was found in trials with LN, one seed at width 64, which were not kept: random
// weights of 0.02 make branches that hardly show until gamma has grown tenfold, so of 0.01, 0.03,
// 0.1, 0.3 and 1 the last does best.
//
// THE RULE. See `rule`. It was written before the first run.
#include <algorithm>
#include <cmath>
#include <memory>

#include "core/frozen.h"
#include "experiments/vit_setting.h"

namespace dyt {
namespace {

constexpr double margin = 0.05;
constexpr const char* rule =
    "Of LN, norms alone, with 95 % intervals over (paired) seeds: a is the accuracy at the largest "
    "width minus that of guessing, b is the accuracy at the largest width minus that at the "
    "smallest. REPRODUCED if a lies wholly above 5 points and b wholly above 0. NOT REPRODUCED if "
    "a lies wholly below 5 points, or b wholly below 0. Otherwise INCONCLUSIVE. A run that "
    "diverges counts as guessing.";

struct Setting {
  ViTSetting base;
  std::vector<int> widths;
  double norms_lr;  // of norms alone; of everything it is the setting's
};

Setting setting_of(const Options& options) {
  Setting s{.base = small_vit(options), .widths = {32, 64, 128}, .norms_lr = 1};
  TrainOptions& train = s.base.train;
  switch (options.size) {
    case Size::smoke:
      s.widths = {16, 32};
      break;
    case Size::small:
      train.steps = 300, train.warmup = 50, train.evaluate_every = 50;
      break;
    case Size::full:
      s.widths = {64, 128, 256, 512}, s.norms_lr = 0.3;
      train.steps = 2000, train.warmup = 200, train.evaluate_every = 200;
      s.base.seeds = options.seeds > 0 ? options.seeds : 3;
      break;
  }
  return s;
}

struct Kind {
  const char* name;
  NormKind norm;
  bool only_norms;
};
constexpr Kind kinds[] = {{"LN, norms alone", NormKind::layernorm, true},
                          {"DyT, norms alone", NormKind::dyt, true},
                          {"LN, everything", NormKind::layernorm, false},
                          {"DyT, everything", NormKind::dyt, false}};

std::string arm_name(const std::string& kind, int width) {
  return kind + ", width " + std::to_string(width);
}

ViTConfig config_of(const Setting& s, const Kind& kind, int width) {
  ViTConfig config = s.base.model;
  config.width = width, config.heads = std::max(width / 32, 1);
  config.norm = {.kind = kind.norm, .alpha0 = 0.5f};
  return config;
}

int64_t trained_numbers(const Setting& s, const Kind& kind, int width) {
  const ViTConfig config = config_of(s, kind, width);
  Parameters parameters;
  const ViT model(config, parameters);
  return kind.only_norms ? all_but_norms(parameters).trained_count() : parameters.count();
}

ClassifierArm arm_of(const Setting& s, const Kind& kind, int width) {
  const ViTConfig config = config_of(s, kind, width);
  ClassifierArm arm = classifier_arm<ViT>(arm_name(kind.name, width), config);
  arm.work = std::pow(double(width), 1.2);
  if (!kind.only_norms) return arm;
  arm.lr = s.norms_lr;
  arm.settings += "; only norms";
  arm.build = [build = arm.build](Parameters& parameters) -> Forward {
    const Forward forward = build(parameters);
    // Shared: what the tape records points to it, wherever the function is copied to.
    const auto frozen = std::make_shared<const Frozen>(all_but_norms(parameters));
    return [=](Tape& tape, const Tensor& images) {
      frozen->begin(tape);
      return forward(tape, images);
    };
  };
  return arm;
}

struct Results {
  const Setting& s;
  const std::vector<RunRecord>& runs;
  double guessing;  // accuracy, 0 to 1

  std::vector<double> at(const std::string& kind, int width) const {
    return accuracies_of(runs, arm_name(kind, width));
  }
};

Verdict judge(const Results& r) {
  Verdict verdict{.rule = rule};
  const char* ln = kinds[0].name;
  const std::vector<double> widest = r.at(ln, r.s.widths.back());
  if (widest.size() < 2) {
    verdict.because = "one seed gives no interval";
    return verdict;
  }
  const std::vector<double> guessing(widest.size(), r.guessing);
  const MeanInterval a = paired_difference_interval(widest, guessing);
  const MeanInterval b = paired_difference_interval(widest, r.at(ln, r.s.widths.front()));
  if (a.high < margin || b.high < 0) {
    verdict.outcome = Outcome::not_reproduced;
  } else if (a.low > margin && b.low > 0) {
    verdict.outcome = Outcome::reproduced;
  }
  verdict.because = "a = " + signed_fixed(100 * a.mean) + " points " + points_interval(a) +
                    ", b = " + signed_fixed(100 * b.mean) + " points " + points_interval(b) + ", " +
                    std::to_string(a.n) + " seeds";
  return verdict;
}

// Accuracy against what `x` says of an arm.
Plot plot_against(const Results& r, const std::function<double(const Kind&, int width)>& x) {
  Plot plot{.y_label = "test accuracy (%)",
            .log_x = true,
            .horizontal = {{100 * r.guessing, "guessing"}},
            .caption = "Mean over the seeds; the bands reach from the lowest to the highest."};
  for (size_t k = 0; k < std::size(kinds); ++k) {
    Series series{.name = kinds[k].name, .style = SeriesStyle::line_points, .color = int(k)};
    for (const int width : r.s.widths) {
      std::vector<double> values = r.at(kinds[k].name, width);
      for (double& v : values) v *= 100;
      series.x.push_back(x(kinds[k], width)), series.y.push_back(mean(values));
      series.low.push_back(*std::min_element(values.begin(), values.end()));
      series.high.push_back(*std::max_element(values.begin(), values.end()));
    }
    plot.series.push_back(std::move(series));
  }
  return plot;
}

std::vector<Plot> plots_of(const Results& r) {
  Plot width = plot_against(r, [](const Kind&, int w) { return double(w); });
  width.name = "width", width.x_label = "width";
  width.title = "Accuracy against width: norms alone, and everything";
  for (const int w : r.s.widths) width.x_tics.push_back({double(w), std::to_string(w)});
  Plot count = plot_against(
      r, [&](const Kind& kind, int w) { return double(trained_numbers(r.s, kind, w)); });
  count.name = "trained", count.x_label = "trained parameters";
  count.title = "Accuracy against the number of parameters that are trained";
  return {width, count};
}

Table table_of(const Results& r) {
  Table table{
      .title = "Test accuracy by width",
      .header = {"width", "parameters", "of norms (LN)"},
      .note = "Mean ± standard deviation over the seeds. Guessing: " + percent(r.guessing, 1) +
              ". The last two columns are paired differences in "
              "points with 95 % intervals."};
  for (const Kind& kind : kinds) table.header.push_back(kind.name);
  table.header.push_back("DyT - LN, norms alone");
  table.header.push_back("DyT - LN, everything");
  for (const int width : r.s.widths) {
    std::vector<std::string> row = {std::to_string(width),
                                    std::to_string(trained_numbers(r.s, kinds[2], width)),
                                    std::to_string(trained_numbers(r.s, kinds[0], width))};
    for (const Kind& kind : kinds) row.push_back(percent_plus_minus(r.at(kind.name, width), 1));
    for (const int first : {0, 2}) {
      const std::vector<double> ln = r.at(kinds[first].name, width);
      const std::vector<double> dyt = r.at(kinds[first + 1].name, width);
      row.push_back(
          signed_fixed(100 * (mean(dyt) - mean(ln)), 1) +
          (ln.size() > 1 ? " " + points_interval(paired_difference_interval(dyt, ln), 1) : ""));
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace

Report run_18_only_norms(const Options& options) {
  Setting s = setting_of(options);
  const ImageSplits data = load_for(s.base, options);
  std::vector<ClassifierArm> arms;
  for (const int width : s.widths) {
    for (const Kind& kind : kinds) arms.push_back(arm_of(s, kind, width));
  }
  const Study study{.number = 18, .options = options};
  const std::vector<RunRecord> runs =
      run_classifiers(study, arms, s.base.seeds, data, s.base.train);
  const Results results{s, runs, 1.0 / data.train.classes()};

  Report report;
  report.verdict = judge(results);
  report.paper =
      "norms alone fit a network of the square root of the width (no accuracy is given for a ViT)";
  const int widest = s.widths.back();
  std::vector<RunRecord> of_widest;
  for (const Kind& kind : kinds) {
    report.ours += (report.ours.empty() ? "width " + std::to_string(widest) + ": " : ", ") +
                   std::string(kind.name) + " " +
                   percent_plus_minus(results.at(kind.name, widest), 1);
  }
  for (const RunRecord& run : runs) {
    const bool is_widest = std::any_of(std::begin(kinds), std::end(kinds), [&](const Kind& kind) {
      return run.arm == arm_name(kind.name, widest);
    });
    if (is_widest) of_widest.push_back(run);
  }
  report.plots = plots_of(results);
  for (Plot& plot : plots_of_training(of_widest, s.base.train, "width " + std::to_string(widest))) {
    report.plots.push_back(std::move(plot));
  }
  report.tables = {table_of(results), table_of_accuracy_by_seed(of_widest)};
  report.settings = settings_for_report(data, s.base.train);
  report.settings.insert(report.settings.begin(), {"model", describe(s.base.model)});
  report.settings.emplace_back("learning rate", fixed(s.norms_lr, 4) + " for norms alone, " +
                                                    fixed(s.base.train.lr, 4) + " for everything");
  add_runs(report, study, runs);
  return report;
}

}  // namespace dyt
