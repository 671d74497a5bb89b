#include "experiments/norm_shapes.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/philox.h"

namespace dyt {
namespace {

const std::string site_mark = "norm ";  // lists "norm SITE": {R2 of line, R2 of tanh, std of input}
constexpr size_t extreme_channels = 3, tokens_drawn = 5;
constexpr size_t points_drawn = 1000, points_of_extremes = 50;

// Places of the rows, or channels, from the smallest value to the largest.
std::vector<size_t> order_of(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return values[a] < values[b]; });
  return order;
}

struct Points {
  std::vector<double> x, y;
};

// The channels with the largest inputs, largest first.
std::vector<size_t> most_extreme_channels(const SiteActivations& s) {
  std::vector<double> largest(size_t(s.channels), 0);
  for (size_t i = 0; i < s.in.size(); ++i) {
    double& of_channel = largest[i % size_t(s.channels)];
    of_channel = std::max(of_channel, std::abs(double(s.in[i])));
  }
  std::vector<size_t> order = order_of(largest);
  std::reverse(order.begin(), order.end());
  order.resize(std::min(order.size(), extreme_channels));
  return order;
}

// Random points of the channels for which `wanted` is true.
template <class Wanted>
Points some_points(const SiteActivations& s, const std::vector<float>& y, size_t count,
                   Wanted wanted) {
  Points points;
  RandomSequence random(0, 0);
  for (size_t trial = 0; trial < 100 * count && points.x.size() < count; ++trial) {
    const size_t i = random.below(uint32_t(s.in.size()));
    if (!wanted(i % size_t(s.channels))) continue;
    points.x.push_back(double(s.in[i])), points.y.push_back(double(y[i]));
  }
  return points;
}

// "points SITE: what" as two lists.
void note_points(RunRecord& run, const std::string& site, const std::string& what, Points points) {
  run.lists.emplace_back("x of " + site + ": " + what, std::move(points.x));
  run.lists.emplace_back("y of " + site + ": " + what, std::move(points.y));
}

void note_cloud(RunRecord& run, const SiteActivations& s, const std::vector<float>& y) {
  const std::vector<size_t> extreme = most_extreme_channels(s);
  note_points(run, s.site, "the other channels",
              some_points(s, y, points_drawn, [&](size_t channel) {
                return std::find(extreme.begin(), extreme.end(), channel) == extreme.end();
              }));
  for (const size_t c : extreme) {
    note_points(
        run, s.site, "channel " + std::to_string(c),
        some_points(s, y, points_of_extremes, [&](size_t channel) { return channel == c; }));
  }
}

// All channels of some tokens, from the one with the smallest standard deviation to the largest.
void note_tokens(RunRecord& run, const SiteActivations& s, const std::vector<float>& y) {
  const size_t C = size_t(s.channels);
  std::vector<double> stds;
  for (int64_t row = 0; row < s.rows; ++row) {
    const auto begin = s.in.begin() + row * s.channels;
    stds.push_back(spread_of({begin, begin + s.channels}).std);
  }
  const std::vector<size_t> order = order_of(stds);
  for (size_t k = 0; k < tokens_drawn; ++k) {
    const size_t token = order[k * (order.size() - 1) / (tokens_drawn - 1)];
    Points points;
    for (size_t c = 0; c < C; ++c) {
      points.x.push_back(double(s.in[token * C + c]));
      points.y.push_back(double(y[token * C + c]));
    }
    note_points(run, s.site, "token of std " + fixed(stds[token], 2), std::move(points));
  }
}

std::vector<float> before_gamma(const SiteActivations& s, bool centred, double epsilon) {
  if (centred) return standardised(s.in, s.channels, epsilon);
  std::vector<float> y(s.in.size());
  for (size_t begin = 0; begin < y.size(); begin += size_t(s.channels)) {
    double squares = 0;
    for (size_t c = 0; c < size_t(s.channels); ++c) squares += std::pow(double(s.in[begin + c]), 2);
    const double rstd = 1 / std::sqrt(squares / double(s.channels) + epsilon);
    for (size_t c = 0; c < size_t(s.channels); ++c) {
      y[begin + c] = float(double(s.in[begin + c]) * rstd);
    }
  }
  return y;
}

std::string lower(std::string text) {
  for (char& c : text) c = char(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

}  // namespace

void note_norm_shapes(const std::vector<SiteActivations>& sites, bool keep_points, RunRecord& run,
                      bool centred, double epsilon) {
  require(sites.size() >= 4, "a network with ", sites.size(), " norms has no early and deep ones");
  for (size_t i = 0; i < sites.size(); ++i) {
    const SiteActivations& s = sites[i];
    const std::vector<float> out = before_gamma(s, centred, epsilon);
    const std::vector<double> x(s.in.begin(), s.in.end()), y(out.begin(), out.end());
    run.lists.emplace_back(
        site_mark + s.site,
        std::vector<double>{fit_line(x, y).r2, fit_tanh(x, y).r2, spread_of(s.in).std});
    const size_t last = sites.size() - 2;
    if (!keep_points || (i != 0 && i != last / 2 && i != last)) continue;
    note_cloud(run, s, out);
    if (i == last) note_tokens(run, s, out);
  }
}

std::vector<NormShape> norm_shapes_of(const RunRecord& run) {
  std::vector<NormShape> shapes;
  for (const auto& [name, values] : run.lists) {
    if (name.rfind(site_mark, 0) != 0) continue;
    shapes.push_back({.site = name.substr(site_mark.size()),
                      .line_r2 = values.at(0),
                      .tanh_r2 = values.at(1),
                      .input_std = values.at(2)});
  }
  return shapes;
}

DepthTrend depth_trend_of(const RunRecord& run) {
  std::vector<NormShape> shapes = norm_shapes_of(run);
  require(shapes.size() >= 4, "a network with ", shapes.size(),
          " norms has no early and deep ones");
  shapes.pop_back();
  const size_t third = std::max<size_t>(shapes.size() / 3, 1);
  DepthTrend trend;
  for (size_t i = 0; i < third; ++i) {
    const NormShape& deep = shapes[shapes.size() - 1 - i];
    trend.early += shapes[i].bend() / double(third);
    trend.deep += deep.bend() / double(third);
    trend.deep_left_over += deep.left_over() / double(third);
  }
  return trend;
}

std::vector<Plot> plots_of_norm_shapes(const RunRecord& run, const std::string& model) {
  std::vector<Plot> plots;
  for (const auto& [name, x] : run.lists) {
    // "x of SITE: what"; a cloud and a plot of tokens for each site
    const size_t colon = name.find(": ");
    if (name.rfind("x of ", 0) != 0 || colon == name.npos) continue;
    const std::string site = name.substr(5, colon - 5), what = name.substr(colon + 2);
    const bool tokens = what.rfind("token ", 0) == 0;
    std::string file = lower(model) + "-" + lower(site) + (tokens ? "-tokens" : "");
    std::replace(file.begin(), file.end(), '.', '-');
    if (plots.empty() || plots.back().name != file) {
      plots.push_back(
          {.name = file,
           .title = model + ", " + site + (tokens ? ": each token is a line" : ""),
           .x_label = "input of the norm (no unit)",
           .y_label = "output before gamma and beta",
           .caption = tokens
                          ? "All channels of five tokens, from the smallest standard deviation "
                            "to the largest."
                          : "All tokens of some images or texts, after training. In colours: the "
                            "three channels with the largest inputs."});
    }
    const bool others = what == "the other channels";
    const int color = others ? 5 : int(plots.back().series.size()) - (tokens ? 0 : 1);
    plots.back().series.push_back(
        {.name = what,
         .x = x,
         .y = run.list("y of " + name.substr(5)),
         .style = SeriesStyle::points,
         .color = others || tokens ? color : std::array{1, 6, 3}[color % 3]});
  }
  return plots;
}

Plot plot_of_fits(const std::vector<RunRecord>& runs, const std::string& model) {
  Plot plot{.name = lower(model) + "-fits",
            .title = model + ": how well a line and a tanh fit, by depth",
            .x_label = "place of the norm in the network",
            .y_label = "R2 of the fit (no unit)",
            .caption =
                "After training. Mean over the seeds; the bands reach from the lowest to the "
                "highest. The last norm ends the network."};
  for (const bool is_tanh : {false, true}) {
    Series s{.name = is_tanh ? "fitted tanh" : "fitted line",
             .style = SeriesStyle::line_points,
             .color = is_tanh ? 6 : 2};
    double count = 0;
    for (const RunRecord& run : runs) {
      const std::vector<NormShape> shapes = norm_shapes_of(run);
      if (shapes.empty()) continue;
      ++count;
      for (size_t i = 0; i < shapes.size(); ++i) {
        const double r2 = is_tanh ? shapes[i].tanh_r2 : shapes[i].line_r2;
        if (s.x.size() == i) {
          s.x.push_back(double(i + 1)), s.y.push_back(0), s.low.push_back(r2), s.high.push_back(r2);
        }
        s.y[i] += r2, s.low[i] = std::min(s.low[i], r2), s.high[i] = std::max(s.high[i], r2);
      }
    }
    for (double& y : s.y) y /= count;
    plot.series.push_back(std::move(s));
  }
  return plot;
}

Table table_of_norm_shapes(const RunRecord& run, const std::string& model) {
  Table table{.title = model + ": the norms of the first seed's run",
              .header = {"norm", "R2 of line", "R2 of tanh", "left over by tanh / by line",
                         "std of input"}};
  for (const NormShape& s : norm_shapes_of(run)) {
    table.rows.push_back({s.site, fixed(s.line_r2, 4), fixed(s.tanh_r2, 4),
                          percent(s.left_over(), 0), fixed(s.input_std, 2)});
  }
  return table;
}

}  // namespace dyt
