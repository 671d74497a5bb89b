#include "experiments/language_study.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace dyt {
namespace {

RunRecord record_of(const TrainResult& result, const Parameters& parameters) {
  RunRecord run;
  run.diverged_at = result.diverged_at;
  for (const Evaluation& e : result.curve) {
    run.curve.push_back({.step = e.step, .metric = "train loss", .value = e.train_loss});
    run.curve.push_back({.step = e.step, .metric = "val loss", .value = e.test_loss});
  }
  const bool ended = !result.diverged();
  run.numbers["val loss"] = ended ? result.last().test_loss : std::nan("");
  run.numbers["train loss"] = ended ? result.last().train_loss : std::nan("");
  run.parameters = parameters.count();
  run.samples = result.samples;
  run.seconds = result.seconds;
  return run;
}

RunRecord train_arm(const LanguageArm& arm, int64_t seed, const Study& study,
                    const TextDataset& text, const TrainOptions& study_options,
                    const LanguageLook& look, const ShowRun& show) {
  const Device device = parse_device(study.options.device);
  Parameters parameters;
  const GPT model(arm.config, parameters);
  parameters.allocate(device, default_dtype(device), uint64_t(seed));
  const auto train = [&](const TrainOptions& options) {
    const TrainResult result =
        train_language_model(model, parameters, text, options, [&](const Progress& p) {
          std::string line = "loss " + fixed(p.loss, 3);
          if (p.last) line += ", validation " + fixed(p.last->test_loss, 3);
          show(p.step, p.steps, line);
        });
    return record_of(result, parameters);
  };
  return train_and_look(model, parameters, study_options, seed, arm.lr, look, train);
}

}  // namespace

std::vector<RunRecord> run_language_models(Study study, const std::vector<LanguageArm>& arms,
                                           int seeds, const TextDataset& text,
                                           const TrainOptions& train, const LanguageLook& look) {
  study.settings += settings_of(text) + "; " + settings_of(train) + settings_of(look);
  std::vector<StudyArm> study_arms;
  for (const LanguageArm& arm : arms) {
    study_arms.push_back({arm.name, settings_of(arm.config) + settings_of_lr(arm.lr), arm.work});
  }
  return run_study(study, study_arms, seeds, [&](size_t arm, int64_t seed, const ShowRun& show) {
    return train_arm(arms[arm], seed, study, text, train, look, show);
  });
}

std::vector<double> losses_of(const std::vector<RunRecord>& runs, const std::string& arm,
                              const TextDataset& text) {
  std::vector<double> losses = numbers_of(runs, arm, "val loss");
  for (double& loss : losses) {
    if (!std::isfinite(loss)) loss = std::log(double(text.vocabulary));
  }
  return losses;
}

Table table_of_losses(const std::vector<RunRecord>& runs, const std::vector<std::string>& arms,
                      const std::string& baseline, const TextDataset& text) {
  const std::vector<double> base = losses_of(runs, baseline, text);
  Table table{.title = "Validation loss (nats per token)",
              .header = {"arm", "ours", "above the entropy", "minus " + baseline, "95 % interval",
                         "runs that diverged"},
              .note = "Mean ± standard deviation over " + std::to_string(base.size()) +
                      " seeds; the interval is that of the paired difference."};
  for (const std::string& arm : arms) {
    const std::vector<double> values = losses_of(runs, arm, text);
    std::string difference = "-", interval = "-";
    if (arm != baseline) {
      difference = signed_fixed(mean(values) - mean(base), 4);
      if (base.size() > 1) interval = interval_text(paired_difference_interval(values, base), 4);
    }
    const std::vector<const RunRecord*> of_arm = runs_of(runs, arm);
    const auto diverged = std::count_if(of_arm.begin(), of_arm.end(),
                                        [](const RunRecord* run) { return run->diverged(); });
    const bool known = std::isfinite(text.entropy_rate);
    table.rows.push_back({arm, values.size() > 1 ? plus_minus(values, 4) : fixed(values[0], 4),
                          known ? fixed(mean(values) - text.entropy_rate, 4) : "-", difference,
                          interval,
                          std::to_string(diverged) + " of " + std::to_string(of_arm.size())});
  }
  if (std::isfinite(text.entropy_rate)) {
    table.note += " The entropy of the text is " + fixed(text.entropy_rate, 4) +
                  " nats per token: no model's loss can be lower.";
  }
  return table;
}

Table table_of_loss_by_seed(const std::vector<RunRecord>& runs) {
  return table_of_seeds(runs, "Final validation loss of every run (nats per token)", "val loss",
                        [](double loss) { return fixed(loss, 4); });
}

std::vector<Plot> plot_of_losses(const std::vector<RunRecord>& runs,
                                 const std::vector<std::string>& arms, const TextDataset& text,
                                 const TrainOptions& train, const std::string& name) {
  std::vector<CurvePoint> points;
  for (const std::string& arm : arms) {
    for (const RunRecord* run : runs_of(runs, arm)) {
      for (const CurvePoint& p : run->curve) {
        if (p.metric == "val loss") points.push_back(p);
      }
    }
  }
  if (points.empty()) return {};
  Plot plot = plot_of_curves(points, "val loss");
  plot.name = name;
  plot.title = "Validation loss while training";
  plot.x_label = "training step (batches of " + std::to_string(train.batch) + " windows)";
  plot.y_label = "validation loss (nats per token)";
  plot.caption = "Mean over the seeds; the band reaches from the lowest to the highest.";
  if (std::isfinite(text.entropy_rate)) {
    plot.horizontal = {{text.entropy_rate, "entropy of the text"}};
  }
  return {plot};
}

std::string describe(const GPTConfig& c) {
  return std::string(c.style == GPTStyle::gpt2 ? "GPT-2" : "LLaMA") + " style, width " +
         std::to_string(c.width) + ", depth " + std::to_string(c.depth) + ", " +
         std::to_string(c.heads) + " heads, context " + std::to_string(c.context) +
         " tokens, vocabulary " + std::to_string(c.vocabulary);
}

std::vector<std::pair<std::string, std::string>> settings_for_report(const TextDataset& text,
                                                                     const TrainOptions& t) {
  std::string optimizer = "AdamW (" + fixed(t.adamw.beta1, 1) + ", " + fixed(t.adamw.beta2, 3) +
                          "), lr " + fixed(t.lr, 4) + ", cosine, " + std::to_string(t.warmup) +
                          " warm-up steps, weight decay " + fixed(t.adamw.weight_decay, 2);
  if (t.sgd) {
    optimizer = "SGD, momentum " + fixed(t.sgd->momentum, 1) + ", lr " + fixed(t.lr, 4) +
                ", cosine, " + std::to_string(t.warmup) + " warm-up steps";
  } else if (t.adamw.max_norm > 0)
    optimizer += ", clip " + fixed(t.adamw.max_norm, 0);
  return {{"data", text.name + ": " + std::to_string(text.train.size()) + " train, " +
                       std::to_string(text.val.size()) + " validation tokens"},
          {"optimizer", optimizer},
          {"steps", std::to_string(t.steps) + " of " + std::to_string(t.batch) + " windows"}};
}

}  // namespace dyt
