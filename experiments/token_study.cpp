#include "experiments/token_study.h"

#include <cmath>

namespace dyt {

RunRecord record_of_losses(const TrainResult& result, const Parameters& parameters) {
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

std::string losses_text(const Progress& p) {
  std::string text = "loss " + fixed(p.loss, 3);
  if (p.last) text += ", validation " + fixed(p.last->test_loss, 3);
  return text;
}

std::vector<double> losses_of(const std::vector<RunRecord>& runs, const std::string& arm,
                              int vocabulary) {
  std::vector<double> losses = numbers_of(runs, arm, "val loss");
  for (double& loss : losses) {
    if (!std::isfinite(loss)) loss = std::log(double(vocabulary));
  }
  return losses;
}

std::vector<Plot> plot_of_losses(const std::vector<RunRecord>& runs,
                                 const std::vector<std::string>& arms, const std::string& name) {
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
  plot.y_label = "validation loss (nats per token)";
  plot.caption = "Mean over the seeds; the band reaches from the lowest to the highest.";
  return {plot};
}

}  // namespace dyt
