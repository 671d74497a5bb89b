#include "experiments/plot.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <sstream>

#include "core/error.h"
#include "core/philox.h"
#include "experiments/plot_axes.h"
#include "experiments/plot_script.h"

extern char** environ;

namespace dyt {
namespace {

// Okabe and Ito's colours without their yellow, which is hard to see on white.
constexpr std::array<const char*, 7> palette = {"#0072B2", "#D55E00", "#009E73", "#E69F00",
                                                "#CC79A7", "#56B4E9", "#000000"};

constexpr size_t x_label_width = 50;  // in characters

int color_of(const Series& series, size_t place) {
  return int((series.color >= 0 ? size_t(series.color) : place) % palette.size());
}

// Of a cloud: a fair sample without replacement (Knuth's algorithm S) and its four extreme points.
std::vector<size_t> thin_cloud(const Series& s) {
  const size_t n = s.x.size();
  std::vector<char> keep(n, 0);
  const auto extremes = [&](const std::vector<double>& v) {
    size_t low = n, high = n;
    for (size_t i = 0; i < n; ++i) {
      if (!std::isfinite(v[i])) continue;
      if (low == n || v[i] < v[low]) low = i;
      if (high == n || v[i] > v[high]) high = i;
    }
    if (low < n) keep[low] = keep[high] = 1;
  };
  extremes(s.x), extremes(s.y);
  size_t wanted = max_points_of_series - size_t(std::accumulate(keep.begin(), keep.end(), 0));
  size_t candidates = size_t(std::count(keep.begin(), keep.end(), 0));
  RandomSequence random(0, 0);
  std::vector<size_t> chosen;
  for (size_t i = 0; i < n; ++i) {
    if (!keep[i] && random.below(uint32_t(candidates--)) < wanted) keep[i] = 1, --wanted;
    if (keep[i]) chosen.push_back(i);
  }
  return chosen;
}

// Of a line: the lowest and the highest point of every stretch, in their order, and both ends.
std::vector<size_t> thin_line(const Series& s) {
  const size_t n = s.x.size(), stretches = max_points_of_series / 2 - 1;
  std::vector<size_t> chosen = {0};
  for (size_t k = 0; k < stretches; ++k) {
    const size_t begin = k * n / stretches, end = (k + 1) * n / stretches;
    size_t low = begin, high = begin;
    for (size_t i = begin; i < end; ++i) {
      if (std::isnan(s.y[i]) || s.y[i] < s.y[low]) low = i;  // a NaN stays: it is a gap
      if (s.y[i] > s.y[high]) high = i;
    }
    for (const size_t i : {std::min(low, high), std::max(low, high)}) {
      if (i > chosen.back()) chosen.push_back(i);
    }
  }
  if (chosen.back() != n - 1) chosen.push_back(n - 1);
  return chosen;
}

std::vector<size_t> points_to_draw(const Series& s) {
  if (s.x.size() > max_points_of_series) {
    return s.style == SeriesStyle::points ? thin_cloud(s) : thin_line(s);
  }
  std::vector<size_t> all(s.x.size());
  std::iota(all.begin(), all.end(), size_t(0));
  return all;
}

// --- The gnuplot script --------------------------------------------------------------------------

std::string thinned_name(const Series& s, size_t drawn) {
  if (s.name.empty() || s.style != SeriesStyle::points || drawn == s.x.size()) return s.name;
  return s.name + " (" + std::to_string(drawn) + " of " + std::to_string(s.x.size()) + ")";
}

// gnuplot labels whole decades of a logarithmic axis; on one of less than three that is too few.
std::string log_tics(const Axis& axis) {
  const double decades = std::log10(axis.high / axis.low);
  if (!axis.log || decades > 3 || decades < 0.2) return "";
  const std::vector<double> mantissas =
      decades > 0.9 ? std::vector<double>{1, 2, 5} : std::vector<double>{1, 1.5, 2, 3, 4, 5, 6, 8};
  std::string tics;
  for (double power = std::pow(10, std::floor(std::log10(axis.low))); power <= axis.high;
       power *= 10) {
    for (const double mantissa : mantissas) {
      const double at = mantissa * power;
      if (at < axis.low || at > axis.high) continue;
      if (!tics.empty()) tics += ", ";
      tics += number(at);
    }
  }
  return tics;
}

// How the labels of tics are written: in lines of `width` characters; where a word is too long for
// that, every second one below its neighbours.
struct TicLayout {
  size_t width = 54;
  int lines[2] = {1, 0};  // of the first, third ... label, and of those below them

  explicit TicLayout(const std::vector<Tic>& tics) {
    if (tics.empty()) return;
    size_t longest = 0;
    for (const Tic& tic : tics) longest = std::max(longest, longest_word(tic.label));
    width = std::max<size_t>(4, 54 / tics.size());
    const bool staggered = longest > width;
    if (staggered) width = std::min(longest, 2 * width - 1);
    for (size_t i = 0; i < tics.size(); ++i) {
      int& most = lines[staggered ? i % 2 : 0];
      most = std::max(most, gnuplot_line_count(tics[i].label, width));
    }
  }
  bool below(size_t tic) const { return lines[1] > 0 && tic % 2 == 1; }
};
int tic_lines(const Plot& plot) {
  const TicLayout layout(plot.x_tics);
  return layout.lines[0] + layout.lines[1];
}

void append_axes(std::string& script, const Plot& plot, const Axes& axes) {
  script += "set title " + gnuplot_lines(plot.title, 52) + "\n";
  script += "set xlabel " + gnuplot_lines(plot.x_label, x_label_width) + " offset 0," +
            number(0.4 - (tic_lines(plot) - 1)) + "\n";
  script += "set ylabel " + gnuplot_lines(plot.y_label, 34) + "\n";
  for (const auto& [letter, axis] : {std::pair{'x', axes.x}, std::pair{'y', axes.y}}) {
    const std::string name(1, letter);
    if (axis.log) script += "set logscale " + name + "\n";
    script += "set format " + name + " '%g'\n";
    script += "set " + name + "range [" + number(axis.low) + ":" + number(axis.high) + "]\n";
    if (const std::string tics = log_tics(axis); !tics.empty()) {
      script += "set " + name + "tics (" + tics + ")\n";
    }
  }
  if (plot.x_tics.empty()) return;
  script += "set xtics (";
  const TicLayout layout(plot.x_tics);
  for (size_t i = 0; i < plot.x_tics.size(); ++i) {
    const auto& [at, label] = plot.x_tics[i];
    script += i ? ", " : "";
    for (int line = 0; layout.below(i) && line < layout.lines[0]; ++line) script += "\"\\n\".";
    script += gnuplot_lines(label.empty() ? number(at) : label, layout.width) + " " + number(at);
  }
  script += ")\n";
}

bool is_shown(const Series& s, size_t i, const Axes& axes) {
  return axes.x.shows(s.x[i]) && axes.y.shows(s.y[i]);
}
bool any_is_shown(const Series& s, const std::vector<size_t>& drawn, const Axes& axes) {
  return std::any_of(drawn.begin(), drawn.end(), [&](size_t i) { return is_shown(s, i, axes); });
}

// What the legend calls it.
std::string name_in_legend(const Series& s, const std::vector<size_t>& drawn, const Axes& axes) {
  if (s.name.empty()) return "";
  return thinned_name(s, drawn.size()) + (any_is_shown(s, drawn, axes) ? "" : " (no finite value)");
}

// One series: a data block (x y low high), and how to draw it.
void append_series(std::ostream& blocks, std::vector<std::string>& elements, const Series& s,
                   size_t place, const Axes& axes) {
  const std::vector<size_t> drawn = points_to_draw(s);
  const bool band = !s.low.empty();
  const std::string block = "$series" + std::to_string(place);
  const std::string color = std::string(" lc rgb '") + palette[color_of(s, place)] + "'";
  const std::string points = " pt " + std::to_string(std::array{7, 5, 9, 13, 11}[place % 5]);
  const std::string name = name_in_legend(s, drawn, axes);
  const bool any = any_is_shown(s, drawn, axes);
  blocks << block << " << END_OF_SERIES\n";
  for (const size_t i : drawn) {
    blocks << number(s.x[i]) << ' ' << (is_shown(s, i, axes) ? number(s.y[i]) : "NaN");
    if (band) blocks << ' ' << number(s.low[i]) << ' ' << number(s.high[i]);
    blocks << '\n';
  }
  blocks << "END_OF_SERIES\n";
  std::string title = name.empty() ? " notitle" : " title " + gnuplot_text(name);
  const std::string from = any ? block + " using 1:2" : "NaN";
  const bool bars = band && s.style == SeriesStyle::points;
  if (any && band && !bars) {
    elements.push_back(block + " using 1:3:4 with filledcurves fs transparent solid 0.18 noborder" +
                       color + " notitle");
  }
  if (any && bars) {
    elements.push_back(block + " using 1:2:3:4 with yerrorbars lw 2 ps 0.9" + points + color +
                       title);
  } else if (s.style == SeriesStyle::points) {
    // A dense cloud gets small dots, and its legend a dot that can be seen.
    const bool dense = drawn.size() > 300;
    if (dense) {
      elements.push_back(from + " with points ps 0.22" + points + color + " notitle");
      elements.push_back("NaN with points ps 0.8" + points + color + title);
    } else {
      elements.push_back(from + " with points ps 0.7" + points + color + title);
    }
  } else if (s.style == SeriesStyle::line_points) {
    elements.push_back(from + " with linespoints lw 2.5 ps 0.7" + points + color + title);
  } else {
    const char* dash = s.style == SeriesStyle::dashed ? " dt (12,6)" : " dt 1";
    elements.push_back(from + " with lines lw 2.5" + dash + color + title);
  }
}

void append_reference_lines(std::ostream& blocks, std::vector<std::string>& elements,
                            const Plot& plot, const Axes& axes) {
  const char* dashes[] = {"(4,4)", "(10,4,2,4)", "(2,3)", "(16,5)"};
  size_t place = 0;
  const auto add = [&](const std::string& from, const std::string& to, const std::string& label) {
    const std::string block = "$reference" + std::to_string(place);
    blocks << block << " << END_OF_SERIES\n" << from << '\n' << to << "\nEND_OF_SERIES\n";
    elements.push_back(block + " using 1:2 with lines lw 1.5 lc rgb '#555555' dt " +
                       dashes[place++ % 4] +
                       (label.empty() ? " notitle" : " title " + gnuplot_text(label)));
  };
  for (const auto& [at, label] : plot.vertical) {
    if (!axes.x.shows(at)) continue;
    add(number(at) + " " + number(axes.y.low), number(at) + " " + number(axes.y.high), label);
  }
  for (const auto& [at, label] : plot.horizontal) {
    if (!axes.y.shows(at)) continue;
    add(number(axes.x.low) + " " + number(at), number(axes.x.high) + " " + number(at), label);
  }
}

// The legend stands below the plot, in as many columns as its longest name allows, and the canvas
// grows with it: nothing covers the data and the axes keep their size.
struct Legend {
  size_t columns = 1, rows = 0;
};

Legend legend_of(const Plot& plot, const Axes& axes) {
  size_t entries = 0, longest = 0;
  const auto add = [&](const std::string& name) {
    if (!name.empty()) ++entries, longest = std::max(longest, length_utf8(name));
  };
  for (const ReferenceLine& line : plot.vertical) add(line.label);
  for (const ReferenceLine& line : plot.horizontal) add(line.label);
  for (const Series& s : plot.series) {
    add(name_in_legend(s, points_to_draw(s), axes));
  }
  Legend legend{.columns = longest <= 7 ? 3u : longest <= 16 ? 2u : 1u};
  legend.rows = (entries + legend.columns - 1) / legend.columns;
  return legend;
}

std::string gnuplot_script(const Plot& plot) {
  if (plot.heat_map) return heat_map_script(plot);
  const Axes axes = axes_of(plot, 0.03, 0.05);
  std::ostringstream blocks;
  std::vector<std::string> elements;
  append_reference_lines(blocks, elements, plot, axes);
  for (size_t i = 0; i < plot.series.size(); ++i) {
    append_series(blocks, elements, plot.series[i], i, axes);
  }
  if (elements.empty()) elements.push_back("NaN notitle");
  const Legend legend = legend_of(plot, axes);
  const int label_lines = gnuplot_line_count(plot.x_label, x_label_width) + tic_lines(plot) - 1;
  std::string script = script_head(380 + 24 * int(legend.rows) + 20 * (label_lines - 1)) +
                       "set border lc rgb '#444444'\n"
                       "set grid back lt 1 lw 0.7 lc rgb '#dddddd'\n"
                       "set key below center horizontal Left reverse samplen 2.2 maxcols " +
                       std::to_string(legend.columns) +
                       "\n"
                       "set bmargin " +
                       number(2.6 + label_lines + double(legend.rows)) +
                       "\n"
                       "set tics nomirror\n";
  append_axes(script, plot, axes);
  script += blocks.str() + "plot ";
  for (size_t i = 0; i < elements.size(); ++i) script += (i ? ", \\\n  " : "") + elements[i];
  return script + "\n";
}

// --- The child process ---------------------------------------------------------------------------

using File = std::unique_ptr<FILE, int (*)(FILE*)>;

File temporary_file() {
  File file(std::tmpfile(), std::fclose);
  require(file != nullptr, "cannot make a temporary file for gnuplot: ", std::strerror(errno));
  return file;
}

std::string contents(FILE* file) {
  std::string text;
  char buffer[4096];
  std::rewind(file);
  while (const size_t n = std::fread(buffer, 1, sizeof buffer, file)) text.append(buffer, n);
  return text;
}

// Standard input, output and error are unnamed temporary files, so nothing can block or be left
// behind. Nothing if there is no gnuplot. (-d: without the user's start-up file.)
std::optional<std::string> run_gnuplot(const std::string& script) {
  const File in = temporary_file(), out = temporary_file(), err = temporary_file();
  require(std::fwrite(script.data(), 1, script.size(), in.get()) == script.size() &&
              std::fflush(in.get()) == 0,
          "cannot write gnuplot's script to a temporary file: ", std::strerror(errno));
  std::rewind(in.get());
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, fileno(in.get()), 0);
  posix_spawn_file_actions_adddup2(&actions, fileno(out.get()), 1);
  posix_spawn_file_actions_adddup2(&actions, fileno(err.get()), 2);
  char program[] = "gnuplot", option[] = "-d";
  char* arguments[] = {program, option, nullptr};
  pid_t child = 0;
  const int failure = posix_spawnp(&child, program, &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failure == ENOENT) return std::nullopt;
  require(failure == 0, "cannot start gnuplot: ", std::strerror(failure));
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    require(errno == EINTR, "cannot wait for gnuplot: ", std::strerror(errno));
  }
  const std::string svg = contents(out.get());
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127 && svg.empty()) return std::nullopt;
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0 && svg.find("</svg>") != std::string::npos,
          "gnuplot failed: ", contents(err.get()));
  return svg;
}

}  // namespace

std::optional<std::string> render_svg(const Plot& plot) {
  check(plot);
  std::optional<std::string> svg = run_gnuplot(gnuplot_script(plot));
  if (!svg) return svg;
  // gnuplot's <title> and <desc> name itself and its data; a browser shows them under the mouse.
  for (const std::string tag : {"title", "desc"}) {
    size_t begin = 0, end = 0;
    while ((begin = svg->find("<" + tag + ">")) != svg->npos &&
           (end = svg->find("</" + tag + ">", begin)) != svg->npos) {
      svg->erase(begin, end + tag.size() + 3 - begin);
    }
  }
  return svg;
}

}  // namespace dyt
