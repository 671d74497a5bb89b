#include "bench/bench.h"

#include <memory>

#include "bench/accesses.h"
#include "bench/kernels.h"
#include "commands/commands.h"
#include "layers/norm.h"

namespace dyt {

namespace {

// Which kernels, and of what shape.
void add_choice(CLI::App& app, KernelChoice& choice) {
  app.add_option("NAME", choice.ladders, "layernorm, attention, ...; default: all");
  const auto positive = CLI::Range(int64_t(1), int64_t(1) << 31);
  app.add_option("--rows", choice.rows, "of norms and the like; several: all of them")
      ->delimiter(',')
      ->check(positive);
  app.add_option("--channels", choice.channels, "likewise")->delimiter(',')->check(positive);
  app.add_option("--tokens", choice.tokens, "of a text, for attention")->check(positive);
  app.add_option("--vocabulary", choice.vocabulary, "for cross-entropy")->check(positive);
}

void add_bench_kernels(CLI::App& bench_app) {
  const auto options = std::make_shared<KernelBenchOptions>();
  KernelBenchOptions& bench = *options;
  CLI::App* kernels = bench_app.add_subcommand(
      "kernels", "every kernel: time, and its share of a copy's bandwidth or a product's FLOP/s");
  add_choice(*kernels, bench.kernels);
  add_device_option(*kernels, bench.device);
  kernels->add_option("--precision", bench.precision, "f32 or bf16; default: bf16 on a GPU")
      ->check(CLI::IsMember({"f32", "bf16"}));
  kernels->add_option("--seconds", bench.seconds, "for each kernel, at least")
      ->check(between(0, 60))
      ->capture_default_str();
  kernels->add_flag("--json", bench.json, "JSON Lines on stdout, the table on stderr");
  kernels->callback([options] { bench_kernels(*options); });
}

void add_bench_accesses(CLI::App& bench_app) {
  const auto options = std::make_shared<AccessesOptions>();
  CLI::App* accesses = bench_app.add_subcommand(
      "accesses",
      "every kernel in the emulator: what it reads and writes, counted access for access, and "
      "whether threads race (a build with CUDA=0 SANITIZE=thread)");
  add_choice(*accesses, options->kernels);
  accesses->add_option("--precision", options->precision, "f32 or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  accesses->add_flag("--lines", options->lines, "also every line of a kernel that wastes some");
  accesses->add_flag("--json", options->json, "JSON Lines on stdout, the table on stderr");
  accesses->callback([options] { bench_accesses(*options); });
}

void add_bench_train(CLI::App& bench_app) {
  const auto options = std::make_shared<BenchOptions>();
  BenchOptions& bench = *options;
  CLI::App* bench_train = bench_app.add_subcommand("train", "training steps of a model");
  bench_train
      ->add_option(
          "MODEL", bench.model,
          "a preset such as vit_ti4, or convnext_atto, gpt_6x192 as bench/compare.py calls them")
      ->required();
  add_device_option(*bench_train, bench.device);
  bench_train->add_option("--norm", bench.norm, "what normalises; default: the model's own")
      ->check(CLI::IsMember(norm_names()));
  bench_train
      ->add_option("--batch", bench.batch,
                   "images or texts per step; default: 64 images or 32 texts")
      ->check(CLI::Range(1, 1 << 20));
  bench_train->add_option("--precision", bench.precision, "f32 or bf16; default: bf16 on a GPU")
      ->check(CLI::IsMember({"f32", "bf16"}));
  bench_train->add_option("--steps", bench.steps, "timed steps")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  bench_train->add_option("--graph", bench.graph, "repeat steps as one CUDA graph (auto: on a GPU)")
      ->check(CLI::IsMember({"auto", "on", "off"}));
  bench_train->add_flag("--json", bench.json, "lines of JSON: ready, then one for each turn");
  bench_train->add_flag("--by-turns", bench.by_turns, "wait for a line on stdin before each turn");
  bench_train->callback([options] { bench_train_step(*options); });
}

}  // namespace

void add_bench(CLI::App& app) {
  CLI::App* bench_app = app.add_subcommand("bench", "time things");
  bench_app->require_subcommand(1);
  add_bench_kernels(*bench_app);
  add_bench_accesses(*bench_app);
  add_bench_train(*bench_app);
}

}  // namespace dyt
