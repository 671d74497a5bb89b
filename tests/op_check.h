// Three independent witnesses for every op (DESIGN: checks):
//   1. check_gradients: f64 gradients on the CPU against central finite differences;
//   2. check_reference: f32 on the CPU against values that PyTorch computed (tests/reference/);
//   3. check_kernels:   CUDA kernels, real or emulated, against the CPU, in f32 and bf16; emulated,
//                       in three thread orders, which must agree to the bit.
// An op is described once, as an OpCase, and given to all three.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/parameters.h"
#include "core/tape.h"

namespace dyt::test {

struct OpCase {
  std::string name;
  std::vector<Shape> inputs;  // activations; all want a gradient
  std::function<void(Parameters&)> declare = [](Parameters&) {};  // Init: how values are drawn
  std::function<Tensor(Tape&, const std::vector<Tensor>&, Parameters&)> run;
  double input_scale = 1;        // inputs are normal with this standard deviation
  double bf16_tolerance = 2e-2;  // relative, in the norm of each result
  double f32_tolerance = 2e-5;
  int checked_elements = 24;  // of each tensor, by finite differences
};

// y = x + op(x): the op's gradient of its first input is added to one that is there.
OpCase added_to_x(OpCase op);

// The numbers that go into one run.
struct Values {
  std::vector<std::vector<double>> inputs;
  std::map<std::string, std::vector<double>> parameters;
  std::vector<double> dy;  // gradient of the output
};
// The numbers that come out.
struct Outcome {
  std::vector<double> y;
  std::vector<std::vector<double>> input_gradients;
  std::map<std::string, std::vector<double>> parameter_gradients;
};

Values draw_values(const OpCase& op, uint64_t seed, bool round_to_bf16 = false);
Outcome run_op(const OpCase& op, Device device, DType dtype, const Values& values);

void check_gradients(const OpCase& op);
void check_kernels(const OpCase& op);
// Fixture keys: PREFIX/x (or the given input names), PREFIX/PARAMETER, PREFIX/y, PREFIX/dy, and
// PREFIX/dNAME for each input and parameter. Inputs are named x, x1, x2 ... unless given.
void check_reference(const OpCase& op, const std::string& fixture, const std::string& prefix,
                     const std::vector<std::string>& input_names = {"x"}, double tolerance = 2e-6);

// GTest failures unless |a - b| <= tolerance * |b| in the Euclidean norm, with no NaN anywhere.
void expect_close(const std::vector<double>& actual, const std::vector<double>& expected,
                  double tolerance, const std::string& what);

// The numbers of a tensor on the host, as double.
std::vector<double> to_host(const Tape& tape, const Tensor& t);

// The folder tests/reference/ (from the environment or beside the working directory).
std::string reference_folder();

// In a test of kernels: skips it, with the reason, where this build's kernels can't run.
#define SKIP_WITHOUT_KERNELS()                                             \
  do {                                                                     \
    std::string why;                                                       \
    if (!dyt::is_available(dyt::kernel_device, &why)) GTEST_SKIP() << why; \
  } while (0)

}  // namespace dyt::test
