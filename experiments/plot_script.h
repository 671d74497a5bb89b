// Pieces of gnuplot scripts.
#pragma once
#include <string>

#include "experiments/plot.h"

namespace dyt {

std::string number(double v);  // as gnuplot reads it

// A gnuplot string.
std::string gnuplot_text(const std::string& text);
// The same, broken between words into lines of at most `width` characters where words allow.
std::string gnuplot_lines(const std::string& text, size_t width);
int gnuplot_line_count(const std::string& text, size_t width);  // of that
size_t longest_word(const std::string& text);                   // its characters

// Encoding and terminal: an SVG of 540 units by `height`.
std::string script_head(int height);

// The whole script of a plot that is a heat map.
std::string heat_map_script(const Plot& plot);

}  // namespace dyt
