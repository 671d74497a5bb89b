// Experiment 08: Without alpha.
//
// THE CLAIM (DyT, Table 9). Take the learnable scale alpha out of gamma * f(alpha x) + beta:
// accuracy falls for every squashing function. ViT-B top-1 with and without alpha: tanh 82.5 /
// 81.1, hardtanh 82.2 / 80.7, sigmoid 81.6 / 80.7.
//
// WHAT WE MEASURE. Final test accuracy of a small ViT on small images; all arms with the same seeds
// and with the recipe that suits LayerNorm.
//
// THE ARMS. tanh, hardtanh and sigmoid, each with a learnable alpha that starts at 0.5, and without
// one: f(x), as if alpha were 1 and fixed. So the arms of a pair differ in two things at first,
// alpha's value and whether it learns; that is the paper's comparison.
//
// THE RULE. See `rule`: it asks for a loss on average over the functions that the seeds can
// resolve, and for the same sign with each function. It was written before the first run.
#include <algorithm>

#include "experiments/vit_setting.h"

namespace dyt {
namespace {

constexpr const char* rule =
    "d is the accuracy with alpha minus that without, the mean over the three functions in each "
    "seed. REPRODUCED if the 95 % interval of d lies above 0 and the mean difference of each "
    "function is above 0. NOT REPRODUCED if the interval lies below 0, or is within ±1 point of 0 "
    "and includes it. Otherwise INCONCLUSIVE. A run that diverges counts as guessing.";

struct Function {
  const char* name;
  NormKind kind;
  const char *paper_with, *paper_without;
};
constexpr Function functions[] = {{"tanh", NormKind::dyt, "82.5 %", "81.1 %"},
                                  {"hardtanh", NormKind::hardtanh, "82.2 %", "80.7 %"},
                                  {"sigmoid", NormKind::sigmoid, "81.6 %", "80.7 %"}};

std::string without(const Function& f) { return std::string(f.name) + ", no alpha"; }

Verdict judge(const std::vector<RunRecord>& runs) {
  Verdict verdict{.rule = rule};
  std::vector<double> d(accuracies_of(runs, "tanh").size(), 0);
  if (d.size() < 2) {
    verdict.because = "one seed gives no interval";
    return verdict;
  }
  double least = 1;
  std::string each;
  for (const Function& f : functions) {
    const std::vector<double> yes = accuracies_of(runs, f.name);
    const std::vector<double> no = accuracies_of(runs, without(f));
    for (size_t i = 0; i < d.size(); ++i) d[i] += (yes[i] - no[i]) / std::size(functions);
    const double difference = mean(yes) - mean(no);
    least = std::min(least, difference);
    each += std::string(each.empty() ? "" : ", ") + f.name + " " + signed_fixed(100 * difference);
  }
  const MeanInterval interval = mean_interval(d);
  const bool negligible = interval.low <= 0 && interval.low > -0.01 && interval.high < 0.01;
  if (interval.low > 0 && least > 0) {
    verdict.outcome = Outcome::reproduced;
  } else if (interval.high < 0 || negligible) {
    verdict.outcome = Outcome::not_reproduced;
  }
  verdict.because = "d = " + signed_fixed(100 * interval.mean) + " points, 95 % interval " +
                    points_interval(interval) + ", " + std::to_string(interval.n) + " seeds; " +
                    each;
  return verdict;
}

Table comparison(const std::vector<RunRecord>& runs) {
  Table table{.title = "Top-1 accuracy with and without alpha",
              .header = {"function", "with alpha", "without", "difference (points)",
                         "95 % interval", "paper (ViT-B): with", "without"},
              .note = "The interval is that of the difference, paired by seed."};
  for (const Function& f : functions) {
    const std::vector<double> yes = accuracies_of(runs, f.name);
    const std::vector<double> no = accuracies_of(runs, without(f));
    table.rows.push_back(
        {f.name, percent_plus_minus(yes), percent_plus_minus(no),
         signed_fixed(100 * (mean(yes) - mean(no))),
         yes.size() > 1 ? points_interval(paired_difference_interval(yes, no)) : "-", f.paper_with,
         f.paper_without});
  }
  return table;
}

}  // namespace

Report run_08_without_alpha(const Options& options) {
  ViTSetting setting = small_vit(options);
  const ImageSplits data = load_for(setting, options);
  std::vector<ClassifierArm> arms;
  std::vector<std::string> names;
  for (const Function& f : functions) {
    arms.push_back(vit_arm(f.name, setting, {.kind = f.kind}));
    arms.push_back(vit_arm(without(f), setting, {.kind = f.kind, .learn_alpha = false}));
    names.insert(names.end(), {f.name, without(f)});
  }
  const Study study{.number = 8, .options = options};
  const std::vector<RunRecord> runs =
      run_classifiers(study, arms, setting.seeds, data, setting.train);
  Report report;
  report.verdict = judge(runs);
  report.paper =
      "ViT-B with / without alpha: tanh 82.5 / 81.1 %, hardtanh 82.2 / 80.7 %, sigmoid "
      "81.6 / 80.7 %";
  for (const Function& f : functions) {
    report.ours += std::string(report.ours.empty() ? "" : ", ") + f.name + " " +
                   fixed(100 * mean(accuracies_of(runs, f.name)), 1) + " / " +
                   percent(mean(accuracies_of(runs, without(f))), 1);
  }
  report.plots = {plot_of_arms(runs, names)};
  for (Plot& plot : plots_of_training(runs, setting.train, "with and without alpha")) {
    report.plots.push_back(std::move(plot));
  }
  report.tables = {comparison(runs), table_of_accuracy_by_seed(runs)};
  report.notes = {
      "Without alpha its value is 1; with it, alpha starts at 0.5. The comparison is the "
      "paper's, and can't say how much of a difference is due to the start."};
  report.settings = settings_for_report(data, setting.train);
  report.settings.insert(report.settings.begin(), {"model", describe(setting.model)});
  add_runs(report, study, runs);
  return report;
}

}  // namespace dyt
