#include "tests/thread_order.h"

#if defined(DYT_EMULATED)
#include "core/emulator_watch.h"
#endif

namespace dyt::test {

void for_other_thread_orders([[maybe_unused]] const std::function<void(const char*)>& body) {
#if defined(DYT_EMULATED)
  if (emulator::watched) return;  // it sees a race in whatever order
  const emulator::Order before = emulator::order;
  emulator::order = emulator::Order::descending;
  body("descending");
  emulator::order = emulator::Order::shuffled;
  body("shuffled");
  emulator::order = before;
#endif
}

}  // namespace dyt::test
