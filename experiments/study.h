// A study: a grid of arms x seeds of runs, one after the other. Every finished run is kept as a
// record, so a study that was interrupted goes on where it stopped:
//
//   OUT/NN/runs/ARM-seedS-HASH.json
//
// A record holds the text of all settings that its run depended on, and is read back only if that
// text is the same to the letter; the hash of it in the name lets the runs of a smoke test and of a
// long study lie side by side. Numbers are written so that they are read back bit for bit.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"
#include "experiments/registry.h"

namespace dyt {

struct RunRecord {
  std::string arm;
  int64_t seed = 0;
  int64_t diverged_at = -1;               // the step whose loss was NaN or too large; -1: none
  std::vector<CurvePoint> curve;          // arm and seed are filled in by run_study
  std::map<std::string, double> numbers;  // the final ones, by name
  std::vector<std::pair<std::string, std::vector<double>>> lists;  // more of them, in order
  int64_t parameters = 0;                                          // learned numbers
  int64_t samples = 0;                                             // images, or tokens, seen
  double seconds = 0;
  std::string commit, date;  // filled in by run_study

  bool diverged() const { return diverged_at >= 0; }
  double number(const std::string& name) const;                    // Error if there is none
  const std::vector<double>& list(const std::string& name) const;  // Error if there is none
};

struct Study {
  int number = 0;  // of the experiment
  Options options = {};
  // What all runs have in common and a record must agree in (experiments/run_settings.h).
  std::string settings = {};
  std::string part = {};  // of an experiment with several studies, for the progress line
};

struct StudyArm {
  std::string name;
  std::string settings;  // what the runs of this arm depend on, beside the study's
  double work = 1;       // of a run, relative to the other arms': for the time that is left
};

// For whoever shows where a run is; `text` as in "loss 1.2, accuracy 40 %".
using ShowRun = std::function<void(int64_t step, int64_t steps, const std::string& text)>;
// Does the run of arms[arm] with this seed.
using RunBody = std::function<RunRecord(size_t arm, int64_t seed, const ShowRun& show)>;

// Every arm with `seeds` seeds from options.first_seed on, in that order of seeds, and the arms in
// their order for each: so an interrupted study has whole comparisons. Finished runs are read back;
// a record that can't be read is redone, with a warning on standard error. No records are kept if
// options.out is empty.
std::vector<RunRecord> run_study(const Study& study, const std::vector<StudyArm>& arms, int seeds,
                                 const RunBody& body);

// Deletes the records of an experiment (--force).
void forget_runs(const Options& options, int number);

// --- The results ---------------------------------------------------------------------------------

// One number of an arm's runs, in order of their seeds.
std::vector<double> numbers_of(const std::vector<RunRecord>& runs, const std::string& arm,
                               const std::string& name);
std::vector<const RunRecord*> runs_of(const std::vector<RunRecord>& runs, const std::string& arm);
bool any_diverged(const std::vector<RunRecord>& runs, const std::string& arm);

// A list of an arm's runs, number by number against its place from 1 on: the mean over the seeds
// that didn't diverge, the lowest and the highest. Nothing if no run has such a list.
std::optional<Series> mean_of_lists(const std::vector<RunRecord>& runs, const std::string& arm,
                                    const std::string& list);

// The curves of all runs.
std::vector<CurvePoint> curves_of(const std::vector<RunRecord>& runs);

// "seed | arm 1 | arm 2 ...": what `show` says of every run, or "diverged at step n".
Table table_of_seeds(const std::vector<RunRecord>& runs, const std::string& title,
                     const std::function<std::string(const RunRecord&)>& show);
// One number of every run as `show` prints it.
Table table_of_seeds(
    const std::vector<RunRecord>& runs, const std::string& title, const std::string& name,
    const std::function<std::string(double)>& show = [](double v) { return fixed(v); });

// What every study's report says: adds the curves, the settings "seeds", "size", "number type",
// the time that all runs took, and, if records of several commits came together, a note.
void add_runs(Report& report, const Study& study, const std::vector<RunRecord>& runs);

// --- The format, for the tests -------------------------------------------------------------------

// The JSON of a record; `settings` is the whole text that it depends on.
std::string to_json(const RunRecord& run, const std::string& settings);
// Error if the text is no record. Sets `settings`.
RunRecord run_from_json(const std::string& json, std::string& settings);

}  // namespace dyt
