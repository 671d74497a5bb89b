#include "bench/bench.h"

#include <memory>

#include "commands/commands.h"
#include "layers/norm.h"

namespace dyt {

void add_bench(CLI::App& app) {
  const auto options = std::make_shared<BenchOptions>();
  BenchOptions& bench = *options;
  CLI::App* bench_app = app.add_subcommand("bench", "time things");
  bench_app->require_subcommand(1);
  CLI::App* bench_train = bench_app->add_subcommand("train", "training steps of a model");
  bench_train
      ->add_option(
          "MODEL", bench.model,
          "a preset such as vit_ti4, or convnext_atto, gpt_6x192, resnet20 as bench/compare.py\n"
          "measures them")
      ->required();
  add_device_option(*bench_train, bench.device);
  bench_train->add_option("--norm", bench.norm, "what normalises; default: the model's own")
      ->check(CLI::IsMember(norm_names()));
  bench_train
      ->add_option("--batch", bench.batch,
                   "images or texts per step; default: as compared, or 64 or 32")
      ->check(CLI::Range(1, 1 << 20));
  bench_train->add_option("--steps", bench.steps, "timed steps")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  bench_train->add_flag("--json", bench.json, "one line of JSON");
  bench_train->callback([options] { bench_train_step(*options); });
}

}  // namespace dyt
