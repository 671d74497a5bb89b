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
  std::string data = "synthetic";  // or cifar10:DIR: the images
  std::string text = "grammar";    // or text:FILE, tokens:FILE: what language models read
  std::string parallel = "sagas";  // or multi30k:DIR, parallel:A,B: what is translated
  int seeds = 0;                   // 0: what the experiment takes at this size
  int first_seed = 1;              // another one: fresh seeds, for whoever wants to repeat a result
  // For the records of finished runs; empty: none are kept. The report is for the caller to write.
  std::filesystem::path out = {};
  bool force = false;  // do all runs again, whatever records there are
};

struct Experiment {
  int number;
  const char* title;
  const char* source;             // the paper's table or figure
  const char* claim;              // what the paper says, in a sentence
  int cost;                       // seconds that --size small takes on 2 cores, about
  Report (*run)(const Options&);  // nullptr: planned
};

std::string cost_text(const Experiment& experiment);  // "2 s", "6 min"

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

// What is left of a suite of experiments of which `done` are finished and took `seconds` together:
// "3 of 12 experiments done, about 25 min left". The costs say how long the others take relative to
// these.
std::string suite_progress(const std::vector<const Experiment*>& suite, size_t done,
                           double seconds);

Report run_01_layernorm_is_tanh_like(const Options& options);
Report run_02_norms_in_networks(const Options& options);
Report run_03_vit(const Options& options);
Report run_04_convnext(const Options& options);
Report run_05_gpt(const Options& options);
Report run_06_norm_cost(const Options& options);
Report run_07_squashing(const Options& options);
Report run_08_without_alpha(const Options& options);
Report run_09_alpha_follows_std(const Options& options);
Report run_10_alpha0(const Options& options);
Report run_11_alpha0_language(const Options& options);
Report run_12_batchnorm(const Options& options);
Report run_13_rivals(const Options& options);
Report run_14_gradients_at_init(const Options& options);
Report run_15_warmup(const Options& options);
Report run_16_good_replacement(const Options& options);
Report run_17_when_removing_helps(const Options& options);
Report run_18_only_norms(const Options& options);
Report run_24_translation(const Options& options);
Report run_25_bert(const Options& options);

}  // namespace dyt
