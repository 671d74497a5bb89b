// The tables and plots of experiment 11.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "experiments/alpha0_study.h"
#include "experiments/initial_scale.h"

namespace dyt {
namespace {

Table table_of_optima(const Alpha0Findings& f) {
  Table table{.title = "The best alpha0 of each sweep",
              .header = {"model", "RMSNorm", "lowest loss", "best alpha0", "of the seeds",
                         "std at initialisation", "best alpha0 x std"},
              .note =
                  "Losses in nats per token, means over the seeds. std: of the norms' inputs, "
                  "their geometric mean, in models that were calibrated with c = 1."};
  std::vector<Sweep> all = f.by_width;
  all.push_back(f.deep);
  for (const Sweep& s : all) {
    std::string seeds;
    for (const double b : s.best_log) {
      seeds += (seeds.empty() ? "" : ", ") + short_number(std::exp2(b));
    }
    table.rows.push_back({size_name(s.width, s.depth), fixed(mean(s.rmsnorm), 3),
                          fixed(s.mean_losses[s.lowest()], 3), short_number(s.best()), seeds,
                          fixed(s.scale, 3), fixed(s.best() * s.scale, 2)});
  }
  return table;
}

// A pair of the grid: indices into grid_factors.
struct Pair {
  size_t attention, elsewhere;
  std::vector<double> losses;  // of the seeds
  std::string text() const {
    return short_number(double(grid_center * grid_factors[attention])) + " / " +
           short_number(double(grid_center * grid_factors[elsewhere]));
  }
};

// Is the best alpha0 before attention larger than elsewhere?
Table table_of_grids(const Alpha0Setting& s, const std::vector<RunRecord>& runs) {
  Table table{
      .title = "alpha0 before attention / elsewhere: the best pair of each grid",
      .header = {"model", "best pair", "its loss", "best pair of equals", "its loss",
                 "of the seeds"},
      .note = "Losses in nats per token, means over the seeds; last, the best pair of each seed."};
  for (const auto& [width, depth] : grid_models(s)) {
    std::vector<Pair> pairs;
    for (size_t a = 0; a < std::size(grid_factors); ++a) {
      for (size_t b = 0; b < std::size(grid_factors); ++b) {
        const std::string arm =
            sweep_arm(width, depth, grid_center * grid_factors[a], grid_center * grid_factors[b]);
        pairs.push_back({a, b, losses_of(runs, arm, s.base.text)});
      }
    }
    const auto best_by = [&](const std::function<double(const Pair&)>& loss) {
      return *std::min_element(pairs.begin(), pairs.end(),
                               [&](const Pair& p, const Pair& q) { return loss(p) < loss(q); });
    };
    const auto of_mean = [](const Pair& p) { return mean(p.losses); };
    const Pair best = best_by(of_mean);
    const Pair equal = best_by([&](const Pair& p) {
      return of_mean(p) +
             (p.attention == p.elsewhere ? 0 : std::numeric_limits<double>::infinity());
    });
    std::string seeds;
    for (size_t seed = 0; seed < best.losses.size(); ++seed) {
      seeds += (seed ? ", " : "") + best_by([&](const Pair& p) { return p.losses[seed]; }).text();
    }
    table.rows.push_back({size_name(width, depth), best.text(), fixed(of_mean(best), 3),
                          equal.text(), fixed(of_mean(equal), 3), seeds});
  }
  return table;
}

Table table_of_transfer(const Alpha0Findings& f, const TextDataset& text) {
  const Sweep& s = f.held_out();
  const double best = s.mean_losses[s.lowest()];
  Table table{.title = "Prediction and sweep at width " + std::to_string(s.width),
              .header = {"alpha0", "value", "validation loss", "above the sweep's best (%)"},
              .note = "Fitted on the other widths: c = " + fixed(f.predictions.c, 2) +
                      ", alpha0 = A width^-" + fixed(f.predictions.power, 2) + "."};
  const auto add = [&](const std::string& what, const std::string& value,
                       const std::vector<double>& losses) {
    table.rows.push_back({what, value,
                          losses.size() > 1 ? plus_minus(losses, 3) : fixed(losses[0], 3),
                          signed_fixed(100 * (mean(losses) / best - 1), 1)});
  };
  const auto of_arm = [&](const char* arm) { return losses_of(f.predicted, arm, text); };
  add("the sweep's best", short_number(double(alpha0_sweep[s.lowest()])), s.losses[s.lowest()]);
  add("predicted: c / std, at each norm", "about " + short_number(f.predictions.by_std),
      of_arm(by_std));
  add("predicted: power law", short_number(f.predictions.by_power), of_arm(by_power));
  add("--alpha0 auto: 1 / std, at each norm", "about " + short_number(1 / s.scale),
      of_arm(by_default_c));
  add("the paper's for width 1024", short_number(double(alpha0_sweep[1])), s.losses[1]);
  add("the default", short_number(double(alpha0_sweep[0])), s.losses[0]);
  add("RMSNorm", "-", s.rmsnorm);
  return table;
}

// The models whose alpha0 the paper's authors tuned; hidden widths are LLaMA's. Depths and hidden
// widths of the first two are ours: the paper doesn't say.
struct Published {
  const char* name;
  int width, depth, hidden;
  double attention, elsewhere;
};
constexpr Published published[] = {{"width 1024, depth 24 assumed", 1024, 24, 2736, 1, 1},
                                   {"width 2048, depth 24 assumed", 2048, 24, 5632, 1, 0.5},
                                   {"7B: 4096 x 32", 4096, 32, 11008, 0.8, 0.2},
                                   {"13B: 5120 x 40", 5120, 40, 13824, 0.6, 0.15},
                                   {"34B: 8192 x 48", 8192, 48, 22016, 0.2, 0.05},
                                   {"70B: 8192 x 80", 8192, 80, 28672, 0.2, 0.05}};
constexpr int published_context = 4096;

double predicted_alpha0(const Published& p) {
  return 1 / geometric_mean(predicted_scales(p.width, p.depth, p.hidden, published_context, 1));
}

Table table_of_theory() {
  Table table{.title = "1 / std by theory, and what the paper's authors tuned",
              .header = {"model", "at the first norm", "at the last", "geometric mean",
                         "paper: attention", "paper: elsewhere", "their geometric mean"},
              .note =
                  "Theory for c = 1 and weights that start at 0.02, nothing fitted. The "
                  "initialisation of the authors' models is not in their paper."};
  for (const Published& p : published) {
    const std::vector<double> scales =
        predicted_scales(p.width, p.depth, p.hidden, published_context, 1);
    table.rows.push_back({p.name, fixed(1 / scales.front(), 2), fixed(1 / scales.back(), 3),
                          fixed(predicted_alpha0(p), 3), fixed(p.attention, 2),
                          fixed(p.elsewhere, 2), fixed(std::sqrt(p.attention * p.elsewhere), 2)});
  }
  return table;
}

// --- The plots -----------------------------------------------------------------------------------

Plot plot_of_sweeps(const Alpha0Findings& f, const TextDataset& text) {
  Plot plot{.name = "sweeps",
            .title = "Loss after a short run, by where alpha starts",
            .x_label = "alpha0, the same at every norm",
            .y_label = "validation loss (nats per token)",
            .log_x = true,
            .caption =
                "Mean over the seeds; the bands reach from the lowest to the highest. "
                "Dashed: RMSNorm at the same width."};
  if (std::isfinite(text.entropy_rate)) {
    plot.horizontal = {{text.entropy_rate, "entropy of the text"}};
  }
  std::vector<Sweep> all = f.by_width;
  all.push_back(f.deep);
  int color = 0;
  for (const Sweep& s : all) {
    Series series{.name = size_name(s.width, s.depth),
                  .y = s.mean_losses,
                  .low = s.low,
                  .high = s.high,
                  .style = SeriesStyle::line_points,
                  .color = color};
    for (const float a : alpha0_sweep) series.x.push_back(double(a));
    const double rms = mean(s.rmsnorm);
    plot.series.push_back(series);
    plot.series.push_back({.x = {double(alpha0_sweep[0]), double(std::end(alpha0_sweep)[-1])},
                           .y = {rms, rms},
                           .style = SeriesStyle::dashed,
                           .color = color++});
  }
  for (const float a : alpha0_sweep) plot.x_tics.push_back({double(a), short_number(double(a))});
  return plot;
}

Plot plot_of_grid(const Alpha0Setting& s, const std::vector<RunRecord>& runs, int width,
                  int depth) {
  HeatMap map{.decimals = 2};
  for (const float other : grid_factors) {
    map.rows.push_back(short_number(double(grid_center * other)));
    map.columns.push_back(map.rows.back());
    map.values.emplace_back();
    for (const float attention : grid_factors) {
      const std::string arm = sweep_arm(width, depth, grid_center * attention, grid_center * other);
      map.values.back().push_back(mean(losses_of(runs, arm, s.base.text)));
    }
  }
  return {.name = "grid-" + std::to_string(width) + "x" + std::to_string(depth),
          .title = "Validation loss by alpha0 before attention and elsewhere, " +
                   size_name(width, depth),
          .x_label = "alpha0 before attention",
          .y_label = "alpha0 elsewhere",
          .caption = "Mean over the seeds, nats per token.",
          .heat_map = std::move(map)};
}

// The whole range: our optima, what was measured at initialisation, the theory, and the paper.
Plot plot_of_rule(const Alpha0Setting& s, const Alpha0Findings& f) {
  Plot plot{.name = "rule",
            .title = "The best alpha0 against width, and 1 / std at initialisation",
            .x_label = "width",
            .y_label = "alpha0",
            .log_x = true,
            .log_y = true,
            .horizontal = {{0.5, "default 0.5"}},
            .caption =
                "Ours: the best of each sweep, from the lowest to the highest seed. Theory: "
                "the geometric mean of 1 / std over the norms, c = 1, nothing fitted; its "
                "depth is that of the sweeps, and 32 as in LLaMA 7B. Paper: what its "
                "authors tuned."};
  Series ours{.name = "ours, best of the sweep", .style = SeriesStyle::points, .color = 0};
  Series measured{.name = "1 / std measured", .style = SeriesStyle::points, .color = 5};
  for (const Sweep& sweep : f.by_width) {
    const auto [low, high] = std::minmax_element(sweep.best_log.begin(), sweep.best_log.end());
    ours.x.push_back(sweep.width), ours.y.push_back(sweep.best());
    ours.low.push_back(std::exp2(*low)), ours.high.push_back(std::exp2(*high));
    measured.x.push_back(sweep.width), measured.y.push_back(1 / sweep.scale);
  }
  plot.series = {ours, measured};
  for (const int depth : {s.base.model.depth, 32}) {
    Series theory{.name = "theory, depth " + std::to_string(depth),
                  .style = depth == 32 ? SeriesStyle::line : SeriesStyle::dashed,
                  .color = 6};
    for (double width = f.by_width.front().width; width < 9000; width *= std::sqrt(2.0)) {
      const int d = int(width + 0.5);
      theory.x.push_back(d);
      theory.y.push_back(
          1 / geometric_mean(predicted_scales(d, depth, 8 * d / 3, published_context, 1)));
    }
    plot.series.push_back(theory);
  }
  Series attention{.name = "paper, before attention", .style = SeriesStyle::points, .color = 1};
  Series elsewhere{.name = "paper, elsewhere", .style = SeriesStyle::points, .color = 3};
  for (const Published& p : published) {
    attention.x.push_back(p.width), attention.y.push_back(p.attention);
    elsewhere.x.push_back(p.width), elsewhere.y.push_back(p.elsewhere);
  }
  plot.series.push_back(attention);
  plot.series.push_back(elsewhere);
  for (const int width : {32, 128, 512, 2048, 8192}) plot.x_tics.push_back({double(width), ""});
  return plot;
}

}  // namespace

std::vector<Table> tables_of_alpha0(const Alpha0Setting& s, const Alpha0Findings& f) {
  return {table_of_optima(f), table_of_grids(s, f.runs), table_of_transfer(f, s.base.text),
          table_of_theory()};
}

std::vector<Plot> plots_of_alpha0(const Alpha0Setting& s, const Alpha0Findings& f) {
  std::vector<Plot> plots = {plot_of_rule(s, f), plot_of_sweeps(f, s.base.text)};
  for (const auto& [width, depth] : grid_models(s)) {
    plots.push_back(plot_of_grid(s, f.runs, width, depth));
  }
  return plots;
}

}  // namespace dyt
