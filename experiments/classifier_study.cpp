#include "experiments/classifier_study.h"

#include "training/progress.h"

namespace dyt {

DType default_dtype(Device device) { return device == Device::cuda ? DType::bf16 : DType::f32; }

std::vector<ClassifierRun> run_classifiers(const std::string& label, const std::vector<Arm>& arms,
                                           int seeds, const ImageSplits& data,
                                           const TrainOptions& train, Device device) {
  std::vector<ClassifierRun> runs;
  const size_t total = arms.size() * size_t(seeds);
  for (int seed = 1; seed <= seeds; ++seed) {
    for (const Arm& arm : arms) {
      const std::string what = label + " [" + std::to_string(runs.size() + 1) + "/" +
                               std::to_string(total) + "] " + arm.name + ", seed " +
                               std::to_string(seed);
      Parameters parameters;
      const Forward forward = arm.build(parameters);
      parameters.allocate(device, default_dtype(device), uint64_t(seed));
      TrainOptions options = train;
      options.seed = uint64_t(seed);
      ProgressLine line(what);
      runs.push_back({arm.name, seed,
                      train_classifier(forward, parameters, data, options, std::ref(line)),
                      parameters.count()});
    }
  }
  return runs;
}

std::vector<double> final_accuracies(const std::vector<ClassifierRun>& runs, const std::string& arm,
                                     int classes) {
  std::vector<double> accuracies;
  for (const ClassifierRun& run : runs) {
    if (run.arm != arm) continue;
    accuracies.push_back(run.result.diverged() ? 1.0 / classes : run.result.last().test_accuracy);
  }
  return accuracies;
}

std::vector<CurvePoint> curves_of(const std::vector<ClassifierRun>& runs) {
  std::vector<CurvePoint> points;
  for (const ClassifierRun& run : runs) {
    for (const Evaluation& e : run.result.curve) {
      points.push_back({run.arm, run.seed, e.step, "train loss", e.train_loss});
      points.push_back({run.arm, run.seed, e.step, "test loss", e.test_loss});
      points.push_back({run.arm, run.seed, e.step, "test accuracy (%)", 100 * e.test_accuracy});
    }
  }
  return points;
}

Table table_of_seeds(const std::vector<ClassifierRun>& runs, const std::vector<Arm>& arms) {
  Table table{.title = "Final test accuracy of every run", .header = {"seed"}};
  for (const Arm& arm : arms) table.header.push_back(arm.name);
  for (const ClassifierRun& run : runs) {
    if (run.arm == arms.front().name) table.rows.push_back({std::to_string(run.seed)});
    table.rows.back().push_back(run.result.diverged()
                                    ? "diverged at step " + std::to_string(run.result.diverged_at)
                                    : percent(run.result.last().test_accuracy));
  }
  return table;
}

}  // namespace dyt
