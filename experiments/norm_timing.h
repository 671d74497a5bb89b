// Timing norms, for experiment 06: alone on a large tensor, and inside a model.
#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/quantile.h"
#include "experiments/registry.h"
#include "models/gpt.h"
#include "training/progress.h"

namespace dyt {

// What is timed: a layer or a model, forward alone or forward and backward.
inline constexpr const char* tasks[] = {"layer, inference", "layer, training", "model, inference",
                                        "model, training"};

struct NormTiming {
  int64_t rows, channels;  // of a layer's input
  GPTConfig model;
  int64_t batch;  // texts of the model's whole context
  int repetitions;
};
NormTiming norm_timing(Size size);

struct TimedNorm {
  std::string name;
  NormSpec norm;
};
std::vector<TimedNorm> timed_norms();  // in the model there is also "no norm"

// Seconds of every repetition, by (name, task); of a plain copy by ("copy", tasks[0]).
using Times = std::map<std::pair<std::string, std::string>, std::vector<double>>;

void measure_layers(const NormTiming& setting, Device device, Times& times, StatusLine& line);
void measure_models(const NormTiming& setting, Device device, Times& times, StatusLine& line);

// Bytes that a layer has to move: fused, x and y, and then dy, x and dx; unfused, as counted.
double bytes_moved(const NormTiming& setting, const TimedNorm& arm, bool training, Device device);

}  // namespace dyt
