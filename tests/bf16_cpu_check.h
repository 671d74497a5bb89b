// One more witness, of ops with matrix products: on the CPU with products in bf16 against f32.
#pragma once
#include "core/product.h"
#include "tests/op_check.h"

namespace dyt::test {

inline void check_bf16_on_the_cpu(const OpCase& op) {
  const Values values = draw_values(op, 13);
  const Outcome expected = run_op(op, Device::cpu, DType::f32, values);
  const CpuProductsIn narrow(DType::bf16);
  const Outcome actual = run_op(op, Device::cpu, DType::f32, values);
  const std::string what = op.name + " with products in bf16: ";
  expect_close(actual.y, expected.y, op.bf16_tolerance, what + "y");
  for (size_t i = 0; i < expected.input_gradients.size(); ++i) {
    expect_close(actual.input_gradients[i], expected.input_gradients[i], op.bf16_tolerance,
                 what + "gradient of input " + std::to_string(i));
  }
  for (const auto& [name, gradient] : expected.parameter_gradients) {
    expect_close(actual.parameter_gradients.at(name), gradient, op.bf16_tolerance,
                 what + "gradient of " + name);
  }
}

}  // namespace dyt::test
