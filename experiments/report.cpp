#include "experiments/report.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <thread>

#include "core/error.h"

// The Makefile defines it: the commit's hash, with "-dirty" behind it if files differ from it.
#ifndef DYT_COMMIT
#define DYT_COMMIT "unknown"
#endif

namespace dyt {
namespace fs = std::filesystem;
namespace {

// The value behind "key : value" in a file of such lines, as in /proc.
std::string value_in(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key, 0) != 0) continue;
    const size_t colon = line.find(':');
    const size_t begin = colon == line.npos ? colon : line.find_first_not_of(" \t", colon + 1);
    if (begin != line.npos) return line.substr(begin);
  }
  return "";
}

}  // namespace

const char* name_of(Outcome outcome) {
  switch (outcome) {
    case Outcome::reproduced:
      return "REPRODUCED";
    case Outcome::not_reproduced:
      return "NOT REPRODUCED";
    case Outcome::inconclusive:
      break;
  }
  return "INCONCLUSIVE";
}

// --- Files ---------------------------------------------------------------------------------------

void write_file(const fs::path& path, const std::string& text) {
  const fs::path temporary =
      path.parent_path() / ("." + path.filename().string() + ".tmp" + std::to_string(getpid()));
  std::ofstream file(temporary, std::ios::binary);
  file << text;
  file.close();
  std::error_code failure;
  if (file) {
    fs::rename(temporary, path, failure);
    if (!failure) return;
  }
  const std::string why = failure ? failure.message() : std::strerror(errno);
  fs::remove(temporary, failure);
  fail("cannot write ", path.string(), ": ", why);
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  require(bool(file), "cannot read ", path.string(), ": ", std::strerror(errno));
  return text.str();
}

void prepare_output(const fs::path& out) {
  require(!out.empty(), "the output folder has no name; give one with --out DIR");
  std::error_code failure;
  fs::create_directories(out, failure);
  std::string why = failure ? failure.message() : "";
  if (!failure && !fs::is_directory(out)) why = "it is a file";
  if (why.empty()) {
    const fs::path probe = out / (".probe" + std::to_string(getpid()));
    std::ofstream file(probe);
    file << "can be written\n";
    file.close();
    if (!file) why = std::strerror(errno);
    fs::remove(probe, failure);
  }
  require(why.empty(), "cannot write to the output folder '", out.string(), "' (", why,
          "); choose another with --out DIR");
}

const char* build_commit() { return DYT_COMMIT; }

std::string date_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

void stamp(Report& report, const std::string& device, double seconds) {
  Machine& machine = report.machine;
  machine.cpu = value_in("/proc/cpuinfo", "model name");
  if (machine.cpu.empty()) machine.cpu = "unknown";
  machine.cores = int(std::thread::hardware_concurrency());
  machine.memory_gib = std::atof(value_in("/proc/meminfo", "MemTotal").c_str()) / (1 << 20);
  machine.device = device;
  report.commit = build_commit();
  report.seconds = seconds;
  report.date = date_now();
}

fs::path write_report(const Report& report, const fs::path& out) {
  prepare_output(out);
  const fs::path folder = out / two_digits(report.number);
  prepare_output(folder);
  // A folder is complete when it has its results.json, so the old one goes first.
  std::error_code ignored;
  fs::remove(folder / "results.json", ignored);
  std::vector<std::string> svgs;
  bool skipped = false;
  for (const Plot& plot : report.plots) {
    const fs::path path = folder / (plot.name + ".svg");
    std::optional<std::string> svg;
    try {
      svg = render_svg(plot);
      skipped = skipped || !svg;
    } catch (const Error& error) {  // a report without its plots is better than none
      std::cerr << "dyt: no plot " << plot.name << ": " << error.what() << std::endl;
    }
    if (svg)
      write_file(path, *svg);
    else
      fs::remove(path, ignored);  // of an earlier run: it would not show this one
    svgs.push_back(svg.value_or(""));
  }
  if (skipped) std::cerr << no_gnuplot_message << std::endl;
  write_file(folder / "curves.csv", to_csv(report.curves));
  write_file(folder / "report.html", to_html(report, svgs));
  write_file(folder / "results.json", to_json(report));
  return folder;
}

fs::path write_joined_report(const fs::path& dir) {
  require(fs::is_directory(dir), "there is no folder '", dir.string(),
          "'; give the one that experiments wrote to (--out DIR)");
  std::vector<std::pair<Report, fs::path>> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const fs::path json = entry.path() / "results.json";
    if (!fs::is_regular_file(json)) continue;
    try {
      found.emplace_back(report_from_json(read_file(json)), entry.path());
    } catch (const Error& error) {
      fail(json.string(), " is not a report (", error.what(),
           "); run its experiment again or remove its folder");
    }
  }
  require(!found.empty(), "no finished experiment under '", dir.string(),
          "'; run one first: dyt run 01 --out ", dir.string());
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first.number, a.second) < std::pair(b.first.number, b.second);
  });
  std::vector<Report> reports;
  std::vector<std::vector<std::string>> svgs;
  for (auto& [report, folder] : found) {
    svgs.emplace_back();
    for (const Plot& plot : report.plots) {
      const fs::path path = folder / (plot.name + ".svg");
      svgs.back().push_back(fs::is_regular_file(path) ? read_file(path) : "");
    }
    reports.push_back(std::move(report));
  }
  const fs::path page = dir / "report.html";
  write_file(page, to_joined_html(reports, svgs));
  return page;
}

std::string to_csv(const std::vector<CurvePoint>& curves) {
  // RFC 4180: a field with a comma, quote or line break stands in quotes, a quote in it is doubled.
  const auto field = [](const std::string& text) {
    if (text.find_first_of(",\"\r\n") == text.npos) return text;
    std::string out = "\"";
    for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
    return out + "\"";
  };
  std::ostringstream csv;
  csv.precision(9);
  csv << "arm,seed,step,metric,value\n";
  for (const CurvePoint& p : curves) {
    csv << field(p.arm) << ',' << p.seed << ',' << p.step << ',' << field(p.metric) << ','
        << p.value << '\n';
  }
  return csv.str();
}

// --- Building blocks -----------------------------------------------------------------------------

bool has_metric(const std::vector<CurvePoint>& curves, const std::string& metric) {
  return std::any_of(curves.begin(), curves.end(),
                     [&](const CurvePoint& p) { return p.metric == metric; });
}

Plot plot_of_curves(const std::vector<CurvePoint>& curves, const std::string& metric) {
  std::vector<std::string> arms;
  std::vector<std::map<int64_t, std::vector<double>>> values;  // by arm and step
  for (const CurvePoint& p : curves) {
    if (p.metric != metric) continue;
    size_t arm = size_t(std::find(arms.begin(), arms.end(), p.arm) - arms.begin());
    if (arm == arms.size()) arms.push_back(p.arm), values.emplace_back();
    values[arm][p.step].push_back(p.value);
  }
  require(!arms.empty(), "there is no metric '", metric, "' among the curves");
  Plot plot{.name = metric, .title = metric, .x_label = "step", .y_label = metric};
  for (size_t arm = 0; arm < arms.size(); ++arm) {
    Series s{.name = arms[arm]};
    for (const auto& [step, seeds] : values[arm]) {
      // From where a seed diverged on, the others' mean would be that of those who survived.
      if (seeds.size() < values[arm].begin()->second.size()) break;
      double sum = 0;  // not mean(): a seed whose loss is NaN makes this a gap, not an error
      for (const double value : seeds) sum += value;
      const auto [low, high] = std::minmax_element(seeds.begin(), seeds.end());
      s.x.push_back(double(step)), s.y.push_back(sum / double(seeds.size()));
      s.low.push_back(*low), s.high.push_back(*high);
    }
    plot.series.push_back(std::move(s));
  }
  for (char& c : plot.name) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-') c = '_';
  }
  return plot;
}

std::string two_digits(int number) {
  std::string text = std::to_string(number);
  if (number < 10) text.insert(size_t(0), 1, '0');
  return text;
}

std::string counted(int64_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

std::string fixed(double value, int decimals) {
  if (!std::isfinite(value)) return "not finite";
  std::ostringstream text;
  text.setf(std::ios::fixed);
  text.precision(decimals);
  text << value;
  // "-0.00" says nothing that "0.00" doesn't.
  std::string out = text.str();
  if (out[0] == '-' && out.find_first_not_of("-0.") == out.npos) out.erase(0, 1);
  return out;
}

std::string signed_fixed(double value, int decimals) {
  const std::string text = fixed(value, decimals);
  return std::isfinite(value) && text[0] != '-' ? "+" + text : text;
}

std::string percent(double fraction, int decimals) {
  return fixed(100 * fraction, decimals) + (std::isfinite(fraction) ? " %" : "");
}

std::string plus_minus(std::span<const double> values, int decimals) {
  for (const double value : values) {
    if (!std::isfinite(value)) return "not finite";
  }
  const std::string centre = fixed(mean(values), decimals);
  if (values.size() < 2) return centre;
  return centre + " ± " + fixed(standard_deviation(values), decimals);
}

std::string percent_plus_minus(std::span<const double> fractions, int decimals) {
  std::vector<double> percents(fractions.begin(), fractions.end());
  for (double& value : percents) value *= 100;
  const std::string text = plus_minus(percents, decimals);
  return text == "not finite" ? text : text + " %";
}

std::string interval_text(const MeanInterval& interval, int decimals) {
  return "[" + signed_fixed(interval.low, decimals) + ", " + signed_fixed(interval.high, decimals) +
         "]";
}

std::string points_interval(const MeanInterval& interval, int decimals) {
  return "[" + signed_fixed(100 * interval.low, decimals) + ", " +
         signed_fixed(100 * interval.high, decimals) + "]";
}

}  // namespace dyt
