#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "core/philox.h"
#include "core/safetensors.h"
#include "layers/norm_free.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

std::vector<double> unit_vector(int64_t n, uint64_t seed) {
  RandomSequence random(seed, 9);
  std::vector<double> v(static_cast<size_t>(n));
  double squares = 0;
  for (double& x : v) x = random.normal(), squares += x * x;
  for (double& x : v) x /= std::sqrt(squares);
  return v;
}

struct Case {
  int64_t rows, cin, cout;
  int iterations = 0;
  std::vector<double> u = {}, v = {};  // empty: random ones
};

SpectralParameters parameters_of(Parameters& p) {
  return {&p.find("weight"), &p.find("gamma"), &p.find_buffer("u"), &p.find_buffer("v")};
}

void declare(Parameters& p, const Case& c) {
  p.add("weight", {c.cout, c.cin}, Init::gaussian(1));
  p.add("gamma", {1}, Init::fill(1.3));
  p.add_buffer("u", {c.cout}, 0);
  p.add_buffer("v", {c.cin}, 0);
}

void set_vectors(Parameters& p, const Case& c) {
  p.set_values(p.find_buffer("u"), c.u.empty() ? unit_vector(c.cout, 1) : c.u);
  p.set_values(p.find_buffer("v"), c.v.empty() ? unit_vector(c.cin, 2) : c.v);
}

// v random and u = W v / |W v|, so that sigma = u' W v is far from 0 and dividing by it harmless.
void align_vectors(Parameters& p, const Case& c) {
  set_vectors(p, c);
  const std::vector<double> W = p.values(p.find("weight")), v = p.values(p.find_buffer("v"));
  std::vector<double> u(static_cast<size_t>(c.cout));
  double squares = 0;
  for (size_t r = 0; r < u.size(); ++r) {
    for (size_t k = 0; k < v.size(); ++k) u[r] += W[r * v.size() + k] * v[k];
    squares += u[r] * u[r];
  }
  for (double& x : u) x /= std::sqrt(squares);
  p.set_values(p.find_buffer("u"), u);
}

// x W_hat'. The weight that ops read must live until the backward pass.
OpCase spectral_case(const Case& c) {
  const auto effective = std::make_shared<Parameter>();
  return {.name = "spectral weight (" + std::to_string(c.cout) + ", " + std::to_string(c.cin) +
                  "), " + std::to_string(c.iterations) + " iterations",
          .inputs = {{c.rows, c.cin}},
          .declare = [=](Parameters& p) { declare(p, c); },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                set_vectors(p, c);
                spectral_weight(tape, *effective, parameters_of(p), c.iterations);
                return linear(tape, x[0], *effective, nullptr);
              }};
}

// u and v stay, so that they are constants for the differences, too.
TEST(SpectralWeight, GradientsAgreeWithFiniteDifferences) {
  check_gradients(spectral_case({4, 5, 6}));
  check_gradients(spectral_case({3, 9, 2}));
}

TEST(SpectralWeight, AgreesWithPyTorch) {
  const TensorFile file = read_safetensors(reference_folder() + "/norm_free.safetensors");
  for (const std::string name : {"spectral", "spectral_wide"}) {
    const std::vector<int64_t> x = file.at(name + "/x").shape, w = file.at(name + "/weight").shape;
    const Case c{x[0], x[1], w[0], 1, file.doubles(name + "/u"), file.doubles(name + "/v")};
    check_reference(spectral_case(c), "norm_free.safetensors", name);
  }
}

// The gradient of a weight used by two layers is the sum of theirs.
TEST(SpectralWeight, CanBeReadTwice) {
  OpCase op = spectral_case({4, 6, 6});
  const auto effective = std::make_shared<Parameter>();
  op.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    set_vectors(p, {4, 6, 6});
    spectral_weight(tape, *effective, parameters_of(p), 0);
    return linear(tape, linear(tape, x[0], *effective, nullptr), *effective, nullptr);
  };
  check_gradients(op);
}

TEST(SpectralWeightKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  OpCase still = spectral_case({5, 40, 264, 0});
  still.run = [](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    static Parameter effective;
    align_vectors(p, {5, 40, 264});
    spectral_weight(tape, effective, parameters_of(p), 0);
    return linear(tape, x[0], effective, nullptr);
  };
  check_kernels(still);
  for (int iterations : {1, 3}) {
    check_kernels(spectral_case({1, 1, 1, iterations}));
    check_kernels(spectral_case({3, 33, 17, iterations}));
    check_kernels(spectral_case({5, 40, 264, iterations}));
    check_kernels(spectral_case({2, 300, 7, iterations}));
  }
}

std::vector<Device> devices() {
  std::vector<Device> all = {Device::cpu};
  if (is_available(kernel_device)) all.push_back(kernel_device);
  return all;
}

// u and v move in training, and only then; to where PyTorch's move.
TEST(SpectralWeight, TrainingMovesTheVectors) {
  const TensorFile file = read_safetensors(reference_folder() + "/norm_free.safetensors");
  const std::string name = "spectral_wide";
  const Case c{1, 40, 9, 1, file.doubles(name + "/u"), file.doubles(name + "/v")};
  for (Device device : devices()) {
    for (bool training : {false, true}) {
      Parameters p;
      declare(p, c);
      p.allocate(device, DType::f32, 1);
      p.set_values(p.find("weight"), file.doubles(name + "/weight"));
      set_vectors(p, c);
      Tape tape(device, DType::f32);
      tape.training = training;
      Parameter effective;
      spectral_weight(tape, effective, parameters_of(p));
      const std::string prefix = name + (training ? "/new_" : "/");
      expect_close(p.values(p.find_buffer("u")), file.doubles(prefix + "u"), 1e-6, "u");
      expect_close(p.values(p.find_buffer("v")), file.doubles(prefix + "v"), 1e-6, "v");
    }
  }
}

// Step by step, gamma becomes the spectral norm of W_hat: sigma is that of an SVD.
TEST(SpectralWeight, FindsTheLargestSingularValue) {
  const TensorFile file = read_safetensors(reference_folder() + "/norm_free.safetensors");
  for (Device device : devices()) {
    const Case c{1, 5, 6};
    Parameters p;
    declare(p, c);
    p.allocate(device, DType::f32, 1);
    p.set_values(p.find("weight"), file.doubles("spectral/weight"));
    set_vectors(p, c);
    Tape tape(device, DType::f32);
    Parameter effective;
    for (int step = 0; step < 60; ++step) {
      tape.begin(uint64_t(step));
      spectral_weight(tape, effective, parameters_of(p));
    }
    const double w = file.doubles("spectral/weight")[0], sigma = file.doubles("spectral/sigma")[0];
    EXPECT_NEAR(to_host(tape, effective)[0], double(1.3f) / sigma * w, 1e-5);
  }
}

// As a model has it: gamma starts at sigma, so that the weight starts as it would without.
TEST(SpectralWeight, OfAModelStartsAsThePlainWeight) {
  for (Device device : devices()) {
    Parameters p;
    const Weight weight(p, "patch.weight", {6, 3, 2, 2}, Init::gaussian(0.02), true);
    const Weight plain(p, "plain.weight", {6, 12}, Init::gaussian(0.02));
    p.allocate(device, DType::f32, 3);
    EXPECT_EQ(p.find_buffer("patch.u").size(), 6);
    EXPECT_EQ(p.find_buffer("patch.v").size(), 12);
    for (bool training : {false, true}) {
      Tape tape(device, DType::f32);
      tape.training = training;
      const Parameter& effective = weight(tape);
      EXPECT_EQ(effective.shape, (Shape{6, 3, 2, 2}));
      expect_close(to_host(tape, effective), p.values(p.find("patch.weight")), 1e-5, "W_hat");
      EXPECT_EQ(&plain(tape), &p.find("plain.weight"));
    }
    // A model that goes on from a checkpoint, as this one could be, keeps its gamma.
    p.set_values(p.find("patch.gamma"), {0.25});
    const std::vector<double> u = p.values(p.find_buffer("patch.u"));
    const Weight resumed = weight;
    Tape tape(device, DType::f32);
    tape.training = false;
    resumed(tape);
    EXPECT_EQ(p.values(p.find("patch.gamma"))[0], 0.25);
    EXPECT_EQ(p.values(p.find_buffer("patch.u")), u);
  }
}

TEST(SpectralWeight, RefusesAWeightOfZeros) {
  Parameters p;
  const Weight weight(p, "head.weight", {4, 3}, Init::zeros(), true);
  p.allocate(Device::cpu, DType::f32, 1);
  Tape tape(Device::cpu, DType::f32);
  EXPECT_THROW(weight(tape), Error);
}

}  // namespace
}  // namespace dyt::test
