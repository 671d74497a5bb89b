#include "experiments/language_study.h"

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
                    const TextDataset& text, TrainOptions options, const LanguageLook& look,
                    const ShowRun& show) {
  const Device device = parse_device(study.options.device);
  Parameters parameters;
  const GPT model(arm.config, parameters);
  parameters.allocate(device, default_dtype(device), uint64_t(seed));
  options.seed = uint64_t(seed);
  if (arm.lr > 0) options.lr_floor *= arm.lr / options.lr, options.lr = arm.lr;

  RunRecord seen;
  if (look.at) {
    look.at(0, model, parameters, seen);
    options.after_step = [&](int64_t step, Tape&) {
      const bool due = look.every > 0 && step % look.every == 0;
      if (due || step == options.steps) look.at(step, model, parameters, seen);
    };
  }
  const TrainResult result =
      train_language_model(model, parameters, text, options, [&](const Progress& p) {
        std::string line = "loss " + fixed(p.loss, 3);
        if (p.last) line += ", validation " + fixed(p.last->test_loss, 3);
        show(p.step, p.steps, line);
      });
  RunRecord run = record_of(result, parameters);
  run.curve.insert(run.curve.end(), seen.curve.begin(), seen.curve.end());
  run.numbers.insert(seen.numbers.begin(), seen.numbers.end());
  run.lists = std::move(seen.lists);
  return run;
}

}  // namespace

std::vector<RunRecord> run_language_models(Study study, const std::vector<LanguageArm>& arms,
                                           int seeds, const TextDataset& text,
                                           const TrainOptions& train, const LanguageLook& look) {
  study.settings += settings_of(text) + "; " + settings_of(train);
  if (look.at) {
    study.settings += "; look every " + std::to_string(look.every) + ": " + look.settings;
  }
  std::vector<StudyArm> study_arms;
  for (const LanguageArm& arm : arms) {
    const std::string lr = arm.lr > 0 ? ", lr " + std::to_string(arm.lr) : "";
    study_arms.push_back({arm.name, settings_of(arm.config) + lr, arm.work});
  }
  return run_study(study, study_arms, seeds, [&](size_t arm, int64_t seed, const ShowRun& show) {
    return train_arm(arms[arm], seed, study, text, train, look, show);
  });
}

std::vector<std::pair<std::string, std::string>> settings_for_report(const TextDataset& text,
                                                                     const TrainOptions& t) {
  std::string optimizer = "AdamW (" + fixed(t.adamw.beta1, 1) + ", " + fixed(t.adamw.beta2, 3) +
                          "), lr " + fixed(t.lr, 4) + ", cosine, " + std::to_string(t.warmup) +
                          " warm-up steps, weight decay " + fixed(t.adamw.weight_decay, 2);
  if (t.adamw.max_norm > 0) optimizer += ", clip " + fixed(t.adamw.max_norm, 0);
  return {{"data", text.name + ": " + std::to_string(text.train.size()) + " train, " +
                       std::to_string(text.val.size()) + " validation tokens"},
          {"optimizer", optimizer},
          {"steps", std::to_string(t.steps) + " of " + std::to_string(t.batch) + " windows"}};
}

}  // namespace dyt
