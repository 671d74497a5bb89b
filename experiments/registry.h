// The list of experiments: what each claims, and the function that runs it.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "experiments/report.h"

namespace dyt {

enum class Size { smoke, small, full };  // seconds; minutes on 2 cores; CIFAR-10 scale on a GPU
const char* name_of(Size size);
Size size_named(const std::string& name);  // throws Error listing the sizes

struct Options {
  std::string device = "auto";  // auto, cpu, cuda, emulated
  Size size = Size::small;
  std::string data = "synthetic";     // or cifar10:DIR
  int seeds = 0;                      // 0: what the experiment takes at this size
  std::filesystem::path out = "out";  // for records of finished runs; the caller writes the report
};

struct Experiment {
  int number;
  const char* title;
  const char* source;             // the paper's table or figure
  const char* claim;              // what the paper says, in a sentence
  const char* cost;               // of --size small on 2 cores
  Report (*run)(const Options&);  // nullptr: planned
};

// In order of their numbers; a number that is missing has not been given out.
const std::vector<Experiment>& experiments();

// Throws Error listing the valid numbers.
const Experiment& find_experiment(int number);

// What the words of a command line select, each experiment once, in order: "3", "03", "03-05",
// "1,3", "all". Ranges and "all" leave out what is only planned; naming such a one by itself is an
// Error, and so are a number that is not on the list, a range with nothing in it, and a word of
// another form.
std::vector<const Experiment*> select_experiments(const std::vector<std::string>& words);

// Runs it, and fills in number, title, source, claim, machine, date, commit and time taken.
// `device` is the description of what computes, for the report.
Report run_experiment(const Experiment& experiment, const Options& options,
                      const std::string& device);

Report run_01_layernorm_is_tanh_like(const Options& options);
Report run_03_vit(const Options& options);

}  // namespace dyt
