#include "experiments/plot_axes.h"

#include <algorithm>
#include <cctype>
#include <cmath>

#include "core/error.h"

namespace dyt {

bool Axis::shows(double value) const { return std::isfinite(value) && (!log || value > 0); }

void Axis::include(double value) {
  if (shows(value)) low = std::min(low, value), high = std::max(high, value);
}

double Axis::position(double value) const {
  return log ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
}

void Axis::settle(const std::optional<Range>& wanted, double margin) {
  if (wanted) {
    require(wanted->low < wanted->high && shows(wanted->low) && shows(wanted->high),
            "a plot's range must go up", log ? " from above 0" : "", ", but it is ", wanted->low,
            " to ", wanted->high);
    low = wanted->low, high = wanted->high;
    return;
  }
  if (low > high) low = log ? 1 : 0, high = log ? 10 : 1;
  if (log) {
    const double factor = high > low ? std::pow(high / low, margin) : 2;
    low /= factor, high *= factor;
  } else {
    const double pad = high > low ? margin * (high - low) : std::max(std::abs(low) * 0.1, 0.5);
    low -= pad, high += pad;
  }
}

void check(const Plot& plot) {
  const auto allowed = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
  };
  require(!plot.name.empty() && std::all_of(plot.name.begin(), plot.name.end(), allowed),
          "a plot's name must be letters, digits, '-' and '_', but it is '", plot.name, "'");
  if (plot.heat_map) {
    const HeatMap& map = *plot.heat_map;
    bool fits = !map.rows.empty() && !map.columns.empty() && map.values.size() == map.rows.size();
    for (const auto& row : map.values) fits = fits && row.size() == map.columns.size();
    require(fits && plot.series.empty(), "the heat map '", plot.name,
            "' needs a value for each of its rows and columns, and no series");
  }
  for (const Series& s : plot.series) {
    const bool band = !s.low.empty() || !s.high.empty();
    require(s.x.size() == s.y.size() &&
                (!band || (s.low.size() == s.x.size() && s.high.size() == s.x.size())),
            "series '", s.name, "' of plot '", plot.name, "' has ", s.x.size(), " x, ", s.y.size(),
            " y, ", s.low.size(), " low and ", s.high.size(),
            " high values; x and y must be as many, low and high too or none");
  }
}

Axes axes_of(const Plot& plot, double x_margin, double y_margin) {
  Axes axes{.x = {.log = plot.log_x}, .y = {.log = plot.log_y}};
  for (const Series& s : plot.series) {
    for (size_t i = 0; i < s.x.size(); ++i) {
      if (!axes.x.shows(s.x[i]) || !axes.y.shows(s.y[i])) continue;
      axes.x.include(s.x[i]), axes.y.include(s.y[i]);
      if (!s.low.empty()) axes.y.include(s.low[i]), axes.y.include(s.high[i]);
    }
  }
  for (const ReferenceLine& line : plot.vertical) axes.x.include(line.at);
  for (const ReferenceLine& line : plot.horizontal) axes.y.include(line.at);
  axes.x.settle(plot.x_range, x_margin);
  axes.y.settle(plot.y_range, y_margin);
  return axes;
}

size_t length_utf8(const std::string& text) {
  return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace dyt
