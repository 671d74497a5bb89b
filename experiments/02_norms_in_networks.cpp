// Experiment 02: What LayerNorm does in trained networks.
//
// THE CLAIM (DyT, Figures 2 to 4). In trained Transformers the early LayerNorms map input to output
// almost in a straight line; the deep ones follow an S-shaped curve like a tanh's. For each token
// the map is a line; the bend comes from the tokens and the few channels that carry extreme values,
// which are squashed. Experiment 01 shows the mechanism on tokens made for it; here are networks
// that we trained.
//
// WHAT WE MEASURE. A small ViT with LayerNorm is trained; then test images are sent through it, and
// for each LayerNorm all pairs (input, output before gamma and beta) of all tokens and channels go
// into one cloud, to which we fit, by least squares, a line and a * tanh(b x + c) + d. R2 is the
// share of the output's variance that a fit explains; the bend is R2(tanh) - R2(line).
//
// THE ARM. There is one, LN: nothing is compared.
//
// THE RULE. See `rule`. It asks that the bend grows with depth, and that one can see it in the deep
// layers. A line is a limit of tanh, so the bend is never negative; hence the comparison of deep
// with early layers. The norm that ends the network is left out: it sees the mean over the tokens.
// It was written before the first run.
#include "experiments/norm_shapes.h"
#include "experiments/vit_setting.h"

namespace dyt {
namespace {

constexpr const char* rule =
    "d is the mean bend of the deepest third of the norms minus that of the first third. "
    "REPRODUCED "
    "if the 95 % interval of d over the seeds lies above 0 and in the deepest third tanh leaves, "
    "on "
    "average, at most 80 % of what the line leaves unexplained. NOT REPRODUCED if the interval of "
    "d "
    "lies below 0, or if tanh leaves more than 95 % there. Otherwise INCONCLUSIVE.";

Verdict judge(const std::vector<RunRecord>& runs) {
  Verdict verdict{.rule = rule};
  std::vector<double> differences, left_overs, early, deep;
  for (const RunRecord& run : runs) {
    if (run.diverged()) continue;
    const DepthTrend trend = depth_trend_of(run);
    differences.push_back(trend.difference()), left_overs.push_back(trend.deep_left_over);
    early.push_back(trend.early), deep.push_back(trend.deep);
  }
  if (differences.size() < 2) {
    verdict.because = "one run gives no interval";
    return verdict;
  }
  const MeanInterval d = mean_interval(differences);
  const double left_over = mean(left_overs);
  if (d.low > 0 && left_over <= 0.8) {
    verdict.outcome = Outcome::reproduced;
  } else if (d.high < 0 || left_over > 0.95) {
    verdict.outcome = Outcome::not_reproduced;
  }
  verdict.because = "mean bend " + fixed(mean(early), 4) + " in the first third and " +
                    fixed(mean(deep), 4) + " in the deepest; d = " + signed_fixed(d.mean, 4) +
                    ", 95 % interval " + interval_text(d, 4) + ", " + std::to_string(d.n) +
                    " seeds; in the deepest third tanh leaves " + percent(left_over, 0) +
                    " of what the line leaves";
  return verdict;
}

}  // namespace

Report run_02_norms_in_networks(const Options& options) {
  ViTSetting setting = small_vit(options);
  if (options.size != Size::full) setting.model.depth *= 2;
  const ImageSplits data = load_for(setting, options);
  const int64_t images = options.size == Size::smoke ? 4 : 100;
  const Look look{
      .at =
          [&](int64_t step, const Forward& forward, const Parameters& parameters, RunRecord& run) {
            if (step != setting.train.steps) return;
            note_norm_shapes(observe_norms(forward, parameters, data.test, images),
                             /*keep_points=*/true, run);
          },
      .settings = "shapes of the norms, " + std::to_string(images) + " test images"};
  const Study study{.number = 2, .options = options, .part = "ViT"};
  const std::vector<RunRecord> runs =
      run_classifiers(study, {vit_arm("LN", setting, {.kind = NormKind::layernorm})}, setting.seeds,
                      data, setting.train, look);
  Report report;
  report.verdict = judge(runs);
  report.paper = "early norms close to linear, deep ones S-shaped (Figure 2; no number is given)";
  const RunRecord& first = runs.front();
  if (!first.diverged()) {
    const std::vector<NormShape> shapes = norm_shapes_of(first);
    const NormShape& deep = shapes[shapes.size() - 2];
    report.ours = "R2 of line / tanh: first norm " + fixed(shapes[0].line_r2, 3) + " / " +
                  fixed(shapes[0].tanh_r2, 3) + ", last of a block " + fixed(deep.line_r2, 3) +
                  " / " + fixed(deep.tanh_r2, 3) + " (ViT, first seed)";
    report.plots = plots_of_norm_shapes(first, "ViT");
    report.plots.insert(report.plots.begin(), plot_of_fits(runs, "ViT"));
    report.tables = {table_of_norm_shapes(first, "ViT")};
  } else {
    report.ours = "the first run diverged";
  }
  report.tables.push_back(table_of_accuracy_by_seed(runs));
  report.settings = settings_for_report(data, setting.train);
  report.settings.insert(report.settings.begin(), {"model", describe(setting.model) + ", LN"});
  add_runs(report, study, runs);
  return report;
}

}  // namespace dyt
