// ReLU of one number, for activation.cu and for the passes that end in one.
#pragma once
#include "core/kernel.h"

namespace dyt {

// max(0, x). A NaN stays one: a run that diverged should show it.
template <class A>
HOST_DEVICE A relu_value(A x) {
  return x < 0 ? A(0) : x;
}

}  // namespace dyt
