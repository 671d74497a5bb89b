// Timing, for `dyt bench`. Comparisons with other programs are scripts in bench/peers.
#pragma once
#include <string>

namespace dyt {

struct BenchOptions {
  std::string model = "vit_ti4", device = "auto", norm = "layernorm";
  int batch = 64, steps = 20;
  bool json = false;
};

// Times whole training steps (forward, backward, AdamW) on random images after three steps of
// warm-up, and prints the median and the spread, or with json one line
// {"model": ..., "device": ..., "step_seconds": [...]}.
void bench_train_step(const BenchOptions& options);

}  // namespace dyt
