// `dyt bench train`: whole training steps. bench/compare.py runs it by turns with other programs.
#pragma once
#include <string>

namespace dyt {

struct BenchOptions {
  std::string model = "vit_ti4", device = "auto";
  std::string norm;            // empty: the model's own
  std::string precision;       // "f32" or "bf16"; empty: the device's own
  std::string graph = "auto";  // whole steps as CUDA graphs: "on", "off", "auto" (on a GPU)
  int batch = 0;               // 0: 64 images or 32 texts, or as for bench/compare.py
  int steps = 20;              // per turn
  bool json = false;
  bool by_turns = false;  // measure once for every line on stdin
};

// Times training steps (forward, backward, AdamW) after some of warm-up. On a GPU, several steps
// are timed together, as nobody waits for single ones in training. The model is a preset of images
// or of texts, or has a name that it has in comparisons: "convnext_atto" (the one for 32 x 32
// images) or "gpt_6x192". The data are random, made beforehand, and lie on the device.
//
// Prints the median and the spread, what of it is model-FLOP use (bench/flops.h, over what a large
// matrix product reaches here), and the memory. With json a line {"ready": true, ...}, when all is
// prepared, and then for each turn {"seconds_per_step": [...], "median", "images_per_s" or
// "tokens_per_s", "flops_per_step", "product_flops_per_s", "model_flop_use", "peak_memory_bytes"}.
void bench_train_step(const BenchOptions& options);

}  // namespace dyt
