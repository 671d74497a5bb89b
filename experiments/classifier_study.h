// A grid of arms x seeds of image classifiers, trained one after the other: the machinery under the
// experiments that compare models on images.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "experiments/registry.h"
#include "training/classifier.h"

namespace dyt {

// Declares a model's parameters and returns its forward pass.
using BuildModel = std::function<Forward(Parameters& parameters)>;

struct Arm {
  std::string name;
  BuildModel build;
};

struct ClassifierRun {
  std::string arm;
  int64_t seed = 0;
  TrainResult result;
  int64_t parameters = 0;  // learned numbers
};

// Trains every arm with seeds 1 .. `seeds`. A seed fixes the initial values (equal wherever two
// arms have a parameter of the same name and shape), the data order and the augmentation, so what
// the arms of a seed differ in is the arm. `label` stands in front of the progress line.
std::vector<ClassifierRun> run_classifiers(const std::string& label, const std::vector<Arm>& arms,
                                           int seeds, const ImageSplits& data,
                                           const TrainOptions& train, Device device);

// Final test accuracies (0 to 1) of an arm's runs in order of their seeds; a run that diverged
// counts as what guessing gives, 1 / classes.
std::vector<double> final_accuracies(const std::vector<ClassifierRun>& runs, const std::string& arm,
                                     int classes);

// Points (arm, seed, step, "train loss" | "test loss" | "test accuracy (%)") of every run.
std::vector<CurvePoint> curves_of(const std::vector<ClassifierRun>& runs);

// The number type a device trains in: bf16 on a GPU, else f32.
DType default_dtype(Device device);

// "seed | arm 1 | arm 2 ...", final test accuracies, with "diverged at step n" where it did.
Table table_of_seeds(const std::vector<ClassifierRun>& runs, const std::vector<Arm>& arms);

}  // namespace dyt
