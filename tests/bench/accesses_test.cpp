// What bench/ladders.h says of each kernel's bytes, against what the watched emulator counts.
#include <gtest/gtest.h>

#include <map>

#include "bench/kernel_runner.h"
#include "core/traffic.h"

namespace dyt::test {
namespace {

#if defined(DYT_WATCHED)

struct Counted {
  double touched = 0, bytes = 0;  // of device memory; as the ladder has it
};

// Both directions of every kernel of a ladder, by rung; of so many rows of 256 channels.
std::map<std::pair<std::string, Direction>, Counted> counted(const std::string& ladder,
                                                             int64_t rows, DType dtype) {
  std::map<std::pair<std::string, Direction>, Counted> all;
  const KernelChoice choice{{ladder}, {rows}, {256}, 16, 96};
  for (const KernelCase& kernel : chosen_kernels(choice, Device::emulated, dtype)) {
    KernelRunner runner(kernel, Device::emulated, dtype, 1);
    runner.once([&](Direction direction, const std::function<void()>& work) {
      Counted& c = all[{kernel.rung, direction}];
      c.bytes = kernel.work(direction).bytes;
      for (const KernelTraffic& launch : watch_traffic(work)) {
        c.touched += double(launch.bytes_read + launch.bytes_written);
      }
    });
  }
  return all;
}

// Forward: the inputs once, the outputs once, and the f32 parameters, which the ladder leaves out.
TEST(WatchedKernels, ForwardPassesTouchWhatTheLadderSays) {
  const double vector = 256 * 4, scalar = 32;  // a sector
  const std::map<std::string, double> parameters = {{"layernorm", 2 * vector},
                                                    {"rmsnorm", vector},
                                                    {"dyt", 2 * vector + scalar},
                                                    {"layer_scale", vector},
                                                    {"gelu", 0},
                                                    {"residual", 0},
                                                    {"swiglu", 0},
                                                    {"attention", 0},
                                                    {"identity", 2 * vector + scalar}};
  for (const DType dtype : {DType::bf16, DType::f32}) {
    for (const auto& [ladder, more] : parameters) {
      for (const auto& [name, c] : counted(ladder, 32, dtype)) {
        const auto& [rung, direction] = name;
        // Unfused is what it costs to go by memory after every step; drop(f) doesn't read some f.
        if (direction == Direction::backward || rung == "unfused" || rung == "x + drop(f)")
          continue;
        EXPECT_EQ(c.touched, c.bytes + more) << ladder << " " << rung << " " << name_of(dtype);
      }
    }
  }
}

// Backward, also parameters and their gradients, and of these the partial sums, written and read.
TEST(WatchedKernels, BackwardPassesTouchLittleMore) {
  for (const std::string ladder :
       {"layernorm", "rmsnorm", "dyt", "layer_scale", "gelu", "residual", "swiglu"}) {
    for (const auto& [name, c] : counted(ladder, 256, DType::bf16)) {
      const auto& [rung, direction] = name;
      if (direction == Direction::forward || rung == "unfused" || rung == "x + drop(f)") continue;
      EXPECT_GE(c.touched, c.bytes) << ladder << " " << rung;
      EXPECT_LE(c.touched, 1.2 * c.bytes) << ladder << " " << rung;
    }
  }
}

#else

TEST(Traffic, CanNotBeWatchedInThisBuild) {
  EXPECT_FALSE(can_watch_traffic());
  EXPECT_THROW(watch_traffic([] {}), Error);
}

#endif

}  // namespace
}  // namespace dyt::test
