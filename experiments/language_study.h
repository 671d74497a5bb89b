// Studies of language models: the machinery under the experiments that compare models on text.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "experiments/run_settings.h"
#include "experiments/token_study.h"
#include "experiments/training_run.h"
#include "training/language.h"

namespace dyt {

struct LanguageArm {
  std::string name;
  GPTConfig config;
  double lr = 0;    // another peak learning rate than the study's, where that is the question; or 0
  double work = 1;  // of a run, relative to the other arms'
};

using LanguageLook = LookInto<GPT>;

// Trains every arm with `seeds` seeds from --first-seed on; what a seed fixes is as in
// classifier_study.h. A record has what token_study.h says.
std::vector<RunRecord> run_language_models(Study study, const std::vector<LanguageArm>& arms,
                                           int seeds, const TextDataset& text,
                                           const TrainOptions& train,
                                           const LanguageLook& look = {});

// As in token_study.h, with the text's vocabulary.
std::vector<double> losses_of(const std::vector<RunRecord>& runs, const std::string& arm,
                              const TextDataset& text);

// The lowest on the way, which early stopping would give; at most that of guessing.
std::vector<double> lowest_losses_of(const std::vector<RunRecord>& runs, const std::string& arm,
                                     const TextDataset& text);

// The loss of a model that knows nothing but how frequent each token is in the training text.
double loss_of_frequencies(const TextDataset& text);

// "arm | validation loss | above the entropy | minus baseline | its 95 % interval | diverged"
Table table_of_losses(const std::vector<RunRecord>& runs, const std::vector<std::string>& arms,
                      const std::string& baseline, const TextDataset& text);
Table table_of_loss_by_seed(const std::vector<RunRecord>& runs);
// The lowest on each run's curve, and when: where a run ends later than it is at its best, it has
// learned its text by heart.
Table table_of_lowest_loss_by_seed(const std::vector<RunRecord>& runs);

// As in token_study.h, with a title and the entropy of the text where it is known.
std::vector<Plot> plot_of_losses(const std::vector<RunRecord>& runs,
                                 const std::vector<std::string>& arms, const TextDataset& text,
                                 const TrainOptions& train, const std::string& name);

// The settings "data", "optimizer" and "steps", for the report.
std::vector<std::pair<std::string, std::string>> settings_for_report(const TextDataset& text,
                                                                     const TrainOptions& train);
std::string describe(const GPTConfig& config);  // "GPT-2 style, width 64, depth 3, ..."

}  // namespace dyt
