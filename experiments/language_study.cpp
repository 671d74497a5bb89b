#include "experiments/language_study.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace dyt {
namespace {

RunRecord train_arm(const LanguageArm& arm, int64_t seed, const Study& study,
                    const TextDataset& text, const TrainOptions& study_options,
                    const LanguageLook& look, const ShowRun& show) {
  const Device device = parse_device(study.options.device);
  Parameters parameters;
  const GPT model(arm.config, parameters);
  parameters.allocate(device, default_dtype(device), uint64_t(seed));
  const auto train = [&](const TrainOptions& options) {
    const TrainResult result =
        train_language_model(model, parameters, text, options,
                             [&](const Progress& p) { show(p.step, p.steps, losses_text(p)); });
    return record_of_losses(result, parameters);
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
  return losses_of(runs, arm, text.vocabulary);
}

namespace {

// The lowest on a run's curve; null if it has none.
const CurvePoint* lowest_of(const RunRecord& run) {
  const CurvePoint* lowest = nullptr;
  for (const CurvePoint& p : run.curve) {
    if (p.metric == "val loss" && (!lowest || p.value < lowest->value)) lowest = &p;
  }
  return lowest;
}

}  // namespace

std::vector<double> lowest_losses_of(const std::vector<RunRecord>& runs, const std::string& arm,
                                     const TextDataset& text) {
  std::vector<double> lowest;
  for (const RunRecord* run : runs_of(runs, arm)) {
    const CurvePoint* const p = lowest_of(*run);
    lowest.push_back(std::log(double(text.vocabulary)));
    if (p) lowest.back() = std::min(lowest.back(), p->value);
  }
  return lowest;
}

// Each token counts as seen once more than it was, so that none is impossible.
double loss_of_frequencies(const TextDataset& text) {
  std::vector<double> seen(size_t(text.vocabulary), 1);
  for (const uint16_t token : text.train) ++seen[token];
  const double all = double(text.train.size()) + double(text.vocabulary);
  double sum = 0;
  for (const uint16_t token : text.val) sum -= std::log(seen[token] / all);
  return sum / double(text.val.size());
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

Table table_of_lowest_loss_by_seed(const std::vector<RunRecord>& runs) {
  return table_of_seeds(runs, "Lowest validation loss of every run (nats per token), and its step",
                        [](const RunRecord& run) {
                          const CurvePoint* const lowest = lowest_of(run);
                          if (!lowest) return std::string("-");
                          return fixed(lowest->value, 4) + " at " + std::to_string(lowest->step);
                        });
}

std::vector<Plot> plot_of_losses(const std::vector<RunRecord>& runs,
                                 const std::vector<std::string>& arms, const TextDataset& text,
                                 const TrainOptions& train, const std::string& name) {
  std::vector<Plot> plots = plot_of_losses(runs, arms, name);
  for (Plot& plot : plots) {
    plot.title = "Validation loss while training";
    plot.x_label = "training step (batches of " + std::to_string(train.batch) + " windows)";
    if (std::isfinite(text.entropy_rate)) {
      plot.horizontal = {{text.entropy_rate, "entropy of the text"}};
    }
  }
  return plots;
}

std::string describe(const GPTConfig& c) {
  return std::string(c.style == GPTStyle::gpt2 ? "GPT-2" : "LLaMA") + " style, width " +
         std::to_string(c.width) + ", depth " + std::to_string(c.depth) + ", " +
         std::to_string(c.heads) + " heads, context " + std::to_string(c.context) +
         " tokens, vocabulary " + std::to_string(c.vocabulary) +
         (c.tied ? ", head tied to the embedding" : ", head of its own");
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
