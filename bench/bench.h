// Timing, for `dyt bench`. Comparisons with other programs are scripts in bench/peers.
#pragma once
#include <string>

namespace dyt {

struct BenchOptions {
  std::string model = "vit_ti4", device = "auto";
  std::string norm;  // empty: the model's own
  int batch = 0;     // 0: the one that bench/compare.py measures, or 64 images or 32 texts
  int steps = 20;
  bool json = false;
};

// Times whole training steps (forward, backward, AdamW) after three steps of warm-up, and prints
// the median and the spread, or with json one line that bench/compare.py reads. The model is a
// preset of images or of texts, or one of the four that are compared: "vit_ti4", "convnext_atto"
// (the one for 32 x 32 images), "gpt_6x192" and "resnet20". The data are random and made
// beforehand, always the same batch.
void bench_train_step(const BenchOptions& options);

}  // namespace dyt
