#include <gtest/gtest.h>

#include "layers/norm_free.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

struct Form {
  bool multiplier, bias, residual;
};
constexpr Form forms[] = {{true, true, true},   {true, true, false}, {true, false, true},
                          {true, false, false}, {false, true, true}, {false, true, false}};

OpCase affine_case(Shape shape, const Form& form) {
  return {.name = "scalar affine " + shape.text() + (form.multiplier ? ", multiplier" : "") +
                  (form.bias ? ", bias" : "") + (form.residual ? ", residual" : ""),
          .inputs = form.residual ? std::vector<Shape>{shape, shape} : std::vector<Shape>{shape},
          .declare =
              [=](Parameters& p) {
                if (form.multiplier) p.add("multiplier", {1}, Init::gaussian(1));
                if (form.bias) p.add("bias", {1}, Init::gaussian(1));
              },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                return scalar_affine(tape, x[0], form.multiplier ? &p.find("multiplier") : nullptr,
                                     form.bias ? &p.find("bias") : nullptr,
                                     form.residual ? &x[1] : nullptr);
              }};
}

// x is also its own residual, and every input and parameter is used twice.
OpCase everything_twice(Shape shape) {
  OpCase op = affine_case(shape, {true, true, true});
  op.name += ", everything twice";
  op.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    const Parameter *multiplier = &p.find("multiplier"), *bias = &p.find("bias");
    const Tensor a = scalar_affine(tape, x[0], multiplier, bias, &x[0]);
    const Tensor b = scalar_affine(tape, x[1], multiplier, nullptr, &x[0]);
    return scalar_affine(tape, a, nullptr, bias, &b);
  };
  return op;
}

TEST(ScalarAffine, GradientsAgreeWithFiniteDifferences) {
  for (const Form& form : forms) check_gradients(affine_case({5, 7}, form));
  check_gradients(everything_twice({3, 5}));
}

TEST(ScalarAffine, AgreesWithPyTorch) {
  const std::string file = "norm_free.safetensors";
  check_reference(affine_case({5, 21}, {true, true, true}), file, "scalar_affine",
                  {"x", "residual"});
  check_reference(affine_case({5, 21}, {true, false, false}), file, "scalar_multiplier");
  check_reference(affine_case({5, 21}, {false, true, false}), file, "scalar_bias");
}

TEST(ScalarAffineKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (const Form& form : forms) {
    check_kernels(affine_case({1, 1}, form));
    check_kernels(affine_case({3, 7, 33}, form));
  }
  check_kernels(affine_case({2, 197, 40}, forms[0]));
  check_kernels(everything_twice({9, 16}));
}

TEST(ScalarAffine, RefusesOtherShapes) {
  Parameters p;
  const Parameter& two = p.add("multiplier", {2}, Init::ones());
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = tape.empty({2, 5}), other = tape.empty({5, 2});
  EXPECT_THROW(scalar_affine(tape, x, &two, nullptr), Error);
  EXPECT_THROW(scalar_affine(tape, x, nullptr, nullptr, &other), Error);
}

}  // namespace
}  // namespace dyt::test
