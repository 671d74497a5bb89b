// Plots: as SVG, drawn by gnuplot in a child process, and as plain text for the terminal.
#pragma once
#include <optional>
#include <string>
#include <vector>

namespace dyt {

enum class SeriesStyle { line, points, line_points, dashed };

// One curve or cloud. A value that is not finite (a diverged run) leaves a gap.
struct Series {
  std::string name = {};  // in the legend; empty: not in it. At most about 45 characters.
  std::vector<double> x = {}, y = {};
  // Empty, or one value per point: a shaded band round a line, error bars on points.
  std::vector<double> low = {}, high = {};
  SeriesStyle style = SeriesStyle::line;
  // Which colour of the palette (Okabe and Ito's, safe for the colour-blind): 0 blue, 1 vermilion,
  // 2 green, 3 orange, 4 purple, 5 sky blue, 6 black. By default the series' place in the plot.
  // Give it where an arm must keep its colour from plot to plot.
  int color = -1;
};

struct ReferenceLine {
  double at = 0;
  std::string label = {};  // in the legend
};

struct Tic {
  double at = 0;
  std::string label = {};  // empty: the number
};

struct Range {
  double low = 0, high = 0;
};

// A table of numbers as coloured cells, each with its number in it.
struct HeatMap {
  std::vector<std::string> columns = {}, rows = {};  // what stands at them; the first row is lowest
  std::vector<std::vector<double>> values = {};      // [row][column]; NaN: failed, crossed out
  int decimals = 0;
};

struct Plot {
  std::string name = {};                   // the file's stem: letters, digits, '-' and '_'
  std::string title = {};                  // long ones are wrapped
  std::string x_label = {}, y_label = {};  // with units: "validation accuracy (%)"
  bool log_x = false, log_y = false;
  std::vector<ReferenceLine> vertical = {}, horizontal = {};
  std::vector<Series> series = {};
  std::vector<Tic> x_tics =
      {};  // names of arms, or depths 6, 12, 24 on a log axis; empty: automatic
  std::optional<Range> x_range = {}, y_range = {};  // default: what the data need
  std::string caption = {};                         // for the report, under the plot
  std::optional<HeatMap> heat_map = {};             // instead of series
};

// No series draws more than this many points (a line: vertices); what is left out of a cloud is
// chosen at random, the same in every run, and the legend says so. A line keeps its peaks.
constexpr size_t max_points_of_series = 1200;

// The plot as a standalone SVG document that scales to the width it is given, or nothing if there
// is no gnuplot on the PATH. Throws Error if the plot is malformed or gnuplot fails.
std::optional<std::string> render_svg(const Plot& plot);

// What to print, once, where render_svg gave nothing.
inline constexpr const char* no_gnuplot_message =
    "plots skipped: gnuplot not found; apt install gnuplot-nox";

// The plot in characters, `width` x `height` of them within the axes, ending in a newline.
std::string render_text(const Plot& plot, int width = 64, int height = 14);

}  // namespace dyt
