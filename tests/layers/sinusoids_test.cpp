#include <gtest/gtest.h>

#include "layers/texts.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

OpCase sinusoids_case(const Shape& x, float factor, int64_t first) {
  return {.name = "sinusoids " + x.text(),
          .inputs = {x},
          .run = [=](Tape& tape, const std::vector<Tensor>& in, Parameters&) {
            return add_sinusoids(tape, in[0], factor, first);
          }};
}

TEST(Sinusoids, GradientsAgreeWithFiniteDifferences) {
  check_gradients(sinusoids_case({2, 3, 8}, 1.5f, 0));
  check_gradients(sinusoids_case({1, 1, 7}, 1, 5));
}

TEST(Sinusoids, AgreeWithTheFormulaInPython) {
  check_reference(sinusoids_case({2, 7, 12}, 1.5f, 3), "attention.safetensors", "sinusoids");
}

TEST(SinusoidsKernels, AgreeWithTheCpu) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(sinusoids_case({2, 33, 12}, 1.5f, 40));
  check_kernels(sinusoids_case({3, 7, 17}, 2, 0));
}

TEST(Sinusoids, RefuseWhatIsNoText) {
  Tape tape(Device::cpu, DType::f32);
  EXPECT_THROW(add_sinusoids(tape, tape.empty({4, 8})), Error);
  EXPECT_THROW(add_sinusoids(tape, tape.empty({1, 4, 8}), 1, -1), Error);
}

}  // namespace
}  // namespace dyt::test
