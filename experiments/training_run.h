// What the runs of image and of language models have in common (classifier_study.h,
// language_study.h).
#pragma once
#include <functional>
#include <string>

#include "experiments/study.h"
#include "training/trainer.h"

namespace dyt {

// Looks into a model while it trains: at step 0, then every `every` steps (0: not), and at the end.
// What it sees goes into the record's curve, numbers and lists. It must leave the model as it is.
template <class Model>
struct LookInto {
  int64_t every = 0;
  std::function<void(int64_t step, const Model&, const Parameters&, RunRecord&)> at = nullptr;
  std::string settings = {};  // what it looks at: part of what a record must agree in
};

template <class Model>
std::string settings_of(const LookInto<Model>& look) {
  if (!look.at) return "";
  return "; look every " + std::to_string(look.every) + ": " + look.settings;
}

// An arm's own peak learning rate, where it has one (above 0).
inline std::string settings_of_lr(double lr) { return lr > 0 ? ", lr " + std::to_string(lr) : ""; }

// The record that train(options) gives of a run with this seed and, if above 0, this peak learning
// rate; with what `look` sees meanwhile.
template <class Model, class Train>
RunRecord train_and_look(const Model& model, const Parameters& parameters, TrainOptions options,
                         int64_t seed, double lr, const LookInto<Model>& look, Train&& train) {
  options.seed = uint64_t(seed);
  if (lr > 0) options.lr_floor *= lr / options.lr, options.lr = lr;
  RunRecord seen;
  if (look.at) {
    look.at(0, model, parameters, seen);
    options.after_step = [&](int64_t step, Tape&) {
      const bool due = look.every > 0 && step % look.every == 0;
      if (due || step == options.steps) look.at(step, model, parameters, seen);
    };
  }
  RunRecord run = train(options);
  run.curve.insert(run.curve.end(), seen.curve.begin(), seen.curve.end());
  run.numbers.insert(seen.numbers.begin(), seen.numbers.end());
  run.lists = std::move(seen.lists);
  return run;
}

}  // namespace dyt
