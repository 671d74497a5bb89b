// Running something again in the emulator's other thread orders.
#pragma once
#include <functional>

namespace dyt::test {

// Calls body("descending") and body("shuffled") with the emulator set so; on a GPU, where the order
// is the hardware's, and in a watched build, where it doesn't matter, calls nothing.
void for_other_thread_orders(const std::function<void(const char* order)>& body);

}  // namespace dyt::test
