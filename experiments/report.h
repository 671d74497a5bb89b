// What an experiment hands back, and how it is shown: on the terminal, as files of one experiment,
// and joined with others into one page.
//
//   OUT/NN/results.json   everything below but the curves and the plots' data
//   OUT/NN/curves.csv     arm, seed, step, metric, value: one row per measurement
//   OUT/NN/NAME.svg       one per plot
//   OUT/NN/report.html    self-contained: no script, no link to the outside
//   OUT/report.html       all experiments under OUT
#pragma once
#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "experiments/plot.h"
#include "experiments/statistics.h"

namespace dyt {

struct Table {
  std::string title = {};
  std::vector<std::string> header = {};
  std::vector<std::vector<std::string>> rows = {};  // each as long as the header
  std::string note = {};
};

enum class Outcome { reproduced, not_reproduced, inconclusive };
const char* name_of(Outcome outcome);  // "REPRODUCED", "NOT REPRODUCED", "INCONCLUSIVE"

struct Verdict {
  Outcome outcome = Outcome::inconclusive;
  std::string rule = {};     // written before the experiment ran
  std::string because = {};  // the numbers that met it, or didn't
};

struct Machine {
  std::string cpu = {};
  int cores = 0;
  double memory_gib = 0;
  std::string device = {};  // what computed: "cpu", "cuda: NVIDIA H200"
};

struct CurvePoint {
  std::string arm = {};
  int64_t seed = 0, step = 0;
  std::string metric = {};
  double value = 0;
};

struct Report {
  int number = 0;
  std::string title = {}, source = {};  // source: "DyT, Table 1"
  std::string claim = {};               // in the paper's words
  std::string paper = {}, ours = {};    // the main numbers, one line each, for the overview
  Verdict verdict = {};
  std::vector<Plot> plots = {};  // the first is the main one: the terminal shows it
  std::vector<Table> tables = {};
  std::vector<std::string> notes = {};
  std::vector<std::pair<std::string, std::string>> settings = {};
  Machine machine = {};
  std::string commit = {}, date = {};  // date: UTC, ISO 8601
  double seconds = 0;
  std::vector<CurvePoint> curves = {};
  std::string results = "{}";  // a JSON object: the numbers of this experiment, for other programs
};

// --- Before and after ----------------------------------------------------------------------------

// Makes the folder, and throws Error unless files can be written there: call it before training.
void prepare_output(const std::filesystem::path& out);

// The commit the program was built from, or "unknown".
const char* build_commit();

// Now, UTC, ISO 8601.
std::string date_now();

// Writes a file under a temporary name first, so that it is there whole or not at all.
void write_file(const std::filesystem::path& path, const std::string& text);
std::string read_file(const std::filesystem::path& path);

// Fills in the machine, the date and the commit the program was built from (the macro DYT_COMMIT).
void stamp(Report& report, const std::string& device, double seconds);

// Writes OUT/NN/*, each file under a temporary name first, results.json last. Says so on standard
// error if there is no gnuplot; then there are no plots. Returns OUT/NN.
std::filesystem::path write_report(const Report& report, const std::filesystem::path& out);

// Title, main plot in characters, tables, verdict.
void print_report(const Report& report, std::ostream& out);

// Writes dir/report.html from every dir/*/results.json and the plots beside it; returns its path.
std::filesystem::path write_joined_report(const std::filesystem::path& dir);

// --- Building blocks -----------------------------------------------------------------------------

bool has_metric(const std::vector<CurvePoint>& curves, const std::string& metric);
// Mean over the seeds of one metric against the step, a line per arm in order of appearance; the
// band reaches from the lowest seed to the highest. Name, title, labels are for the caller to fill
// in. Error if there is no such metric.
Plot plot_of_curves(const std::vector<CurvePoint>& curves, const std::string& metric);

std::string two_digits(int number);  // "03", as folders and headings have it

std::string counted(int64_t count, const std::string& noun);  // "1 seed", "3 seeds"

// Numbers as the reports print them; a value that is not finite is "not finite".
std::string fixed(double value, int decimals = 2);         // "1.50"
std::string signed_fixed(double value, int decimals = 2);  // "+1.50"
std::string percent(double fraction, int decimals = 2);    // "82.31 %"
std::string plus_minus(std::span<const double> values,
                       int decimals = 2);  // "1.50 ± 0.02": mean, sd
std::string percent_plus_minus(std::span<const double> fractions,
                               int decimals = 2);                           // "82.31 ± 0.25 %"
std::string interval_text(const MeanInterval& interval, int decimals = 2);  // "[-0.31, +0.52]"
// The same of a difference of fractions, in percentage points.
std::string points_interval(const MeanInterval& interval, int decimals = 2);

// --- The formats, for write_report and the tests -------------------------------------------------

std::string to_json(const Report& report);
Report report_from_json(const std::string& json);  // no curves; plots have name, title and caption
std::string to_csv(const std::vector<CurvePoint>& curves);
// svgs[i] belongs to report.plots[i]; an empty one was not drawn.
std::string to_html(const Report& report, const std::vector<std::string>& svgs);
std::string to_joined_html(const std::vector<Report>& reports,
                           const std::vector<std::vector<std::string>>& svgs);

}  // namespace dyt
