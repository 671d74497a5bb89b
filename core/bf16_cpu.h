// bf16 in the CPU's loops.
#pragma once
#include "core/dtype.h"

namespace dyt::cpu {

// to = value, rounded to T. A bf16 that is assigned as a struct keeps a loop from being vectorised.
template <class T>
inline void put(T& to, Acc<T> value) {
  to = value;
}
inline void put(bf16& to, float value) { to.bits = bf16(value).bits; }

}  // namespace dyt::cpu
