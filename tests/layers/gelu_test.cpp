#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "layers/layers.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

OpCase gelu_case(Gelu kind, Shape shape) {
  return {.name = std::string(kind == Gelu::erf ? "gelu " : "gelu_tanh ") + shape.text(),
          .inputs = {shape},
          .run = [=](Tape& tape, const std::vector<Tensor>& x,
                     Parameters&) { return gelu(tape, x[0], kind); },
          .input_scale = 2};
}

TEST(Gelu, GradientsAgreeWithFiniteDifferences) {
  for (Gelu kind : {Gelu::erf, Gelu::tanh}) check_gradients(gelu_case(kind, {5, 7}));
}

TEST(Gelu, AgreesWithPyTorch) {
  check_reference(gelu_case(Gelu::erf, {5, 21}), "layers.safetensors", "gelu");
  check_reference(gelu_case(Gelu::tanh, {5, 21}), "layers.safetensors", "gelu_tanh");
}

TEST(GeluKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (Gelu kind : {Gelu::erf, Gelu::tanh}) {
    for (const Shape& shape : {Shape{1}, Shape{3, 7, 33}, Shape{2, 197, 40}}) {
      check_kernels(gelu_case(kind, shape));
    }
  }
}

// y = gelu(x) + gelu_tanh(x) weight': both write the gradient of x, so the second must add.
TEST(Gelu, AddsToAGradientThatIsThere) {
  for (bool swapped : {false, true}) {
    const OpCase twice{.name = "gelu twice",
                       .inputs = {{9, 8}},
                       .declare =
                           [](Parameters& p) {
                             p.add("weight", {8, 8}, Init::gaussian(1));
                           },
                       .run =
                           [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                             const Tensor a = gelu(tape, x[0], swapped ? Gelu::tanh : Gelu::erf);
                             const Tensor b = gelu(tape, x[0], swapped ? Gelu::erf : Gelu::tanh);
                             return linear(tape, b, p.find("weight"), nullptr, &a);
                           }};
    check_gradients(twice);
    std::string why;
    if (is_available(kernel_device, &why)) check_kernels(twice);
  }
}

// Far out, gelu is x or 0 and its slope 1 or 0; x^3 and exp leave the range of f32 on the way.
TEST(Gelu, FarFromZeroIsTheIdentityOrZero) {
  for (Device device : {Device::cpu, kernel_device}) {
    std::string why;
    if (!is_available(device, &why)) continue;
    for (Gelu kind : {Gelu::erf, Gelu::tanh}) {
      const std::vector<float> x{-1e15f, -200, -14, 0, 14, 200, 1e15f};
      Tape tape(device, DType::f32);
      const Tensor input = tape.upload({7}, DType::f32, x.data(), true);
      const Tensor y = gelu(tape, input, kind);
      tape.backward(y, std::vector<float>(7, 1.0f).data());
      const std::vector<double> values = to_host(tape, y);
      std::vector<float> slope(7);
      copy_to_host(device, slope.data(), input.grad->data, 7 * sizeof(float));
      for (size_t i = 0; i < 7; ++i) {
        EXPECT_NEAR(values[i], std::max(0.0f, x[i]), 1e-15) << name_of(device) << " at " << x[i];
        EXPECT_NEAR(slope[i], x[i] == 0 ? 0.5 : x[i] > 0, x[i] == 0 ? 1e-7 : 1e-15)
            << name_of(device) << " at " << x[i];
      }
    }
  }
}

// The loop is cut into pieces for threads and vectors; every piece must give the same bits.
TEST(Gelu, AnElementDoesNotDependOnItsNeighbours) {
  std::vector<float> x(1003);
  for (size_t i = 0; i < x.size(); ++i) x[i] = 0.01f * float(i) - 5;
  Tape tape(Device::cpu, DType::f32);
  const Tensor all = gelu(tape, tape.upload({1003}, DType::f32, x.data()));
  for (size_t i : {size_t(0), size_t(17), size_t(501), size_t(502), size_t(1002)}) {
    const Tensor one = gelu(tape, tape.upload({1}, DType::f32, &x[i]));
    EXPECT_NEAR(all.as<float>()[i], one.as<float>()[0], 2e-7 * std::abs(x[i])) << "at " << x[i];
  }
}

}  // namespace
}  // namespace dyt::test
