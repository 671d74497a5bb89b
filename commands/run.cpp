#include <iostream>
#include <memory>

#include "commands/commands.h"
#include "core/device.h"
#include "core/error.h"
#include "datasets/images.h"
#include "datasets/parallel.h"
#include "datasets/text.h"
#include "experiments/registry.h"

namespace dyt {
namespace {

struct RunCommand {
  std::vector<std::string> numbers;
  Options options{.out = "out"};
  std::vector<std::string> data;  // at most one of each kind
  std::string size;               // empty: small on the cpu, full on a GPU
};

void run_selected(const std::vector<const Experiment*>& selected, const Options& options,
                  Device device) {
  double seconds = 0;
  for (size_t done = 0; done < selected.size();) {
    const Experiment* e = selected[done];
    const Report report = run_experiment(*e, options, name_of(device) + (": " + describe(device)));
    seconds += report.seconds;
    ++done;
    const auto folder = write_report(report, options.out);
    print_report(report, std::cout);
    std::cout << "\nWritten: " << (folder / "report.html").string() << std::endl;
    if (selected.size() > 1) {
      std::cerr << "suite: " << suite_progress(selected, done, seconds) << std::endl;
    }
  }
  if (selected.size() > 1) {
    std::cout << "Joined report: " << write_joined_report(options.out).string() << "\n";
  }
}

// To each experiment what it can use: a text to the language models, parallel text to those that
// translate, images to the others.
void choose_data(RunCommand& command) {
  struct Kind {
    const char* name;
    std::string& spec;
    bool given = false;
  };
  Options& options = command.options;
  Kind images{"sets of images", options.data}, text{"texts", options.text};
  Kind parallel{"parallel texts", options.parallel};
  for (const std::string& spec : command.data) {
    Kind& kind = names_text(spec) ? text : names_parallel(spec) ? parallel : images;
    require(!kind.given, "--data takes one set of images, one text and one parallel text, not two ",
            kind.name, "; the second is '", spec, "'");
    kind.given = true;
    kind.spec = spec;
  }
  // A spec that can't be read, before anything is written.
  load_images(options.data, 1, 1);
  load_text(options.text);
  if (parallel.given) load_parallel(options.parallel);
}

void run(RunCommand& command) {
  const std::vector<const Experiment*> selected = select_experiments(command.numbers);
  const Device device = parse_device(command.options.device);
  command.options.device = name_of(device);
  command.options.size = command.size.empty() ? (device == Device::cuda ? Size::full : Size::small)
                                              : size_named(command.size);
  choose_data(command);
  const bool existed = std::filesystem::exists(command.options.out);
  prepare_output(command.options.out);
  try {
    run_selected(selected, command.options, device);
  } catch (...) {
    std::error_code ignored;
    if (!existed) std::filesystem::remove(command.options.out, ignored);  // only if it is empty
    throw;
  }
}

}  // namespace

void add_run(CLI::App& app) {
  const auto command = std::make_shared<RunCommand>();
  CLI::App* run_app = app.add_subcommand("run", "run experiments and write their reports");
  run_app->add_option("NUMBER", command->numbers, "such as 03, 01-03, all")->required();
  add_device_option(*run_app, command->options.device);
  run_app->add_option("--size", command->size, "default: small on the cpu, full on a GPU")
      ->check(CLI::IsMember({"smoke", "small", "full"}));
  run_app->add_option("--data", command->data,
                      "images: synthetic (default), cifar10:DIR and others; text: grammar "
                      "(default), text:FILE, tokens:FILE; parallel text: sagas (default), "
                      "multi30k:DIR, parallel:FILE,FILE; may be given once for each");
  run_app->add_option("--seeds", command->options.seeds, "runs per arm (default: by size)")
      ->check(CLI::Range(1, 1000));
  run_app
      ->add_option("--first-seed", command->options.first_seed,
                   "the others follow it; others than 1: a result again, with fresh seeds")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  run_app->add_option("--out", command->options.out, "folder for the results")
      ->capture_default_str();
  run_app->add_flag("--force", command->options.force,
                    "do finished runs again (default: an interrupted study goes on)");
  run_app->callback([command] { run(*command); });
}

void add_report(CLI::App& app) {
  const auto folder = std::make_shared<std::string>("out");
  CLI::App* report_app = app.add_subcommand("report", "join the results in a folder into one page");
  report_app->add_option("DIR", *folder, "what dyt run wrote")->capture_default_str();
  report_app->callback([folder] {
    const std::string page = write_joined_report(*folder).string();
    std::cout << "Written: " << page << "\n";
  });
}

}  // namespace dyt
