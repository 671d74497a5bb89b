#include "experiments/classifier_study.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace dyt {
namespace {

RunRecord record_of(const TrainResult& result, const Parameters& parameters, int classes) {
  RunRecord run;
  run.diverged_at = result.diverged_at;
  for (const Evaluation& e : result.curve) {
    const auto add = [&](const char* metric, double value) {
      run.curve.push_back({.step = e.step, .metric = metric, .value = value});
    };
    add("train loss", e.train_loss);
    add("test loss", e.test_loss);
    add("test accuracy (%)", 100 * e.test_accuracy);
  }
  const bool ended = !result.diverged();
  run.numbers["test accuracy"] = ended ? result.last().test_accuracy : 1.0 / classes;
  run.numbers["test loss"] = ended ? result.last().test_loss : std::nan("");
  run.numbers["train loss"] = ended ? result.last().train_loss : std::nan("");
  run.parameters = parameters.count();
  run.samples = result.samples;
  run.seconds = result.seconds;
  return run;
}

RunRecord train_arm(const ClassifierArm& arm, int64_t seed, const Study& study,
                    const ImageSplits& data, const TrainOptions& study_options, const Look& look,
                    const ShowRun& show) {
  const Device device = parse_device(study.options.device);
  Parameters parameters;
  const Forward forward = arm.build(parameters);
  parameters.allocate(device, default_dtype(device), uint64_t(seed));
  const auto train = [&](const TrainOptions& options) {
    const TrainResult result =
        train_classifier(forward, parameters, data, options, [&](const Progress& p) {
          std::string text = "loss " + fixed(p.loss, 3);
          if (p.last && p.last->test_accuracy >= 0)
            text += ", accuracy " + percent(p.last->test_accuracy, 1);
          show(p.step, p.steps, text);
        });
    return record_of(result, parameters, data.train.classes());
  };
  return train_and_look(forward, parameters, study_options, seed, arm.lr, look, train);
}

}  // namespace

std::vector<RunRecord> run_classifiers(Study study, const std::vector<ClassifierArm>& arms,
                                       int seeds, const ImageSplits& data,
                                       const TrainOptions& train, const Look& look) {
  study.settings += settings_of(data) + "; " + settings_of(train) + settings_of(look);
  std::vector<StudyArm> study_arms;
  for (const ClassifierArm& arm : arms) {
    study_arms.push_back({arm.name, arm.settings + settings_of_lr(arm.lr), arm.work});
  }
  return run_study(study, study_arms, seeds, [&](size_t arm, int64_t seed, const ShowRun& show) {
    return train_arm(arms[arm], seed, study, data, train, look, show);
  });
}

// Until 2026-11-28 it was enough for REPRODUCED that the mean was above -1 and the interval no
// wider than 6 points, whatever had been learned.
Verdict judge_as_good(const std::vector<double>& dyt, const std::vector<double>& layernorm,
                      double guessing) {
  constexpr double margin = 0.01;
  Verdict verdict{
      .rule =
          "d is DyT's accuracy minus LN's, with a 95 % interval over paired seeds. REPRODUCED if "
          "the whole interval lies above -1.0 point, and LN is at least twice as accurate as "
          "guessing. NOT REPRODUCED if the whole interval lies below -1.0 point. Otherwise "
          "INCONCLUSIVE. A run that diverges counts as guessing."};
  if (layernorm.size() < 2) {
    verdict.because = "one seed gives no interval";
    return verdict;
  }
  const MeanInterval d = paired_difference_interval(dyt, layernorm);
  if (d.high < -margin) {
    verdict.outcome = Outcome::not_reproduced;
  } else if (d.low >= -margin && mean(layernorm) >= 2 * guessing) {
    verdict.outcome = Outcome::reproduced;
  }
  verdict.because = "d = " + signed_fixed(100 * d.mean) + " points, 95 % interval " +
                    points_interval(d) + ", " + std::to_string(d.n) + " seeds";
  return verdict;
}

std::vector<double> accuracies_of(const std::vector<RunRecord>& runs, const std::string& arm) {
  return numbers_of(runs, arm, "test accuracy");
}

Table table_of_accuracies(const std::vector<RunRecord>& runs, const std::vector<std::string>& arms,
                          const std::string& baseline) {
  const std::vector<double> base = accuracies_of(runs, baseline);
  Table table{.title = "Test accuracy",
              .header = {"arm", "ours", "minus " + baseline + " (points)", "95 % interval",
                         "runs that diverged"},
              .note = "Mean ± standard deviation over " + counted(int64_t(base.size()), "seed") +
                      "; the interval is that of the paired difference."};
  for (const std::string& arm : arms) {
    const std::vector<double> values = accuracies_of(runs, arm);
    std::string difference = "-", interval = "-";
    if (arm != baseline) {
      difference = signed_fixed(100 * (mean(values) - mean(base)));
      if (base.size() > 1) {
        interval = points_interval(paired_difference_interval(values, base));
      }
    }
    const std::vector<const RunRecord*> of_arm = runs_of(runs, arm);
    const auto diverged = std::count_if(of_arm.begin(), of_arm.end(),
                                        [](const RunRecord* run) { return run->diverged(); });
    table.rows.push_back({arm, percent_plus_minus(values), difference, interval,
                          std::to_string(diverged) + " of " + std::to_string(of_arm.size())});
  }
  return table;
}

Table table_of_accuracy_by_seed(const std::vector<RunRecord>& runs) {
  return table_of_seeds(runs, "Final test accuracy of every run", "test accuracy",
                        [](double accuracy) { return percent(accuracy); });
}

std::vector<Plot> plots_of_training(const std::vector<RunRecord>& runs, const TrainOptions& train,
                                    const std::string& what) {
  const std::vector<CurvePoint> curves = curves_of(runs);
  std::vector<Plot> plots;
  const auto add = [&](const char* metric, const char* name, const std::string& title,
                       const char* y_label, const char* caption) {
    if (!has_metric(curves, metric)) return;  // all runs diverged
    Plot& plot = plots.emplace_back(plot_of_curves(curves, metric));
    plot.name = name, plot.title = title, plot.y_label = y_label, plot.caption = caption;
    plot.x_label = "training step (batches of " + std::to_string(train.batch) + ")";
  };
  add("test accuracy (%)", "accuracy", "Test accuracy while training: " + what, "test accuracy (%)",
      "Mean over the seeds; the band reaches from the lowest to the highest.");
  add("train loss", "loss", "Training loss: " + what, "cross-entropy (nats)",
      train.augment ? "Mean since the last point, over batches with random crops and flips."
                    : "Mean since the last point.");
  return plots;
}

std::vector<std::pair<std::string, std::string>> settings_for_report(const ImageSplits& data,
                                                                     const TrainOptions& t) {
  std::string optimizer = "AdamW (" + fixed(t.adamw.beta1, 1) + ", " + fixed(t.adamw.beta2, 3) +
                          "), lr " + fixed(t.lr, 4) + ", cosine, " + std::to_string(t.warmup) +
                          " warm-up steps, weight decay " + fixed(t.adamw.weight_decay, 2);
  if (t.adamw.max_norm > 0) optimizer += ", clip " + fixed(t.adamw.max_norm, 0);
  if (t.label_smoothing > 0) optimizer += ", label smoothing " + fixed(t.label_smoothing, 1);
  return {{"data", data.train.name + ": " + std::to_string(data.train.size()) + " train, " +
                       std::to_string(data.test.size()) + " test" +
                       (t.augment ? "; random crop and flip" : "")},
          {"optimizer", optimizer},
          {"steps", std::to_string(t.steps) + " of " + std::to_string(t.batch) + " images"}};
}

std::string describe(const ViTConfig& c) {
  return "ViT, width " + std::to_string(c.width) + ", depth " + std::to_string(c.depth) + ", " +
         std::to_string(c.heads) + " heads, patch " + std::to_string(c.patch_size) +
         (c.pool == Pool::mean ? ", mean pooling" : ", class token");
}

}  // namespace dyt
