// The command line of dyt, and nothing else.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>

#include "bench/bench.h"
#include "core/matmul.h"
#include "experiments/classifier_study.h"
#include "experiments/registry.h"
#include "models/vit.h"
#include "training/progress.h"

namespace dyt {
namespace {

struct RunCommand {
  std::vector<std::string> numbers;
  Options options;
  std::string size;  // empty: small on the cpu, full on a GPU
};

struct TrainCommand {
  std::string model = "vit_micro", device = "auto", data = "synthetic", norm = "layernorm";
  std::string placement = "pre", out;
  int epochs = 5, batch = 100, seed = 1;
  double lr = 1e-3, weight_decay = 0.05, warmup_epochs = 0.5, label_smoothing = 0, clip = 1;
  double alpha0 = 0.5, drop_path = 0;
  int width = 0, depth = 0, heads = 0, patch = 0;  // 0: the preset's
  int train_images = 0, test_images = 0;           // 0: all
};

void list() {
  for (const Experiment& e : experiments()) {
    std::printf("%02d  %-62s %-28s %s\n", e.number, e.title, e.source, e.run ? e.cost : "planned");
  }
}

void info() {
  std::printf("build      %s, commit %s\n",
              kernel_device == Device::cuda ? "cpu + cuda" : "cpu + emulated", build_commit());
  for (Device device : {Device::cpu, Device::cuda, Device::emulated}) {
    std::string why_not;
    const bool there = is_available(device, &why_not);
    std::printf("%-10s %s\n", name_of(device),
                there ? describe(device).c_str() : ("not available: " + why_not).c_str());
  }
  std::printf("products   cpu: %s\n           %s: %s\n", matmul_library(Device::cpu),
              name_of(kernel_device), matmul_library(kernel_device));
  std::printf("compiler   g++ %s\n", __VERSION__);
}

void run_selected(const std::vector<const Experiment*>& selected, const Options& options,
                  Device device) {
  for (const Experiment* e : selected) {
    const Report report = run_experiment(*e, options, name_of(device) + (": " + describe(device)));
    const auto folder = write_report(report, options.out);
    print_report(report, std::cout);
    std::cout << "\nWritten: " << (folder / "report.html").string() << "\n";
  }
  if (selected.size() > 1) {
    std::cout << "Joined report: " << write_joined_report(options.out).string() << "\n";
  }
}

void run(RunCommand& command) {
  const std::vector<const Experiment*> selected = select_experiments(command.numbers);
  const Device device = parse_device(command.options.device);
  command.options.device = name_of(device);
  command.options.size = command.size.empty() ? (device == Device::cuda ? Size::full : Size::small)
                                              : size_named(command.size);
  load_images(command.options.data, 1, 1);  // a spec that can't be read, before anything is written
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

ViTConfig configure(const TrainCommand& command, const ImageDataset& data) {
  ViTConfig config = vit_preset(command.model == "vit" ? "vit_micro" : command.model);
  if (command.width) config.width = command.width;
  if (command.depth) config.depth = command.depth;
  if (command.heads) config.heads = command.heads;
  if (command.patch) config.patch_size = command.patch;
  config.drop_path = float(command.drop_path);
  config.image_size = data.height;
  config.classes = data.classes();
  config.norm = {.kind = parse_norm(command.norm),
                 .placement = parse_placement(command.placement),
                 .alpha0 = float(command.alpha0)};
  return config;
}

void train(const TrainCommand& command) {
  if (command.model != "vit") vit_preset(command.model);  // an unknown name before any work
  const Device device = parse_device(command.device);
  const ImageSplits data =
      load_images(command.data, size_t(command.train_images), size_t(command.test_images));
  require(data.train.height == data.train.width, "images are ", data.train.height, " x ",
          data.train.width, "; a ViT here takes square ones");
  require(size_t(command.batch) <= data.train.size(), "a batch of ", command.batch,
          " is more than the ", data.train.size(), " images of the train split");
  Parameters parameters;
  const ViT model(configure(command, data.train), parameters);
  parameters.allocate(device, default_dtype(device), uint64_t(command.seed));

  if (!command.out.empty()) prepare_output(command.out);

  const int64_t batches = int64_t(data.train.size()) / command.batch;
  TrainOptions options{.steps = batches * command.epochs,
                       .batch = command.batch,
                       .lr = command.lr,
                       .lr_floor = command.lr / 100,
                       .warmup = int64_t(command.warmup_epochs * double(batches)),
                       .label_smoothing = float(command.label_smoothing),
                       .seed = uint64_t(command.seed),
                       .evaluate_every = batches};
  options.adamw.weight_decay = float(command.weight_decay);
  options.adamw.max_norm = float(command.clip);
  std::printf("%s, %s, %lld parameters, %s: %zu train and %zu test images, on %s\n",
              command.model.c_str(), command.norm.c_str(),
              static_cast<long long>(parameters.count()), data.train.name.c_str(),
              data.train.size(), data.test.size(), name_of(device));
  const Forward forward = [&](Tape& tape, const Tensor& images) {
    return model.forward(tape, images);
  };
  TrainResult result;
  {
    ProgressLine line("train");
    result = train_classifier(forward, parameters, data, options, std::ref(line));
  }
  const auto folder = std::filesystem::path(command.out);
  std::ofstream log;
  if (!command.out.empty()) log.open(folder / "metrics.jsonl");
  std::printf("%8s %12s %12s %14s\n", "step", "train loss", "test loss", "test accuracy");
  for (const Evaluation& e : result.curve) {
    std::printf("%8lld %12.4f %12.4f %12.2f %%\n", static_cast<long long>(e.step), e.train_loss,
                e.test_loss, 100 * e.test_accuracy);
    if (log) {
      log << "{\"step\": " << e.step << ", \"train_loss\": " << e.train_loss
          << ", \"test_loss\": " << e.test_loss << ", \"test_accuracy\": " << e.test_accuracy
          << "}\n";
    }
  }
  if (result.diverged()) {
    std::printf("diverged at step %lld: the loss was not finite or above %g\n",
                static_cast<long long>(result.diverged_at), options.diverged_above);
  }
  std::printf("%.1f s, %.0f images/s with evaluation, %.1f MiB of activations and gradients\n",
              result.seconds, double(result.images) / result.seconds,
              double(result.arena_bytes) / (1 << 20));
}

int command_line(int argc, char** argv) {
  CLI::App app{"dyt: Transformers with and without normalization, from scratch"};
  app.require_subcommand(1);
  const auto device_option = [](CLI::App* to, std::string& value) {
    to->add_option("--device", value, "where to compute")
        ->check(CLI::IsMember({"auto", "cpu", "cuda", "emulated"}))
        ->capture_default_str();
  };
  app.add_subcommand("list", "the experiments: number, title, source, cost")->callback(list);
  app.add_subcommand("info", "this build, its devices and libraries")->callback(info);

  RunCommand run_command;
  CLI::App* run_app = app.add_subcommand("run", "run experiments and write their reports");
  run_app->add_option("NUMBER", run_command.numbers, "such as 03, 01-03, all")->required();
  device_option(run_app, run_command.options.device);
  run_app->add_option("--size", run_command.size, "default: small on the cpu, full on a GPU")
      ->check(CLI::IsMember({"smoke", "small", "full"}));
  run_app->add_option("--data", run_command.options.data, "synthetic or cifar10:DIR")
      ->capture_default_str();
  run_app->add_option("--seeds", run_command.options.seeds, "runs per arm (default: by size)")
      ->check(CLI::Range(1, 1000));
  run_app->add_option("--out", run_command.options.out, "folder for the results")
      ->capture_default_str();
  run_app->callback([&] { run(run_command); });

  TrainCommand t;
  CLI::App* train_app = app.add_subcommand("train", "train one model");
  train_app->add_option("MODEL", t.model, "vit or one of its presets")->required();
  device_option(train_app, t.device);
  const auto count = [&](const char* name, int& value, const char* help) {
    train_app->add_option(name, value, help)->check(CLI::Range(1, 1 << 30));
  };
  train_app->add_option("--data", t.data, "synthetic or cifar10:DIR")->capture_default_str();
  train_app->add_option("--norm", t.norm, "what normalises")
      ->check(CLI::IsMember(norm_names()))
      ->capture_default_str();
  train_app->add_option("--norm-placement", t.placement, "before or after a residual branch")
      ->check(CLI::IsMember({"pre", "post"}))
      ->capture_default_str();
  train_app->add_option("--alpha0", t.alpha0, "where DyT's alpha starts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  count("--epochs", t.epochs, "passes over the train split (default 5)");
  count("--batch", t.batch, "images per step (default 100)");
  count("--seed", t.seed, "of weights, order and augmentation (default 1)");
  count("--width", t.width, "channels (default: the preset's, as below)");
  count("--depth", t.depth, "blocks");
  count("--heads", t.heads, "attention heads; must divide the width");
  count("--patch", t.patch, "patch size in pixels; must divide the image size");
  count("--train-images", t.train_images, "use only the first so many (default: all)");
  count("--test-images", t.test_images, "likewise");
  const auto number = [&](const char* name, double& value, double low, double high,
                          const char* help) {
    train_app->add_option(name, value, help)->check(CLI::Range(low, high))->capture_default_str();
  };
  number("--lr", t.lr, 1e-12, 1e3, "peak learning rate");
  number("--weight-decay", t.weight_decay, 0, 10, "AdamW's, on matrices");
  number("--warmup-epochs", t.warmup_epochs, 0, 1e6, "linear warm-up");
  number("--label-smoothing", t.label_smoothing, 0, 0.999, "");
  number("--clip", t.clip, 0, 1e12, "global gradient norm; 0: no clipping");
  number("--drop-path", t.drop_path, 0, 0.999, "stochastic depth of the last block");
  train_app->add_option("--out", t.out, "folder for metrics.jsonl");
  train_app->callback([&] { train(t); });

  std::string report_folder = "out";
  CLI::App* report_app = app.add_subcommand("report", "join the results in a folder into one page");
  report_app->add_option("DIR", report_folder, "what dyt run wrote")->capture_default_str();
  report_app->callback(
      [&] { std::cout << "Written: " << write_joined_report(report_folder).string() << "\n"; });

  BenchOptions bench;
  CLI::App* bench_app = app.add_subcommand("bench", "time things");
  bench_app->require_subcommand(1);
  CLI::App* bench_train = bench_app->add_subcommand("train", "training steps of a model");
  bench_train->add_option("MODEL", bench.model, "a preset such as vit_ti4")->required();
  device_option(bench_train, bench.device);
  bench_train->add_option("--norm", bench.norm, "what normalises")
      ->check(CLI::IsMember(norm_names()))
      ->capture_default_str();
  bench_train->add_option("--batch", bench.batch, "images per step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  bench_train->add_option("--steps", bench.steps, "timed steps")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  bench_train->add_flag("--json", bench.json, "one line of JSON");
  bench_train->callback([&] { bench_train_step(bench); });

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
