#include <gtest/gtest.h>

#include <cmath>

#include "core/safetensors.h"
#include "layers/layers.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

OpCase swiglu_case(Shape shape) {
  return {.name = "swiglu " + shape.text(),
          .inputs = {shape},
          .run = [](Tape& tape, const std::vector<Tensor>& x,
                    Parameters&) { return swiglu(tape, x[0]); },
          .input_scale = 2};
}

TEST(Swiglu, GradientsAgreeWithFiniteDifferences) { check_gradients(swiglu_case({3, 2, 10})); }

TEST(Swiglu, AgreesWithPyTorch) {
  const TensorFile file = read_safetensors(reference_folder() + "/layers2.safetensors");
  const size_t rows = 5, C = 21;
  const auto packed = [&](const std::string& gate, const std::string& up) {
    const std::vector<double> a = file.doubles("swiglu/" + gate), b = file.doubles("swiglu/" + up);
    std::vector<double> x;
    for (size_t r = 0; r < rows; ++r) {
      x.insert(x.end(), a.begin() + long(r * C), a.begin() + long((r + 1) * C));
      x.insert(x.end(), b.begin() + long(r * C), b.begin() + long((r + 1) * C));
    }
    return x;
  };
  const Outcome outcome = run_op(swiglu_case({5, 42}), Device::cpu, DType::f32,
                                 {{packed("gate", "up")}, {}, file.doubles("swiglu/dy")});
  expect_close(outcome.y, file.doubles("swiglu/y"), 2e-6, "y");
  expect_close(outcome.input_gradients[0], packed("dgate", "dup"), 2e-6, "dx");
}

TEST(SwigluKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Shape& shape : {Shape{1, 1, 2}, Shape{3, 7, 66}, Shape{2, 197, 48}, Shape{33, 520}}) {
    check_kernels(swiglu_case(shape));
  }
}

TEST(Swiglu, GradientIsAddedToWhatIsThere) {
  OpCase op = swiglu_case({2, 3, 16});
  op.run = [](Tape& tape, const std::vector<Tensor>& x, Parameters&) {
    return residual_add(tape, swiglu(tape, x[0]), swiglu(tape, x[0]));
  };
  check_gradients(op);
  SKIP_WITHOUT_KERNELS();
  check_kernels(op);
}

// Far from 0 the gate is open or shut, without overflow on the way.
TEST(Swiglu, IsFiniteFarFromZero) {
  for (Device device : {Device::cpu, kernel_device}) {
    std::string why;
    if (!is_available(device, &why)) continue;
    const Outcome o =
        run_op(swiglu_case({1, 4}), device, DType::f32, {{{200, -200, 3, 5}}, {}, {1, 1}});
    EXPECT_FLOAT_EQ(float(o.y[0]), 600);
    EXPECT_FLOAT_EQ(float(o.y[1]), 0);
    for (double dx : o.input_gradients[0]) EXPECT_TRUE(std::isfinite(dx)) << name_of(device);
  }
}

TEST(Swiglu, RefusesAnOddWidth) {
  Tape tape(Device::cpu, DType::f32);
  EXPECT_THROW(swiglu(tape, tape.empty({2, 5})), Error);
}

}  // namespace
}  // namespace dyt::test
