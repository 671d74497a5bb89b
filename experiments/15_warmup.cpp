// Experiment 15: who needs warm-up?
//
// THE CLAIM (On Layer Normalization in the Transformer Architecture, sections 3 and 4). A Post-LN
// Transformer trained without learning-rate warm-up, or with too short a one, trains badly or
// diverges, with Adam and with SGD too (IWSLT14 De-En, Adam at 1e-3 and 5e-4). A Pre-LN one needs
// no warm-up: it trains as well without as a Post-LN one does with it.
//
// WHAT WE MEASURE. Final validation loss of a small language model in GPT-2's style,
// after a run with no warm-up, a short and a long one. No gradient is clipped: clipping is
// another remedy against the same evil. (The paper translates; experiment 24 will.)
//
// THE ARMS. Post-LN and Pre-LN x warm-up x two learning rates x Adam and SGD with momentum; and
// with Adam the same with DyT in LN's place. Learning rates: the larger of each two is near the
// best for Post-LN with the long warm-up, the paper's baseline.
//
// THE RULE. See `rule`: Adam, at the larger learning rate, decides. Settled before the first run.
#include <algorithm>
#include <cmath>

#include "experiments/gpt_setting.h"

namespace dyt {
namespace {

constexpr double margin = 0.05;  // nats per token
constexpr const char* rule =
    "With Adam at the larger learning rate, in nats per token: a is Post-LN without warm-up minus "
    "Post-LN with the long one, b is Pre-LN without warm-up minus Post-LN with the long one, each "
    "with a 95 % interval over paired seeds. REPRODUCED if a's interval lies above 0 and b's below "
    "+0.05. NOT REPRODUCED if a's lies below +0.05, or b's above +0.05. Otherwise INCONCLUSIVE. A "
    "run that diverges counts as guessing.";

struct Setting {
  GPTSetting base;
  std::vector<int64_t> warmups;  // none, short, long
  double adam[2], sgd[2];        // learning rates: smaller, larger
};

Setting setting_of(const Options& options) {
  Setting s{.base = small_gpt(options, 600000),
            .warmups = {0, 20, 100},
            .adam = {2e-3, 4e-3},
            .sgd = {0.1, 0.3}};
  TrainOptions& train = s.base.train;
  GPTConfig& model = s.base.model;
  switch (options.size) {
    case Size::smoke:
      s.warmups = {0, 2, 6};
      train.steps = 10, train.evaluate_every = 5;
      break;
    case Size::small:
      // With Adam, a Post-LN of 6 layers learns nothing here within 400 steps, warm-up or not.
      model.width = 32, model.depth = 3, model.heads = 2, model.context = 64;
      train.steps = 600, train.batch = 16, train.evaluate_every = 50;
      break;
    case Size::full:
      model.depth = 12;
      s.warmups = {0, 100, 1000};
      s.adam[0] = 5e-4, s.adam[1] = 1e-3;
      break;
  }
  train.adamw.max_norm = 0;
  return s;
}

std::string warmup_name(int64_t steps) {
  return steps ? "warm-up " + std::to_string(steps) : std::string("no warm-up");
}
std::string arm_name(const std::string& model, const char* optimizer, double lr, int64_t warmup) {
  return model + ", " + optimizer + " " + fixed(lr, lr < 0.01 ? 4 : 1) + ", " + warmup_name(warmup);
}

GPTConfig config_of(const Setting& s, const std::string& model) {
  GPTConfig config = s.base.model;
  if (model.find("DyT") != model.npos) config = with_squashing(config, NormKind::dyt);
  config.norm.placement = model.rfind("Post", 0) == 0 ? Placement::post : Placement::pre;
  return config;
}

const std::vector<std::string> with_ln = {"Post-LN", "Pre-LN"};
const std::vector<std::string> all_models = {"Post-LN", "Pre-LN", "Post-DyT", "Pre-DyT"};

// The arms of one optimizer and one warm-up: one study.
std::vector<RunRecord> run_part(const Setting& s, const Options& options, bool sgd,
                                int64_t warmup) {
  const char* optimizer = sgd ? "SGD" : "Adam";
  TrainOptions train = s.base.train;
  train.warmup = warmup;
  if (sgd) train.sgd = SgdOptions{};
  const double* rates = sgd ? s.sgd : s.adam;
  train.lr = rates[1], train.lr_floor = rates[1] / 100;
  std::vector<LanguageArm> arms;
  for (const std::string& model : sgd ? with_ln : all_models) {
    for (const double lr : {rates[0], rates[1]}) {
      arms.push_back({arm_name(model, optimizer, lr, warmup), config_of(s, model), lr});
    }
  }
  const Study study{.number = 15,
                    .options = options,
                    .part = std::string(optimizer) + ", " + warmup_name(warmup)};
  return run_language_models(study, arms, s.base.seeds, s.base.text, train);
}

struct Results {
  const Setting& s;
  const std::vector<RunRecord>& runs;
  std::vector<double> losses(const std::string& model, const char* optimizer, double lr,
                             int64_t warmup) const {
    return losses_of(runs, arm_name(model, optimizer, lr, warmup), s.base.text);
  }
};

Verdict judge(const Results& r) {
  Verdict verdict{.rule = rule};
  const double lr = r.s.adam[1];
  const std::vector<double> base = r.losses("Post-LN", "Adam", lr, r.s.warmups.back());
  if (base.size() < 2) {
    verdict.because = "one seed gives no interval";
    return verdict;
  }
  const MeanInterval a = paired_difference_interval(r.losses("Post-LN", "Adam", lr, 0), base);
  const MeanInterval b = paired_difference_interval(r.losses("Pre-LN", "Adam", lr, 0), base);
  if (a.high < margin || b.low > margin) {
    verdict.outcome = Outcome::not_reproduced;
  } else if (a.low > 0 && b.high < margin) {
    verdict.outcome = Outcome::reproduced;
  }
  verdict.because = "a = " + signed_fixed(a.mean, 3) + " " + interval_text(a, 3) +
                    ", b = " + signed_fixed(b.mean, 3) + " " + interval_text(b, 3) +
                    " nats per token; " + std::to_string(base.size()) + " seeds";
  return verdict;
}

// Rows: model and learning rate; columns: the warm-ups.
Table table_of(const Results& r, bool sgd) {
  const char* optimizer = sgd ? "SGD" : "Adam";
  Table table{.title = std::string("Validation loss (nats per token), ") +
                       (sgd ? "SGD with momentum 0.9" : "Adam"),
              .header = {"model", "learning rate"},
              .note = "Mean over the seeds; in brackets, where it is not 0, how many diverged."};
  for (const int64_t warmup : r.s.warmups) table.header.push_back(warmup_name(warmup));
  for (const std::string& model : sgd ? with_ln : all_models) {
    for (const double lr : {sgd ? r.s.sgd[0] : r.s.adam[0], sgd ? r.s.sgd[1] : r.s.adam[1]}) {
      std::vector<std::string> row = {model, fixed(lr, lr < 0.01 ? 4 : 1)};
      for (const int64_t warmup : r.s.warmups) {
        const auto of_arm = runs_of(r.runs, arm_name(model, optimizer, lr, warmup));
        const auto diverged = std::count_if(of_arm.begin(), of_arm.end(),
                                            [](const RunRecord* run) { return run->diverged(); });
        row.push_back(fixed(mean(r.losses(model, optimizer, lr, warmup)), 3) +
                      (diverged ? " (" + std::to_string(diverged) + ")" : ""));
      }
      table.rows.push_back(std::move(row));
    }
  }
  return table;
}

// Final loss against the warm-up, at the larger learning rate.
Plot plot_of(const Results& r, bool sgd) {
  Plot plot{.name = sgd ? "sgd" : "adam",
            .title = std::string("Loss against warm-up, ") + (sgd ? "SGD with momentum" : "Adam") +
                     ", at the larger learning rate",
            .x_label = "warm-up (steps)",
            .y_label = "final validation loss (nats per token)",
            .caption =
                "Mean over the seeds; the bands reach from the lowest to the highest. A run "
                "that diverged counts as guessing."};
  const std::vector<std::string>& models = sgd ? with_ln : all_models;
  for (size_t m = 0; m < models.size(); ++m) {
    Series series{.name = models[m], .style = SeriesStyle::line_points, .color = int(m)};
    for (size_t w = 0; w < r.s.warmups.size(); ++w) {
      const std::vector<double> losses =
          r.losses(models[m], sgd ? "SGD" : "Adam", sgd ? r.s.sgd[1] : r.s.adam[1], r.s.warmups[w]);
      series.x.push_back(double(w)), series.y.push_back(mean(losses));
      series.low.push_back(*std::min_element(losses.begin(), losses.end()));
      series.high.push_back(*std::max_element(losses.begin(), losses.end()));
    }
    plot.series.push_back(std::move(series));
  }
  for (size_t w = 0; w < r.s.warmups.size(); ++w) {
    plot.x_tics.push_back({double(w), std::to_string(r.s.warmups[w])});
  }
  plot.x_range = Range{-0.2, double(r.s.warmups.size()) - 0.8};
  return plot;
}

}  // namespace

Report run_15_warmup(const Options& options) {
  const Setting s = setting_of(options);
  std::vector<RunRecord> runs;
  for (const bool sgd : {false, true}) {
    for (const int64_t warmup : s.warmups) {
      const std::vector<RunRecord> part = run_part(s, options, sgd, warmup);
      runs.insert(runs.end(), part.begin(), part.end());
    }
  }
  const Results results{s, runs};
  Report report;
  report.verdict = judge(results);
  report.paper = "Post-LN without warm-up trains badly or diverges; Pre-LN trains as well without";
  for (const char* model : {"Post-LN", "Pre-LN"}) {
    for (const int64_t warmup : {int64_t(0), s.warmups.back()}) {
      report.ours += (report.ours.empty() ? "" : ", ") + std::string(model) + ", " +
                     warmup_name(warmup) + " " +
                     fixed(mean(results.losses(model, "Adam", s.adam[1], warmup)), 3);
    }
  }
  report.plots = {plot_of(results, false), plot_of(results, true)};
  std::vector<std::string> courses;
  for (const std::string& model : with_ln) {
    for (const int64_t warmup : {int64_t(0), s.warmups.back()}) {
      courses.push_back(arm_name(model, "Adam", s.adam[1], warmup));
    }
  }
  for (Plot& plot : plot_of_losses(runs, courses, s.base.text, s.base.train, "training")) {
    report.plots.push_back(std::move(plot));
  }
  report.tables = {table_of(results, false), table_of(results, true)};
  report.notes = {
      "No gradient is clipped. AdamW's beta2 is " + fixed(s.base.train.adamw.beta2, 2) +
      ", which forgets the first steps sooner than 0.999 and so is kind to runs without "
      "warm-up."};
  report.settings = settings_for_report(s.base.text, s.base.train);
  report.settings[1].second = "Adam and SGD; learning rates and warm-ups as in the tables";
  report.settings.insert(report.settings.begin(), {"model", describe(s.base.model)});
  add_runs(report, Study{.number = 15, .options = options}, runs);
  return report;
}

}  // namespace dyt
