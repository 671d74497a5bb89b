#include <cstdio>

#include "commands/commands.h"
#include "core/matmul.h"
#include "core/pair_product.h"
#include "experiments/registry.h"

namespace dyt {
namespace {

void list() {
  for (const Experiment& e : experiments()) {
    std::printf("%02d  %-62s %-28s %s\n", e.number, e.title, e.source,
                e.run ? cost_text(e).c_str() : "planned");
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
  const std::string unit = pair_product_unit();
  std::printf("products   cpu: %s%s\n           %s: %s\n", matmul_library(Device::cpu),
              unit == "AMX" ? "; large ones by AMX, a number as three bf16" : "",
              name_of(kernel_device), matmul_library(kernel_device));
  std::printf("bf16       cpu: %s\n",
              !unit.empty() ? ("products by " + unit).c_str()
              : has_bf16_instructions()
                  ? "products by oneDNN, with the processor's own instructions"
                  : "rounded, but multiplied in f32: no instructions for it");
#if defined(__clang__)
  std::printf("compiler   clang++ %s\n", __clang_version__);
#else
  std::printf("compiler   g++ %s\n", __VERSION__);
#endif
}

}  // namespace

void add_list(CLI::App& app) {
  app.add_subcommand("list", "the experiments: number, title, source, cost")->callback(list);
}

void add_info(CLI::App& app) {
  app.add_subcommand("info", "this build, its devices and libraries")->callback(info);
}

void add_device_option(CLI::App& to, std::string& value) {
  to.add_option("--device", value, "where to compute")
      ->check(CLI::IsMember({"auto", "cpu", "cuda", "emulated"}))
      ->capture_default_str();
}

}  // namespace dyt
