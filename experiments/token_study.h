// What studies of models that predict tokens have in common (language_study.h,
// translation_study.h).
#pragma once
#include <string>
#include <vector>

#include "experiments/study.h"
#include "training/trainer.h"

namespace dyt {

// curve    "train loss", "val loss"
// numbers  "val loss", "train loss" (nats per token); NaN if the run diverged
RunRecord record_of_losses(const TrainResult& result, const Parameters& parameters);

// How training shows itself on one line: "loss 2.345, validation 2.456".
std::string losses_text(const Progress& progress);

// Final validation losses of an arm's runs, in order of their seeds. A run that diverged counts as
// guessing: the logarithm of the vocabulary.
std::vector<double> losses_of(const std::vector<RunRecord>& runs, const std::string& arm,
                              int vocabulary);

// Validation loss of these arms while they train; nothing if all of them diverged before the first
// look. The title and x's label are for the caller to fill in.
std::vector<Plot> plot_of_losses(const std::vector<RunRecord>& runs,
                                 const std::vector<std::string>& arms, const std::string& name);

}  // namespace dyt
