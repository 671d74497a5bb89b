#include "commands/metrics.h"

#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

#include "experiments/report.h"

namespace dyt {
namespace {

std::string line_of(const Evaluation& e) {
  nlohmann::ordered_json line = {
      {"step", e.step}, {"train_loss", e.train_loss}, {"test_loss", e.test_loss}};
  if (e.test_accuracy >= 0) line["test_accuracy"] = e.test_accuracy;
  if (!std::isnan(e.average_loss)) line["average_loss"] = e.average_loss;
  if (e.average_accuracy >= 0) line["average_accuracy"] = e.average_accuracy;
  return line.dump();
}

template <class Value>
Series series(const char* name, std::span<const Evaluation> curve, int color, Value&& value) {
  Series s{.name = name, .style = SeriesStyle::line_points, .color = color};
  for (const Evaluation& e : curve) {
    s.x.push_back(double(e.step));
    s.y.push_back(value(e));
  }
  return s;
}

}  // namespace

void MetricsLog::operator()(std::span<const Evaluation> curve) {
  if (written_ == curve.size()) return;
  written_ = curve.size();
  std::string text;
  for (const Evaluation& e : curve) text += line_of(e) + "\n";
  write_file(file_, text);
}

std::vector<std::filesystem::path> write_curves(std::span<const Evaluation> curve,
                                                const std::string& title,
                                                const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> written;
  for (const char* name : {"loss.svg", "accuracy.svg"}) {  // an earlier run's
    std::error_code ignored;
    std::filesystem::remove(folder / name, ignored);
  }
  if (curve.empty()) return written;
  Plot loss{.name = "loss",
            .title = title,
            .x_label = "training step",
            .y_label = curve.back().test_accuracy >= 0 ? "cross-entropy (nats)"
                                                       : "cross-entropy (nats per token)"};
  loss.series = {series("training", curve, 0, [](const Evaluation& e) { return e.train_loss; }),
                 series("unseen data", curve, 1, [](const Evaluation& e) { return e.test_loss; })};
  std::vector<Plot> plots = {loss};
  const bool averages = !std::isnan(curve.back().average_loss);
  if (averages) {
    plots[0].series.push_back(series("unseen data, averaged weights", curve, 2,
                                     [](const Evaluation& e) { return e.average_loss; }));
  }
  if (curve.back().test_accuracy >= 0) {
    Plot accuracy{.name = "accuracy",
                  .title = title,
                  .x_label = "training step",
                  .y_label = "test accuracy (%)"};
    accuracy.series = {
        series("test", curve, 1, [](const Evaluation& e) { return 100 * e.test_accuracy; })};
    if (averages) {
      accuracy.series.push_back(series("test, averaged weights", curve, 2, [](const Evaluation& e) {
        return 100 * e.average_accuracy;
      }));
    }
    plots.push_back(accuracy);
  }
  for (const Plot& plot : plots) {
    const std::optional<std::string> svg = render_svg(plot);
    if (!svg) {
      std::cerr << no_gnuplot_message << "\n";
      break;
    }
    written.push_back(folder / (plot.name + ".svg"));
    write_file(written.back(), *svg);
  }
  return written;
}

}  // namespace dyt
