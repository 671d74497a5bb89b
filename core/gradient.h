// The one thing that gradients of different ops have in common: they add up.
#pragma once
#include "core/tape.h"

namespace dyt {

// Gives the gradient of y to x as well (same size and type), for y = x + ...: hands over the memory
// if x has no gradient yet, else adds. To be called last in y's closure: y's gradient may be
// overwritten from here on.
void add_gradient(Tape& tape, const Tensor& y, const Tensor& x);

}  // namespace dyt
