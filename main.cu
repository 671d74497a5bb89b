// The command line of dyt, and nothing else: the commands are in commands/.
#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "commands/commands.h"

namespace dyt {
namespace {

// An empty value is a shell's variable that isn't set: never "not given". But a prompt may be one.
void refuse_empty_values(CLI::App& app) {
  const auto problem = [](std::string& text) { return text.empty() ? "its value is empty" : ""; };
  for (CLI::Option* option : app.get_options()) {
    const bool takes_value = option->get_items_expected_max() > 0;
    if (takes_value && option->get_name() != "--prompt") {
      option->check(CLI::Validator(problem, ""));
    }
  }
  for (CLI::App* command : app.get_subcommands(nullptr)) refuse_empty_values(*command);
}

// As many threads as there will be: loops, and oneDNN, divide their work by omp_get_max_threads().
// OMP_DYNAMIC and OMP_THREAD_LIMIT could make them fewer.
void settle_threads() {
  omp_set_dynamic(0);
  omp_set_num_threads(std::min(omp_get_max_threads(), omp_get_thread_limit()));
}

// "dyt bench train": as far as the command line was understood.
std::string chosen_command(const CLI::App& app) {
  std::string name = "dyt";
  for (const CLI::App* a = &app; !a->get_subcommands().empty();) {
    a = a->get_subcommands().front();
    name += " " + a->get_name();
  }
  return name;
}

int command_line(int argc, char** argv) {
  CLI::App app{"dyt: Transformers with and without normalization, from scratch"};
  app.require_subcommand(1);
  add_list(app);
  add_info(app);
  add_run(app);
  add_report(app);
  add_train(app);
  add_sample(app);
  add_predict(app);
  add_export(app);
  add_bench(app);
  add_forward(app);
  add_backward(app);

  refuse_empty_values(app);

  const auto is_named = [&](const CLI::App* a) { return argc > 1 && a->get_name() == argv[1]; };
  if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(is_named).empty()) {
    std::cerr << "dyt: unknown command '" << argv[1] << "' (see dyt --help)\n";
    return 2;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& e) {
    return app.exit(e);
  } catch (const CLI::CallForAllHelp& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    std::cerr << "dyt: " << e.what() << " (see " << chosen_command(app) << " --help)\n";
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace dyt

int main(int argc, char** argv) {
  try {
    dyt::settle_threads();
    const int status = dyt::command_line(argc, argv);
    std::cout.flush();
    if (std::fflush(stdout) != 0 || std::ferror(stdout) || !std::cout) {
      std::cerr << "dyt: not all could be written to standard output\n";
      return std::max(status, 1);
    }
    return status;
  } catch (const std::exception& e) {
    std::cerr << "dyt: " << e.what() << "\n";
    return 1;
  }
}
