#include "experiments/study.h"

#include <algorithm>
#include <cctype>
#include <iostream>
#include <numeric>
#include <optional>
#include <set>
#include <sstream>

#include "core/clock.h"
#include "core/error.h"
#include "training/progress.h"

namespace dyt {
namespace fs = std::filesystem;
namespace {

fs::path runs_folder(const Options& options, int number) {
  return options.out / two_digits(number) / "runs";
}

// All that a run depends on, beside the program: a record is taken only if it agrees in this text.
std::string settings_of_run(const Study& study, const StudyArm& arm, int64_t seed) {
  const Device device = parse_device(study.options.device);
  std::ostringstream text;
  text << "experiment " << study.number << "; device " << name_of(device) << ' '
       << name_of(default_dtype(device)) << "; " << study.settings << "; arm " << arm.name << ": "
       << arm.settings << "; seed " << seed;
  return text.str();
}

// 64 bits of FNV-1a, in hexadecimal.
std::string hash_of(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ uint64_t(static_cast<unsigned char>(c))) * 0x100000001b3;
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

fs::path record_path(const Study& study, const StudyArm& arm, int64_t seed,
                     const std::string& settings) {
  std::string name = arm.name;
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '.') c = '_';
  }
  return runs_folder(study.options, study.number) /
         (name + "-seed" + std::to_string(seed) + "-" + hash_of(settings) + ".json");
}

std::optional<RunRecord> read_record(const fs::path& path, const std::string& settings,
                                     const std::string& arm, int64_t seed) {
  if (!fs::exists(path)) return std::nullopt;
  try {
    std::string its_settings;
    RunRecord run = run_from_json(read_file(path), its_settings);
    require(run.arm == arm && run.seed == seed, "it is of ", run.arm, ", seed ", run.seed);
    if (its_settings == settings) return run;
  } catch (const Error& error) {
    std::cerr << "dyt: warning: " << path.string() << " is not a record of a run (" << error.what()
              << "); the run is done again" << std::endl;
  }
  return std::nullopt;
}

// "03 [4/6] DyT, seed 2: step 300/1100, loss 1.2 | study: 41 %, 3 min left"
class StudyProgress {
 public:
  StudyProgress(const Study& study, size_t runs, double work)
      : label_(two_digits(study.number) + (study.part.empty() ? "" : " " + study.part)),
        runs_(runs),
        work_(work) {}

  void read_back(double work) { read_back_ += work, ++run_, ++runs_read_back_; }
  size_t runs_read_back() const { return runs_read_back_; }
  void begin_run(const StudyArm& arm, int64_t seed) {
    if (start_ == 0) start_ = seconds_now();
    what_ = label_ + " [" + std::to_string(++run_) + "/" + std::to_string(runs_) + "] " + arm.name +
            ", seed " + std::to_string(seed);
    run_work_ = arm.work;
    line_.emplace();
  }
  void show(int64_t step, int64_t steps, const std::string& text) {
    const double share = double(step) / double(steps), done = done_ + share * run_work_;
    line_->show(share, [&] {
      const double left = (seconds_now() - start_) / done * (work_ - read_back_ - done);
      return what_ + ": step " + std::to_string(step) + "/" + std::to_string(steps) + ", " + text +
             " | study: " + fixed(100 * (read_back_ + done) / work_, 0) + " %, " + time_left(left) +
             " left";
    });
  }
  void end_run() {
    line_.reset();
    done_ += run_work_;
  }

 private:
  std::string label_, what_;
  size_t runs_, run_ = 0, runs_read_back_ = 0;
  double work_, read_back_ = 0, done_ = 0, run_work_ = 0;  // done: by this process
  double start_ = 0;
  std::optional<StatusLine> line_;
};

}  // namespace

double RunRecord::number(const std::string& name) const {
  const auto found = numbers.find(name);
  require(found != numbers.end(), "the run of ", arm, ", seed ", seed, ", has no number '", name,
          "'");
  return found->second;
}

const std::vector<double>& RunRecord::list(const std::string& name) const {
  for (const auto& [key, values] : lists) {
    if (key == name) return values;
  }
  fail("the run of ", arm, ", seed ", seed, ", has no list '", name, "'");
}

std::vector<RunRecord> run_study(const Study& study, const std::vector<StudyArm>& arms, int seeds,
                                 const RunBody& body) {
  std::set<std::string> names;
  double work = 0;
  for (const StudyArm& arm : arms) {
    require(names.insert(arm.name).second, "two arms are called '", arm.name, "'");
    work += arm.work;
  }
  const bool keeps = !study.options.out.empty();
  if (keeps) prepare_output(runs_folder(study.options, study.number));
  StudyProgress progress(study, arms.size() * size_t(seeds), work * seeds);
  std::vector<RunRecord> runs;
  const int64_t first = study.options.first_seed;
  for (int64_t seed = first; seed < first + seeds; ++seed) {
    for (size_t i = 0; i < arms.size(); ++i) {
      const std::string settings = settings_of_run(study, arms[i], seed);
      const fs::path path = record_path(study, arms[i], seed, settings);
      if (std::optional<RunRecord> finished;
          keeps && (finished = read_record(path, settings, arms[i].name, seed))) {
        runs.push_back(std::move(*finished));
        progress.read_back(arms[i].work);
        continue;
      }
      progress.begin_run(arms[i], seed);
      RunRecord run = body(i, seed, [&](int64_t step, int64_t steps, const std::string& text) {
        progress.show(step, steps, text);
      });
      progress.end_run();
      run.arm = arms[i].name, run.seed = seed;
      for (CurvePoint& p : run.curve) p.arm = run.arm, p.seed = seed;
      run.commit = build_commit(), run.date = date_now();
      if (keeps) write_file(path, to_json(run, settings));
      runs.push_back(std::move(run));
    }
  }
  if (const size_t taken = progress.runs_read_back()) {
    std::cerr << two_digits(study.number) << ": " << taken << " of " << runs.size()
              << " runs were finished before (--force does them again)" << std::endl;
  }
  return runs;
}

void forget_runs(const Options& options, int number) {
  if (!options.out.empty()) fs::remove_all(runs_folder(options, number));
}

// --- The results ---------------------------------------------------------------------------------

std::vector<const RunRecord*> runs_of(const std::vector<RunRecord>& runs, const std::string& arm) {
  std::vector<const RunRecord*> found;
  for (const RunRecord& run : runs) {
    if (run.arm == arm) found.push_back(&run);
  }
  require(!found.empty(), "there is no run of an arm '", arm, "'");
  return found;
}

std::vector<double> numbers_of(const std::vector<RunRecord>& runs, const std::string& arm,
                               const std::string& name) {
  std::vector<double> numbers;
  for (const RunRecord* run : runs_of(runs, arm)) numbers.push_back(run->number(name));
  return numbers;
}

bool any_diverged(const std::vector<RunRecord>& runs, const std::string& arm) {
  const std::vector<const RunRecord*> of_arm = runs_of(runs, arm);
  return std::any_of(of_arm.begin(), of_arm.end(), [](const auto* run) { return run->diverged(); });
}

std::vector<CurvePoint> curves_of(const std::vector<RunRecord>& runs) {
  std::vector<CurvePoint> points;
  for (const RunRecord& run : runs) points.insert(points.end(), run.curve.begin(), run.curve.end());
  return points;
}

std::optional<Series> mean_of_lists(const std::vector<RunRecord>& runs, const std::string& arm,
                                    const std::string& list) {
  Series s{.style = SeriesStyle::line_points};
  double count = 0;
  for (const RunRecord* run : runs_of(runs, arm)) {
    if (run->diverged() || run->list(list).empty()) continue;
    const std::vector<double>& values = run->list(list);
    if (s.x.empty()) s.y.assign(values.size(), 0), s.low = s.high = values;
    require(values.size() == s.y.size(), "the runs of ", arm, " have lists \"", list, "\" of ",
            s.y.size(), " and of ", values.size(), " numbers");
    s.x.clear(), ++count;
    for (size_t i = 0; i < values.size(); ++i) {
      s.x.push_back(double(i + 1)), s.y[i] += values[i];
      s.low[i] = std::min(s.low[i], values[i]), s.high[i] = std::max(s.high[i], values[i]);
    }
  }
  if (count == 0) return std::nullopt;
  for (double& y : s.y) y /= count;
  return s;
}

Table table_of_seeds(const std::vector<RunRecord>& runs, const std::string& title,
                     const std::function<std::string(const RunRecord&)>& show) {
  Table table{.title = title, .header = {"seed"}};
  for (const RunRecord& run : runs) {
    const std::string seed = std::to_string(run.seed);
    if (table.rows.empty() || table.rows.back()[0] != seed) table.rows.push_back({seed});
    if (table.rows.size() == 1) table.header.push_back(run.arm);
    table.rows.back().push_back(
        run.diverged() ? "diverged at step " + std::to_string(run.diverged_at) : show(run));
  }
  return table;
}

Table table_of_seeds(const std::vector<RunRecord>& runs, const std::string& title,
                     const std::string& name, const std::function<std::string(double)>& show) {
  return table_of_seeds(runs, title, [&](const RunRecord& run) { return show(run.number(name)); });
}

void add_runs(Report& report, const Study& study, const std::vector<RunRecord>& runs) {
  double seconds = 0;
  std::set<int64_t> seeds;
  std::set<std::string> commits;
  for (const RunRecord& run : runs) {
    seconds += run.seconds;
    seeds.insert(run.seed);
    commits.insert(run.commit);
    report.curves.insert(report.curves.end(), run.curve.begin(), run.curve.end());
  }
  report.seconds += seconds;
  const auto add = [&](const char* name, const std::string& value) {
    const auto named = [&](const auto& setting) { return setting.first == name; };
    if (std::none_of(report.settings.begin(), report.settings.end(), named)) {
      report.settings.emplace_back(name, value);
    }
  };
  const int64_t first = study.options.first_seed;
  add("seeds", first == 1 ? std::to_string(seeds.size())
                          : std::to_string(first) + " to " + std::to_string(*seeds.rbegin()));
  add("size", name_of(study.options.size));
  add("number type", name_of(default_dtype(parse_device(study.options.device))));
  commits.insert(build_commit());
  if (commits.size() == 1) return;
  std::string list;
  for (const std::string& commit : commits) list += (list.empty() ? "" : ", ") + commit;
  const std::string note =
      "These runs were not all made by one commit of the program: they are of " + list +
      ". dyt run --force does all of them again.";
  if (std::find(report.notes.begin(), report.notes.end(), note) == report.notes.end()) {
    report.notes.push_back(note);
  }
}

}  // namespace dyt
