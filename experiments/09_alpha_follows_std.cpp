// Experiment 09: alpha follows 1/std.
//
// THE CLAIM (DyT, Figure 8). While a network with DyT trains, each alpha follows the inverse of the
// standard deviation of the activations that it scales: it falls at first and rises again with it.
// After training, alpha is strongly correlated over the layers with 1/std, and deeper layers have
// larger activations and a smaller alpha. So alpha does, once for all, part of what a norm does
// token by token.
//
// WHAT WE MEASURE. A small ViT with DyT everywhere, deeper than in the other experiments so that
// there are enough layers. Before training and at regular steps of it, a fixed batch of test images
// is sent through the network, and for each DyT we note alpha and the standard deviation of all
// numbers that go into it; but for the last one, which sees the mean over the tokens (until the end
// of 2026-11-28 it was among them: one odd point can move r). r is Pearson's correlation of alpha
// and 1/std over the layers, after training, one r for each seed.
//
// THE ARM. There is one, DyT, alpha0 = 0.5: nothing is compared.
//
// THE RULE. See `rule`. A correlation of few layers is not normally distributed, so its interval is
// made from Fisher's atanh(r), which is, and brought back. It was written before the first run. The
// course of alpha, and what depth does, are not judged: the plots show them.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "experiments/activations.h"
#include "experiments/vit_setting.h"

namespace dyt {
namespace {

constexpr const char* rule =
    "r is the correlation over the layers of alpha and 1/std of its input after training. "
    "REPRODUCED if the 95 % interval of r over the seeds lies above 0.5. NOT REPRODUCED if it lies "
    "below 0.5. Otherwise INCONCLUSIVE.";

struct AlphaAndRstd {
  std::string site;
  double alpha, rstd;
};

// Of every DyT in a block, in order of depth.
std::vector<AlphaAndRstd> measure(const Forward& forward, const Parameters& parameters,
                                  const ImageDataset& dataset, int64_t images) {
  std::vector<AlphaAndRstd> sites;
  for (const SiteActivations& s : observe_norms(forward, parameters, dataset, images)) {
    const auto is_alpha = [&](const Parameter& p) { return p.name == s.site + ".alpha"; };
    const auto alpha = std::find_if(parameters.all().begin(), parameters.all().end(), is_alpha);
    require(alpha != parameters.all().end(), s.site, " has no alpha");
    sites.push_back({s.site, parameters.values(*alpha)[0], 1 / spread_of(s.in).std});
  }
  sites.pop_back();  // the network's last norm
  return sites;
}

// Notes what it measures as curves "alpha SITE" and "1/std SITE", and at last as lists "alpha" and
// "1/std" over the layers.
Look look_at_alpha(const ImageDataset& dataset, int64_t images, const TrainOptions& train) {
  const auto at = [&dataset, images, last = train.steps](int64_t step, const Forward& forward,
                                                         const Parameters& parameters,
                                                         RunRecord& run) {
    std::vector<double> alphas, rstds;
    for (const auto& [site, alpha, rstd] : measure(forward, parameters, dataset, images)) {
      run.curve.push_back({.step = step, .metric = "alpha " + site, .value = alpha});
      run.curve.push_back({.step = step, .metric = "1/std " + site, .value = rstd});
      alphas.push_back(alpha), rstds.push_back(rstd);
    }
    if (step == last) run.lists = {{"alpha", alphas}, {"1/std", rstds}};
  };
  return {.every = std::max<int64_t>(train.steps / 32, 1),
          .at = at,
          .settings = "alpha and 1/std of " + std::to_string(images) + " test images"};
}

// The interval of r by way of atanh.
MeanInterval interval_of_correlation(const std::vector<double>& r) {
  std::vector<double> z;
  for (const double value : r) z.push_back(std::atanh(std::clamp(value, -1 + 1e-9, 1 - 1e-9)));
  const MeanInterval interval = mean_interval(z);
  return {.n = r.size(),
          .mean = mean(r),
          .sd = standard_deviation(r),
          .low = std::tanh(interval.low),
          .high = std::tanh(interval.high)};
}

Verdict judge(const std::vector<double>& r, size_t runs) {
  Verdict verdict{.rule = rule};
  if (r.size() < 2 || r.size() < runs) {
    verdict.because = r.size() < runs ? "a run diverged" : "one seed gives no interval";
    return verdict;
  }
  const MeanInterval interval = interval_of_correlation(r);
  if (interval.low > 0.5) verdict.outcome = Outcome::reproduced;
  if (interval.high < 0.5) verdict.outcome = Outcome::not_reproduced;
  verdict.because = "r = " + fixed(interval.mean, 3) + ", 95 % interval " +
                    interval_text(interval, 3) + ", " + std::to_string(r.size()) + " seeds";
  return verdict;
}

// --- The plots -----------------------------------------------------------------------------------

Plot scatter(const std::vector<RunRecord>& runs) {
  Plot plot{.name = "correlation",
            .title = "After training: alpha and 1/std over the layers",
            .x_label = "1 / standard deviation of the layer's input (no unit)",
            .y_label = "alpha (no unit)",
            .caption = "Each point is one DyT of one run."};
  for (const RunRecord& run : runs) {
    if (run.diverged()) continue;
    plot.series.push_back({.name = "seed " + std::to_string(run.seed),
                           .x = run.list("1/std"),
                           .y = run.list("alpha"),
                           .style = SeriesStyle::points});
  }
  return plot;
}

Plot over_depth(const std::vector<RunRecord>& runs) {
  Plot plot{.name = "depth",
            .title = "After training: from the first DyT to the last",
            .x_label = "place of the DyT in the network",
            .y_label = "alpha, and 1/std of its input",
            .log_y = true,
            .caption = "Mean over the seeds; the bands reach from the lowest to the highest."};
  for (const std::string name : {"alpha", "1/std"}) {
    if (std::optional<Series> s = mean_of_lists(runs, "DyT", name)) {
      s->name = name, s->color = name == "alpha" ? 0 : 1;
      plot.series.push_back(std::move(*s));
    }
  }
  return plot;
}

// Three sites of a run: alpha solid, 1/std dashed.
Plot during_training(const RunRecord& run, const std::vector<std::string>& sites,
                     const TrainOptions& train) {
  Plot plot{.name = "training",
            .title = "During training: alpha and 1/std of three layers (seed " +
                     std::to_string(run.seed) + ")",
            .x_label = "training step (batches of " + std::to_string(train.batch) + ")",
            .y_label = "alpha, and 1/std of its input",
            .log_y = true,
            .caption = "Solid: alpha. Dashed: 1/std of the same layer's input."};
  int color = 0;
  for (const std::string& site : sites) {
    for (const std::string name : {"alpha", "1/std"}) {
      Series s{.name = name + " " + site,
               .style = name == "alpha" ? SeriesStyle::line : SeriesStyle::dashed,
               .color = color};
      for (const CurvePoint& p : run.curve) {
        if (p.metric == s.name) s.x.push_back(double(p.step)), s.y.push_back(p.value);
      }
      plot.series.push_back(std::move(s));
    }
    ++color;
  }
  return plot;
}

// The values of one metric over training.
std::vector<double> course(const RunRecord& run, const std::string& metric) {
  std::vector<double> values;
  for (const CurvePoint& p : run.curve) {
    if (p.metric == metric) values.push_back(p.value);
  }
  return values;
}

std::vector<std::string> sites_of(const RunRecord& run) {
  const std::string prefix = "alpha ";
  std::vector<std::string> sites;
  for (const CurvePoint& p : run.curve) {
    if (p.step == 0 && p.metric.rfind(prefix, 0) == 0) {
      sites.push_back(p.metric.substr(prefix.size()));
    }
  }
  return sites;
}

// The correlation over the layers at every step that was looked at.
Plot correlation_during_training(const std::vector<RunRecord>& runs, const TrainOptions& train) {
  Plot plot{.name = "r",
            .title = "During training: correlation of alpha and 1/std over the layers",
            .x_label = "training step (batches of " + std::to_string(train.batch) + ")",
            .y_label = "r over the layers (no unit)",
            .horizontal = {{0.5, "the rule's bound"}},
            .y_range = Range{-1, 1},
            .caption = "Before the first step all alphas are equal, and there is no correlation."};
  for (const RunRecord& run : runs) {
    std::map<int64_t, std::array<std::vector<double>, 2>> by_step;
    for (const CurvePoint& p : run.curve) {
      if (p.metric.rfind("alpha ", 0) == 0) by_step[p.step][0].push_back(p.value);
      if (p.metric.rfind("1/std ", 0) == 0) by_step[p.step][1].push_back(p.value);
    }
    Series s{.name = "seed " + std::to_string(run.seed)};
    for (const auto& [step, values] : by_step) {
      if (step == 0) continue;
      s.x.push_back(double(step)), s.y.push_back(pearson_correlation(values[0], values[1]));
    }
    plot.series.push_back(std::move(s));
  }
  return plot;
}

Table table_of(const RunRecord& run) {
  Table table{.title = "The layers of the run of seed " + std::to_string(run.seed),
              .header = {"DyT", "alpha", "1/std", "lowest alpha", "r over training"},
              .note =
                  "r over training: the correlation of this layer's alpha and 1/std over the "
                  "steps. Every alpha starts at 0.5."};
  for (const std::string& site : sites_of(run)) {
    const std::vector<double> alpha = course(run, "alpha " + site);
    const std::vector<double> rstd = course(run, "1/std " + site);
    table.rows.push_back({site, fixed(alpha.back(), 3), fixed(rstd.back(), 3),
                          fixed(*std::min_element(alpha.begin(), alpha.end()), 3),
                          fixed(pearson_correlation(alpha, rstd), 2)});
  }
  return table;
}

}  // namespace

Report run_09_alpha_follows_std(const Options& options) {
  ViTSetting setting = small_vit(options);
  if (options.size != Size::full) setting.model.depth *= 2;
  const ImageSplits data = load_for(setting, options);
  const Study study{.number = 9, .options = options};
  const Look look = look_at_alpha(data.test, options.size == Size::smoke ? 16 : 100, setting.train);
  const std::vector<RunRecord> runs =
      run_classifiers(study, {vit_arm("DyT", setting, {.kind = NormKind::dyt})}, setting.seeds,
                      data, setting.train, look);
  std::vector<double> r;
  Table correlations{.title = "Correlation of alpha and 1/std over the layers, after training",
                     .header = {"seed", "r", "test accuracy"}};
  for (const RunRecord& run : runs) {
    const std::string seed = std::to_string(run.seed);
    if (run.diverged()) {
      correlations.rows.push_back(
          {seed, "-", "diverged at step " + std::to_string(run.diverged_at)});
      continue;
    }
    r.push_back(pearson_correlation(run.list("alpha"), run.list("1/std")));
    correlations.rows.push_back({seed, fixed(r.back(), 3), percent(run.number("test accuracy"))});
  }
  Report report;
  report.verdict = judge(r, runs.size());
  report.paper = "strong correlation in ViT and ConvNeXt (Figure 8; no number is given)";
  report.ours = r.empty() ? "all runs diverged" : "r = " + plus_minus(r, 3) + " over the layers";
  report.plots = {scatter(runs)};
  const auto learned =
      std::find_if(runs.begin(), runs.end(), [](const RunRecord& run) { return !run.diverged(); });
  const RunRecord& shown = learned == runs.end() ? runs.front() : *learned;
  const std::vector<std::string> sites = sites_of(shown);
  if (sites.size() > 2) {
    report.plots.push_back(during_training(
        shown, {sites.front(), sites[sites.size() / 2], sites.back()}, setting.train));
  }
  report.plots.push_back(correlation_during_training(runs, setting.train));
  report.plots.push_back(over_depth(runs));
  report.tables = {correlations};
  if (!shown.diverged()) report.tables.push_back(table_of(shown));
  report.notes = {
      "The paper's alphas had 300 epochs to find their place. In a short run the activations grow "
      "quickly with the first large steps, and alpha, which starts at 0.5 everywhere, has little "
      "time to follow: the third plot shows whether it is on its way."};
  report.settings = settings_for_report(data, setting.train);
  report.settings.insert(report.settings.begin(), {"model", describe(setting.model) + ", DyT"});
  add_runs(report, study, runs);
  return report;
}

}  // namespace dyt
