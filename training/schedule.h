// Learning rates over a run.
#pragma once
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

}  // namespace dyt
