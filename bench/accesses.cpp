#include "bench/accesses.h"

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "bench/kernel_runner.h"
#include "core/precision.h"
#include "core/traffic.h"

namespace dyt {
namespace {

struct Totals {
  double touched = 0, asked = 0, wanted = 0;  // bytes
  double turns = 0, turns_needed = 0;
};

Totals totals_of(const std::vector<KernelTraffic>& launches) {
  Totals t;
  for (const KernelTraffic& k : launches) {
    t.touched += double(k.bytes_read + k.bytes_written);
    for (const SiteTraffic& s : k.sites) {
      const double unit = s.shared ? 1 : sector_bytes;
      (s.shared ? t.turns : t.asked) += unit * double(s.moved);
      (s.shared ? t.turns_needed : t.wanted) += unit * double(s.needed);
    }
  }
  return t;
}

nlohmann::ordered_json json_of(const KernelTraffic& kernel) {
  nlohmann::ordered_json lines = nlohmann::ordered_json::array();
  for (const SiteTraffic& s : kernel.sites) {
    lines.push_back({{"where", s.where},
                     {"shared", s.shared},
                     {"writes", s.writes},
                     {"requests", s.requests},
                     {"bytes", s.bytes},
                     {"moved", s.moved},
                     {"needed", s.needed}});
  }
  return {{"launched_by", kernel.launched_by},
          {"blocks", kernel.blocks},
          {"threads", kernel.threads},
          {"bytes_read", kernel.bytes_read},
          {"bytes_written", kernel.bytes_written},
          {"lines", lines}};
}

// Every line that wastes something, of all launches together.
void print_lines(std::FILE* table, const std::vector<KernelTraffic>& launches) {
  std::map<std::pair<std::string, std::pair<bool, bool>>, SiteTraffic> by_line;
  for (const KernelTraffic& k : launches) {
    for (const SiteTraffic& s : k.sites) {
      SiteTraffic& sum = by_line
                             .try_emplace({s.where, {s.shared, s.writes}},
                                          SiteTraffic{s.where, s.shared, s.writes})
                             .first->second;
      sum.requests += s.requests, sum.bytes += s.bytes;
      sum.moved += s.moved, sum.needed += s.needed;
    }
  }
  for (const auto& [key, s] : by_line) {
    if (double(s.needed) >= 0.9 * double(s.moved)) continue;
    std::fprintf(table, "    %-44s %s %s: %.1f %s a request, %.1f would do\n", s.where.c_str(),
                 s.shared ? "shared memory" : "device memory", s.writes ? "written" : "read",
                 double(s.moved) / double(s.requests), s.shared ? "turns" : "sectors",
                 double(s.needed) / double(s.requests));
  }
}

}  // namespace

void bench_accesses(const AccessesOptions& options) {
  require(can_watch_traffic(), "bench accesses needs a build with CUDA=0 SANITIZE=thread");
  const Device device = Device::emulated;
  const DType dtype = choose_precision(options.precision, device).activations;
  std::FILE* const table = options.json ? stderr : stdout;
  std::fprintf(table, "%-16s %-18s %-16s %-9s %3s %10s %10s %10s %6s %7s\n", "kernel", "rung",
               "shape", name_of(dtype), "", "at least", "touched", "asked", "full", "shared");
  for (const KernelCase& kernel : chosen_kernels(options.kernels, device, dtype)) {
    KernelRunner runner(kernel, device, dtype, 1);
    runner.once([](Direction, const std::function<void()>& work) { work(); });  // sets things up
    runner.once([&](Direction direction, const std::function<void()>& work) {
      const std::vector<KernelTraffic> launches = watch_traffic(work);
      const double bytes = kernel.work(direction).bytes;
      const Totals t = totals_of(launches);
      char turns[32] = "";
      if (t.turns > 0) std::snprintf(turns, sizeof turns, "%.2f", t.turns / t.turns_needed);
      std::fprintf(table, "%-16s %-18s %-16s %-9s %3zu %10.0f %10.0f %10.0f %4.0f %% %7s\n",
                   kernel.ladder.c_str(), kernel.rung.c_str(), kernel.shape.text().c_str(),
                   name_of(direction), launches.size(), bytes, t.touched, t.asked,
                   t.asked > 0 ? 100 * t.wanted / t.asked : 100, turns);
      if (options.lines) print_lines(table, launches);
      std::fflush(table);
      if (!options.json) return;
      nlohmann::ordered_json line = {{"kernel", kernel.ladder},
                                     {"rung", kernel.rung},
                                     {"direction", name_of(direction)},
                                     {"shape", dims_of(kernel.shape)},
                                     {"bytes", bytes},
                                     {"launches", nlohmann::json::array()}};
      for (const KernelTraffic& k : launches) line["launches"].push_back(json_of(k));
      std::printf("%s\n", line.dump().c_str());
    });
  }
}

}  // namespace dyt
