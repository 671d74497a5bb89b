// A report on the terminal.
#include <algorithm>
#include <ostream>
#include <sstream>

#include "experiments/plot_axes.h"
#include "experiments/report.h"

namespace dyt {
namespace {

constexpr size_t page_width = 79;

void print_table(const Table& table, std::ostream& out) {
  std::vector<size_t> widths(table.header.size());
  const auto widen = [&](const std::vector<std::string>& cells) {
    for (size_t i = 0; i < std::min(cells.size(), widths.size()); ++i) {
      widths[i] = std::max(widths[i], length_utf8(cells[i]));
    }
  };
  widen(table.header);
  for (const auto& row : table.rows) widen(row);
  const auto print = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (size_t i = 0; i < std::min(cells.size(), widths.size()); ++i) {
      const std::string space(widths[i] - length_utf8(cells[i]), ' ');
      line += "  " + (i ? space + cells[i] : cells[i] + space);
    }
    while (line.back() == ' ') line.pop_back();
    out << line << '\n';
  };
  out << table.title << '\n';
  print(table.header);
  size_t total = 0;
  for (const size_t width : widths) total += width + 2;
  out << "  " << std::string(total > 2 ? total - 2 : 0, '-') << '\n';
  for (const auto& row : table.rows) print(row);
  if (!table.note.empty()) out << "  " << table.note << '\n';
  out << '\n';
}

// "label: text", the text broken into lines that start below its beginning.
void print_wrapped(const std::string& label, const std::string& text, std::ostream& out) {
  const size_t indent = label.size() + 2;
  std::istringstream words(text);
  std::string line = label + ": ";
  size_t used = 0;  // words on this line
  for (std::string word; words >> word;) {
    if (used > 0 && length_utf8(line) + 1 + length_utf8(word) > page_width) {
      out << line << '\n';
      line = std::string(indent, ' ');
      used = 0;
    }
    line += (used++ ? " " : "") + word;
  }
  out << line << '\n';
}

}  // namespace

void print_report(const Report& report, std::ostream& out) {
  out << "\nExperiment " << (report.number < 10 ? "0" : "") << report.number << ": "
      << report.title;
  if (!report.source.empty()) out << " (" << report.source << ")";
  out << "\n\n";
  if (!report.plots.empty()) out << render_text(report.plots.front()) << '\n';
  for (const Table& table : report.tables) print_table(table, out);
  print_wrapped("claim", report.claim, out);
  if (!report.paper.empty()) print_wrapped("paper", report.paper, out);
  if (!report.ours.empty()) print_wrapped("ours ", report.ours, out);
  print_wrapped("rule ", report.verdict.rule, out);
  out << '\n' << name_of(report.verdict.outcome) << '\n';
  print_wrapped("because", report.verdict.because, out);
}

}  // namespace dyt
