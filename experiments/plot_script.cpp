#include "experiments/plot_script.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>

#include "experiments/plot_axes.h"
#include "experiments/report.h"

namespace dyt {

std::string number(double v) {
  if (!std::isfinite(v)) return "NaN";
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, v, std::chars_format::general, 7).ptr;
  return {text, end};
}

// Between single quotes nothing is special but a single quote, which we put
// between double ones. (Doubled single quotes would do, but not at the beginning of a title:
// gnuplot 5.4.)
std::string gnuplot_text(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'')
      out += "'.\"'\".'";
    else
      out += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return out + "'";
}

namespace {

// Broken between words, where words allow.
std::vector<std::string> wrapped(const std::string& text, size_t width) {
  std::vector<std::string> lines(1);
  std::string word;
  const auto end_word = [&] {
    std::string& line = lines.back();
    if (!line.empty() && length_utf8(line) + 1 + length_utf8(word) > width) {
      lines.push_back(word);
    } else {
      line += (line.empty() || word.empty() ? "" : " ") + word;
    }
    word.clear();
  };
  for (const char c : text) {
    if (c == ' ' || c == '\n')
      end_word();
    else
      word += c;
  }
  end_word();
  return lines;
}

}  // namespace

std::string gnuplot_lines(const std::string& text, size_t width) {
  std::string script;
  for (const std::string& line : wrapped(text, width)) {
    script += (script.empty() ? "" : ".\"\\n\".") + gnuplot_text(line);
  }
  return script;
}

size_t longest_word(const std::string& text) {
  size_t longest = 0;
  for (const std::string& word : wrapped(text, 0)) longest = std::max(longest, length_utf8(word));
  return longest;
}

int gnuplot_line_count(const std::string& text, size_t width) {
  return int(wrapped(text, width).size());
}

std::string script_head(int height) {
  return "set encoding utf8\nset terminal svg size 540," + std::to_string(height) +
         " dynamic noenhanced font 'sans-serif,16' background '#ffffff'\n";
}

// --- The heat map --------------------------------------------------------------------------------
namespace {

// From nearly white to dark blue as `share` goes from 0 to 1: lightness tells the order, so it can
// be read without seeing colours.
std::string shade(double share) {
  constexpr std::array<std::array<double, 3>, 4> stops = {
      {{240, 246, 252}, {158, 202, 225}, {49, 130, 189}, {8, 48, 107}}};
  const double at = std::clamp(share, 0.0, 1.0) * (stops.size() - 1);
  const size_t i = std::min(size_t(at), stops.size() - 2);
  char text[8];
  const auto channel = [&](int c) {
    return int(std::lround(stops[i][c] + (at - double(i)) * (stops[i + 1][c] - stops[i][c])));
  };
  std::snprintf(text, sizeof text, "#%02x%02x%02x", channel(0), channel(1), channel(2));
  return text;
}

std::string tics(const char* axis, const std::vector<std::string>& labels) {
  std::string text = std::string("set ") + axis + "tics scale 0 (";
  for (size_t i = 0; i < labels.size(); ++i) {
    text += (i ? ", " : "") + gnuplot_text(labels[i]) + " " + std::to_string(i);
  }
  return text + ")\n";
}

}  // namespace

std::string heat_map_script(const Plot& plot) {
  const HeatMap& map = *plot.heat_map;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const auto& row : map.values) {
    for (const double v : row) {
      if (std::isfinite(v)) low = std::min(low, v), high = std::max(high, v);
    }
  }
  std::string script = script_head(160 + 44 * int(map.rows.size()));
  script += "unset key\nset border lc rgb '#444444'\nset tics nomirror\n";
  script += "set title " + gnuplot_lines(plot.title, 52) + "\n";
  script += "set xlabel " + gnuplot_lines(plot.x_label, 50) + "\n";
  script += "set ylabel " + gnuplot_lines(plot.y_label, 34) + "\n";
  script += tics("x", map.columns) + tics("y", map.rows);
  const double right = double(map.columns.size()) - 0.5, top = double(map.rows.size()) - 0.5;
  script += "set xrange [-0.5:" + number(right) + "]\nset yrange [-0.5:" + number(top) + "]\n";
  int object = 1;
  for (size_t y = 0; y < map.rows.size(); ++y) {
    for (size_t x = 0; x < map.columns.size(); ++x) {
      const double v = map.values[y][x], share = high > low ? (v - low) / (high - low) : 0.5;
      const bool failed = !std::isfinite(v);
      const std::string place = number(double(x)) + "," + number(double(y));
      script += "set object " + std::to_string(object++) + " rectangle center " + place +
                " size 0.96,0.94 fs solid noborder fc rgb '" + (failed ? "#ffffff" : shade(share)) +
                "' behind\n";
      script += "set label " + gnuplot_text(failed ? "\u00d7 failed" : fixed(v, map.decimals)) +
                " at " + place + " center tc rgb '" +
                (failed         ? "#c04000"
                 : share > 0.55 ? "#ffffff"
                                : "#1c1e21") +
                "' front\n";
    }
  }
  return script + "plot NaN notitle\n";
}

}  // namespace dyt
