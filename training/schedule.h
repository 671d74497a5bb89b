// Learning rates over a run.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

namespace dyt {

// Linear warm-up over `warmup` steps, from peak / warmup to the peak, then half a cosine down to
// `floor` (arXiv 1608.03983, without restarts). step counts from 0 to steps - 1.
struct CosineSchedule {
  double peak = 1e-3, floor = 0;
  int64_t warmup = 0, steps = 1;

  double operator()(int64_t step) const {
    if (step < warmup) return peak * double(step + 1) / double(warmup);
    const double progress = double(step - warmup) / double(steps - warmup);
    return floor + (peak - floor) / 2 * (1 + std::cos(3.14159265358979323846 * progress));
  }
};

// Linear warm-up as above, and from step `decay_from` on the inverse square root of the step (arXiv
// 1706.03762, section 5.3, where both are 4,000 steps):
//
//     peak min(1, (step + 1) / warmup) min(1, sqrt(decay_from / (step + 1)))
//
// So runs with a long, a short and no warm-up decay alike, and differ at their beginning only.
struct InverseSqrtSchedule {
  double peak = 1e-3;
  int64_t warmup = 0, decay_from = 1;

  double operator()(int64_t step) const {
    const double n = double(step + 1);
    const double rise = warmup > 0 ? std::min(1.0, n / double(warmup)) : 1;
    return peak * rise * std::min(1.0, std::sqrt(double(decay_from) / n));
  }
};

}  // namespace dyt
