// The command line of dyt, and nothing else: the commands are in commands/.
#include <iostream>

#include "commands/commands.h"

namespace dyt {
namespace {

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
    std::cerr << "dyt: " << e.what() << " (see dyt --help)\n";
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace dyt

int main(int argc, char** argv) {
  try {
    return dyt::command_line(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "dyt: " << e.what() << "\n";
    return 1;
  }
}
