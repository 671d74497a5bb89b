// One more witness, of what the CPU does in bf16, against f32: ops with products in bf16, and ops
// whose activations are.
#pragma once
#include <string>

#include "core/pair_product.h"
#include "layers/activations_bf16.h"
#include "tests/op_check.h"

namespace dyt::test {

inline void expect_close_to(const Outcome& actual, const Outcome& expected, double tolerance,
                            const std::string& what) {
  expect_close(actual.y, expected.y, tolerance, what + "y");
  for (size_t i = 0; i < expected.input_gradients.size(); ++i) {
    expect_close(actual.input_gradients[i], expected.input_gradients[i], tolerance,
                 what + "gradient of input " + std::to_string(i));
  }
  for (const auto& [name, gradient] : expected.parameter_gradients) {
    expect_close(actual.parameter_gradients.at(name), gradient, tolerance,
                 what + "gradient of " + name);
  }
}

// With each of the units that the processor has.
inline void check_bf16_on_the_cpu(const OpCase& op) {
  const Values values = draw_values(op, 13);
  const Outcome expected = run_op(op, Device::cpu, DType::f32, values);
  const CpuProductsIn narrow(DType::bf16);
  const auto check = [&] {
    const Outcome actual = run_op(op, Device::cpu, DType::f32, values);
    expect_close_to(actual, expected, op.bf16_tolerance,
                    op.name + " with products in bf16, " + pair_product_unit() + ": ");
  };
  check();
  if (std::string(pair_product_unit()) == "AMX") {
    use_amx(false);
    check();
    use_amx(true);
  }
}

// With inputs that are bf16 numbers, given as such or as f32.
inline void check_bf16_activations_on_the_cpu(const OpCase& op) {
  const Values values = draw_values(op, 14, true);
  const Outcome expected = run_op(op, Device::cpu, DType::f32, values);
  OpCase narrow_op = op;
  narrow_op.run = [&](Tape& tape, const std::vector<Tensor>& inputs, Parameters& p) {
    std::vector<Tensor> x;
    for (const Tensor& input : inputs) x.push_back(narrowed(tape, input));
    const Tensor y = op.run(tape, x, p);
    EXPECT_EQ(y.dtype, DType::bf16) << op.name;
    return widened(tape, y);
  };
  const CpuProductsIn narrow(DType::bf16);
  const Outcome actual = run_op(narrow_op, Device::cpu, DType::f32, values);
  expect_close_to(actual, expected, op.bf16_tolerance, op.name + " with activations in bf16: ");
}

}  // namespace dyt::test
