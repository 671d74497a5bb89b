// A plot in characters.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string_view>

#include "core/error.h"
#include "experiments/plot_axes.h"
#include "experiments/report.h"

namespace dyt {

namespace {

std::string heat_map_text(const Plot& plot) {
  const HeatMap& map = *plot.heat_map;
  size_t margin = 0, cell = 7;
  for (const std::string& row : map.rows) margin = std::max(margin, length_utf8(row));
  for (const std::string& column : map.columns) cell = std::max(cell, length_utf8(column) + 1);
  const auto padded = [](const std::string& text, size_t width) {
    return std::string(width - length_utf8(text), ' ') + text;
  };
  std::string out = plot.title + "\n" + plot.y_label + "\n";
  for (size_t y = map.rows.size(); y-- > 0;) {
    out += padded(map.rows[y], margin) + " |";
    for (const double v : map.values[y]) {
      out += padded(std::isfinite(v) ? fixed(v, map.decimals) : "failed", cell);
    }
    out += "\n";
  }
  out += std::string(margin, ' ') + "  ";
  for (const std::string& column : map.columns) out += padded(column, cell);
  return out + "\n" + std::string(margin + 2, ' ') + plot.x_label + "\n";
}

}  // namespace

std::string render_text(const Plot& plot, int width, int height) {
  check(plot);
  if (plot.heat_map) return heat_map_text(plot);
  require(width >= 16 && height >= 4, "a plot in text needs at least 16 x 4 characters, not ",
          width, " x ", height);
  constexpr std::string_view marks = "*o+x#@%";
  const Axes axes = axes_of(plot, 0, 0);
  std::vector<std::string> grid(size_t(height), std::string(size_t(width), ' '));
  const auto put = [&](double x, double y, char mark) {
    if (!axes.x.shows(x) || !axes.y.shows(y)) return;
    const double column = std::round(axes.x.position(x) * (width - 1));
    const double row = std::round((1 - axes.y.position(y)) * (height - 1));
    if (column < 0 || column >= width || row < 0 || row >= height) return;
    grid[size_t(row)][size_t(column)] = mark;
  };
  for (size_t k = 0; k < plot.series.size(); ++k) {
    const Series& s = plot.series[k];
    const char mark = marks[k % marks.size()];
    for (size_t i = 0; i < s.x.size(); ++i) {
      put(s.x[i], s.y[i], mark);
      if (s.style == SeriesStyle::points || i == 0) continue;
      for (int step = 1; step < width; ++step) {  // the line from the point before
        const double t = double(step) / width;
        put(s.x[i - 1] + t * (s.x[i] - s.x[i - 1]), s.y[i - 1] + t * (s.y[i] - s.y[i - 1]), mark);
      }
    }
  }
  const auto short_number = [](double v) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g", v);
    return std::string(text);
  };
  const std::string top = short_number(axes.y.high), bottom = short_number(axes.y.low);
  const size_t margin = std::max(top.size(), bottom.size()) + 1;
  const auto right_aligned = [&](const std::string& text) {
    return std::string(margin - text.size(), ' ') + text;
  };
  std::string out = plot.title + "\n" + plot.y_label + "\n";
  for (int row = 0; row < height; ++row) {
    out += right_aligned(row == 0            ? top
                         : row == height - 1 ? bottom
                                             : "") +
           " |" + grid[size_t(row)];
    while (out.back() == ' ') out.pop_back();
    out += "\n";
  }
  out += right_aligned("") + " +" + std::string(size_t(width), '-') + "\n";
  const std::string left = short_number(axes.x.low), right = short_number(axes.x.high);
  const int gap = width - int(left.size() + right.size() + length_utf8(plot.x_label));
  const int before = std::max(gap / 2, 2), after = std::max(gap - before, 2);
  out += right_aligned("") + "  " + left + std::string(size_t(before), ' ') + plot.x_label +
         std::string(size_t(after), ' ') + right + "\n";
  std::string named;
  for (const Tic& tic : plot.x_tics) {
    if (tic.label.empty()) continue;
    named += (named.empty() ? "" : ", ") + short_number(tic.at) + ": " + tic.label;
  }
  if (!named.empty()) out += right_aligned("") + "  " + named + "\n";
  for (size_t k = 0; k < plot.series.size(); ++k) {
    if (plot.series[k].name.empty()) continue;
    out += right_aligned("") + "  " + marks[k % marks.size()] + " " + plot.series[k].name + "\n";
  }
  return out;
}

}  // namespace dyt
