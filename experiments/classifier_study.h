// Studies of image classifiers: the machinery under the experiments that compare models on images.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "experiments/run_settings.h"
#include "experiments/training_run.h"
#include "training/classifier.h"

namespace dyt {

// Declares a model's parameters and returns its forward pass.
using BuildModel = std::function<Forward(Parameters& parameters)>;

struct ClassifierArm {
  std::string name;
  std::string settings;  // what the model depends on
  BuildModel build;
  double lr = 0;    // another peak learning rate than the study's, where that is the question; or 0
  double work = 1;  // of a run, relative to the other arms'
};

// An arm of a model of models/ with its configuration: classifier_arm<ViT>("LN", config).
template <class Model, class Config>
ClassifierArm classifier_arm(const std::string& name, const Config& config) {
  return {name, settings_of(config), [config](Parameters& parameters) -> Forward {
            return [model = Model(config, parameters)](Tape& tape, const Tensor& images) {
              return model.forward(tape, images);
            };
          }};
}

using Look = LookInto<Forward>;

// Trains every arm with `seeds` seeds from --first-seed on. A seed fixes the initial values (equal
// wherever two arms have a parameter of the same name and shape), the data order and the
// augmentation, so what the arms of a seed differ in is the arm. A record has
//   curve    "train loss", "test loss", "test accuracy (%)"
//   numbers  "test accuracy" (0 to 1), "test loss", "train loss" (mean since the last look but one)
// A run that diverged has the accuracy of guessing, 1 / classes, and losses that are NaN.
std::vector<RunRecord> run_classifiers(Study study, const std::vector<ClassifierArm>& arms,
                                       int seeds, const ImageSplits& data,
                                       const TrainOptions& train, const Look& look = {});

// The verdict on "DyT is as accurate as LN", of 03 and 04. The paper's differences are a few tenths
// of a point, which three seeds of a small model can't resolve; so there is a margin, of one point.
// `guessing` is the accuracy of that: where nobody has learned anything, all are equal.
Verdict judge_as_good(const std::vector<double>& dyt, const std::vector<double>& layernorm,
                      double guessing);

// Final test accuracies (0 to 1) of an arm's runs, in order of their seeds.
std::vector<double> accuracies_of(const std::vector<RunRecord>& runs, const std::string& arm);

// "arm | test accuracy | difference to the baseline (points) | its 95 % interval | diverged"
Table table_of_accuracies(const std::vector<RunRecord>& runs, const std::vector<std::string>& arms,
                          const std::string& baseline);
Table table_of_accuracy_by_seed(const std::vector<RunRecord>& runs);

// "test accuracy (%)" and "train loss" of all runs while they train. `what`: "LN and DyT".
std::vector<Plot> plots_of_training(const std::vector<RunRecord>& runs, const TrainOptions& train,
                                    const std::string& what);

// The settings "data", "optimizer" and "steps", for the report.
std::vector<std::pair<std::string, std::string>> settings_for_report(const ImageSplits& data,
                                                                     const TrainOptions& train);
std::string describe(const ViTConfig& config);  // "ViT, width 96, depth 4, ..."

}  // namespace dyt
