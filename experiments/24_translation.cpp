// Experiment 24: translation, the setting of the Pre-LN paper.
//
// THE CLAIM (On Layer Normalization in the Transformer Architecture, sections 3.2 and 4.1, IWSLT14
// German-English, 6 + 6 layers). A Post-LN Transformer without learning-rate warm-up translates
// badly (BLEU 8.45 against about 34 with Adam at 1e-3); a Pre-LN one reaches the quality of Post-LN
// with warm-up without any, in fewer steps.
//
// WHAT WE MEASURE. BLEU (sacrebleu's) of test sentences, by beam search, and validation loss. On
// the built-in sagas, whose translation into an invented language has one right answer, or with
// --data multi30k:DIR on German-English captions. The vocabulary of byte pairs is learned from the
// training text.
//
// THE ARMS. Post-LN, Pre-LN, and Pre-DyT (DyT in every place of Pre-LN's norms), each with and
// without warm-up. The decay is the same in all: the inverse square root of the step, from the step
// on at which the long warm-up ends; until then runs without warm-up stay at the peak. The peak is
// near the best for Post-LN with warm-up, the baseline. No gradient is clipped: clipping is another
// remedy against the same evil. DyT's alpha starts at the paper's default, 0.5: embeddings enter at
// size 1 here, unlike GPT's.
//
// THE RULE. See `rule`. Two points of BLEU are less than what a reader notices, and the paper's gap
// is 26. It was written before the first run.
//
// THE PAPER'S SCALE. IWSLT14: width 512, 6 + 6 layers, 4 heads, hidden 1024, dropout 0.3, batches
// of 4,096 tokens, Adam (0.9, 0.98) at 5e-4 or 1e-3, 4,000 steps of warm-up, 10,000 byte pairs,
// beams of 5: with --data parallel:FILE,FILE at --size full the data are yours, the model is
// narrower.
#include <algorithm>
#include <cmath>
#include <optional>

#include "experiments/translation_study.h"

namespace dyt {
namespace {

constexpr double margin = 2;  // points of BLEU
constexpr const char* rule =
    "In points of BLEU: a is Post-LN without warm-up minus Post-LN with it, b is Pre-LN without "
    "warm-up minus Post-LN with it, each with a 95 % interval over paired seeds. REPRODUCED if a's "
    "interval lies below 0 and b's above -2. NOT REPRODUCED if a's lies above -2, or b's below -2. "
    "Otherwise INCONCLUSIVE. A run that diverges has a BLEU of 0.";

const char* const models[] = {"Post-LN", "Pre-LN", "Pre-DyT"};

std::string arm_name(const std::string& model, bool warmup) {
  return model + (warmup ? ", warm-up" : ", no warm-up");
}
const std::string baseline = arm_name("Post-LN", true);

std::vector<std::string> arm_names() {
  std::vector<std::string> names;
  for (const char* model : models) {
    for (const bool warmup : {true, false}) names.push_back(arm_name(model, warmup));
  }
  return names;
}

std::vector<TranslationArm> arms_of(const TranslationSetting& s) {
  std::vector<TranslationArm> arms;
  for (const std::string model : models) {
    TransformerConfig config = s.model;
    config.norm.placement = model == "Post-LN" ? Placement::post : Placement::pre;
    if (model == "Pre-DyT") config.norm.kind = NormKind::dyt;
    for (const bool warmup : {true, false}) {
      arms.push_back({arm_name(model, warmup), config, warmup ? s.train.warmup : 0});
    }
  }
  return arms;
}

struct Results {
  const TranslationSetting& s;
  const std::vector<RunRecord>& runs;
  std::vector<double> bleu(const std::string& arm) const { return numbers_of(runs, arm, "bleu"); }
  std::vector<double> losses(const std::string& arm) const {
    return losses_of(runs, arm, s.task.words.vocabulary());
  }
};

Verdict judge(const Results& r) {
  Verdict verdict{.rule = rule};
  const std::vector<double> base = r.bleu(baseline);
  if (base.size() < 2) {
    verdict.because = "one seed gives no interval";
    return verdict;
  }
  const MeanInterval a = paired_difference_interval(r.bleu(arm_name("Post-LN", false)), base);
  const MeanInterval b = paired_difference_interval(r.bleu(arm_name("Pre-LN", false)), base);
  if (a.low > -margin || b.high < -margin) {
    verdict.outcome = Outcome::not_reproduced;
  } else if (a.high < 0 && b.low > -margin) {
    verdict.outcome = Outcome::reproduced;
  }
  verdict.because = "a = " + signed_fixed(a.mean, 1) + " " + interval_text(a, 1) +
                    ", b = " + signed_fixed(b.mean, 1) + " " + interval_text(b, 1) +
                    " points of BLEU; " + std::to_string(base.size()) + " seeds";
  return verdict;
}

// The first look at which an arm's mean validation loss was down to `loss`.
std::optional<int64_t> steps_to(const Results& r, const std::string& arm, double loss) {
  const std::vector<CurvePoint> curves = curves_of(r.runs);
  if (!has_metric(curves, "val loss")) return std::nullopt;  // all diverged
  const Plot plot = plot_of_curves(curves, "val loss");
  for (const Series& series : plot.series) {
    if (series.name != arm) continue;
    for (size_t i = 0; i < series.x.size(); ++i) {
      if (series.y[i] <= loss) return int64_t(std::llround(series.x[i]));
    }
  }
  return std::nullopt;
}

Table table_of(const Results& r) {
  const std::vector<double> base = r.bleu(baseline);
  const double goal = mean(r.losses(baseline));
  Table table{.title = "BLEU and validation loss",
              .header = {"arm", "BLEU", "minus " + baseline, "95 % interval", "validation loss",
                         "steps to " + fixed(goal, 3), "runs that diverged"},
              .note = "Mean ± standard deviation over " + counted(int64_t(base.size()), "seed") +
                      "; the interval is that of the paired difference. Losses are nats per token, "
                      "not smoothed; the steps are those to the baseline's last loss."};
  for (const std::string& arm : arm_names()) {
    const std::vector<double> values = r.bleu(arm), losses = r.losses(arm);
    std::string difference = "-", interval = "-";
    if (arm != baseline) {
      difference = signed_fixed(mean(values) - mean(base), 1);
      if (base.size() > 1) interval = interval_text(paired_difference_interval(values, base), 1);
    }
    const auto of_arm = runs_of(r.runs, arm);
    const auto diverged = std::count_if(of_arm.begin(), of_arm.end(),
                                        [](const RunRecord* run) { return run->diverged(); });
    const std::optional<int64_t> steps = steps_to(r, arm, goal);
    const bool several = values.size() > 1;
    table.rows.push_back({arm, several ? plus_minus(values, 1) : fixed(values[0], 1), difference,
                          interval, several ? plus_minus(losses, 3) : fixed(losses[0], 3),
                          steps ? std::to_string(*steps) : "not reached",
                          std::to_string(diverged) + " of " + std::to_string(of_arm.size())});
  }
  return table;
}

Plot bleu_plot(const Results& r) {
  Plot plot{.name = "bleu",
            .title = "BLEU with and without warm-up",
            .x_label = "norm and its place",
            .y_label = "BLEU of the test sentences",
            .caption = "Mean over the seeds; the bars reach from the lowest to the highest."};
  for (const bool warmup : {true, false}) {
    Series series{.name = warmup ? "warm-up of " + std::to_string(r.s.train.warmup) + " steps"
                                 : std::string("no warm-up"),
                  .style = SeriesStyle::points};
    for (size_t m = 0; m < std::size(models); ++m) {
      const std::vector<double> values = r.bleu(arm_name(models[m], warmup));
      series.x.push_back(double(m) + (warmup ? -0.08 : 0.08));
      series.y.push_back(mean(values));
      series.low.push_back(*std::min_element(values.begin(), values.end()));
      series.high.push_back(*std::max_element(values.begin(), values.end()));
    }
    plot.series.push_back(std::move(series));
  }
  for (size_t m = 0; m < std::size(models); ++m) plot.x_tics.push_back({double(m), models[m]});
  plot.x_range = Range{-0.5, double(std::size(models)) - 0.5};
  double highest = 1;
  for (const Series& s : plot.series) {
    highest = std::max(highest, *std::max_element(s.high.begin(), s.high.end()));
  }
  plot.y_range = Range{0, std::min(100.0, 1.1 * highest)};
  return plot;
}

}  // namespace

Report run_24_translation(const Options& options) {
  const TranslationSetting setting = small_translation(options);
  const Study study{.number = 24, .options = options};
  const std::vector<RunRecord> runs = run_translation(study, arms_of(setting), setting);
  const Results results{setting, runs};
  Report report;
  report.verdict = judge(results);
  report.paper =
      "BLEU, IWSLT14: Post-LN without warm-up 8.45, with it about 34; Pre-LN without it about 34";
  for (const std::string& arm : arm_names()) {
    report.ours +=
        (report.ours.empty() ? "BLEU: " : ", ") + arm + " " + fixed(mean(results.bleu(arm)), 1);
  }
  report.plots = plot_of_translation(runs, arm_names(), setting, "training");
  report.plots.push_back(bleu_plot(results));
  report.tables = {table_of(results), table_of_seeds(runs, "BLEU of every run", "bleu",
                                                     [](double v) { return fixed(v, 1); })};
  report.notes = {
      "BLEU as sacrebleu computes it by default (13a tokens, case matters), of translations found "
      "with " +
          counted(setting.beam.beams, "beam") + " and a length penalty of " +
          fixed(setting.beam.length_penalty, 1) + ".",
      "In a Pre-DyT model alpha starts at " + fixed(setting.model.norm.alpha0, 1) +
          " in every place."};
  report.settings = settings_for_report(setting);
  add_runs(report, study, runs);
  return report;
}

}  // namespace dyt
