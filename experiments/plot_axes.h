// What the two renderers of plot.h share: the check of a plot and the span of its axes.
#pragma once
#include <limits>
#include <string>

#include "experiments/plot.h"

namespace dyt {

struct Axis {
  bool log = false;
  double low = std::numeric_limits<double>::infinity(), high = -low;

  bool shows(double value) const;  // finite, and above 0 if the axis is logarithmic
  void include(double value);
  double position(double value) const;  // 0 at the low end, 1 at the high end
  // Sets the ends to the wanted ones; else gives what was included a margin (a share of its length)
  // or, if it has none, some length.
  void settle(const std::optional<Range>& wanted, double margin);
};

struct Axes {
  Axis x, y;
};

void check(const Plot& plot);  // throws Error if its name or the lengths of its series can't be
Axes axes_of(const Plot& plot, double x_margin, double y_margin);
size_t length_utf8(const std::string& text);  // in characters

}  // namespace dyt
