// What a run computes in, as --precision says.
#pragma once
#include <string>

#include "core/device.h"
#include "core/error.h"
#include "core/product.h"

namespace dyt {

struct Precision {
  DType of_run;       // as it was chosen
  DType activations;  // of its tape and parameters
};

// "f32", "bf16", or "" for the device's default; Error otherwise. On the cpu bf16 is what
// products and convolutions multiply in, for the whole process from here on; its tape and
// parameters stay f32, and of activations those that layers/linear_bf16.h and
// layers/activations_bf16.h name are bf16.
inline Precision choose_precision(const std::string& name, Device device) {
  require(name.empty() || name == "f32" || name == "bf16", "unknown precision '", name,
          "'; choose f32 or bf16");
  const DType chosen = name.empty()     ? default_dtype(device)
                       : name == "bf16" ? DType::bf16
                                        : DType::f32;
  if (device != Device::cpu) return {chosen, chosen};
  set_cpu_products(chosen);
  return {chosen, DType::f32};
}

}  // namespace dyt
