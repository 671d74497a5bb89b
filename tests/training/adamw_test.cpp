#include "training/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/safetensors.h"
#include "tests/op_check.h"
#include "training/schedule.h"

namespace dyt::test {
namespace {

const char* const names[] = {"weight", "bias", "alpha"};

void declare(Parameters& p) {
  p.add("weight", {4, 7}, Init::zeros());
  p.add("bias", {7}, Init::zeros());
  p.add("alpha", {1}, Init::zeros());
}

void set_gradient(Parameters& p, const std::string& name, const std::vector<double>& values) {
  const Parameter& parameter = p.find(name);
  if (p.dtype() == DType::f64) {
    copy_to_device(p.device(), parameter.grad->data, values.data(), values.size() * 8);
  } else {
    const std::vector<float> f(values.begin(), values.end());
    copy_to_device(p.device(), parameter.grad->data, f.data(), f.size() * 4);
  }
}

// Five steps with PyTorch's gradients; after each, every parameter must be where PyTorch's is.
void check_against_pytorch(const std::string& prefix, Device device, DType dtype,
                           double tolerance) {
  const TensorFile file = read_safetensors(reference_folder() + "/layers.safetensors");
  Parameters p;
  declare(p);
  p.allocate(device, dtype, 0);
  for (const char* name : names) {
    p.set_values(p.find(name), file.doubles(prefix + "/" + name + ".start"));
  }
  AdamW optimizer(p, {.beta1 = float(file.doubles(prefix + "/beta1")[0]),
                      .beta2 = float(file.doubles(prefix + "/beta2")[0]),
                      .epsilon = float(file.doubles(prefix + "/eps")[0]),
                      .weight_decay = float(file.doubles(prefix + "/weight_decay")[0])});
  const std::vector<double> lr = file.doubles(prefix + "/lr");
  for (size_t step = 0; step < lr.size(); ++step) {
    const auto row = [&](const std::string& key) {
      const std::vector<double> all = file.doubles(prefix + "/" + key);
      const size_t n = all.size() / lr.size();
      return std::vector<double>(all.begin() + long(step * n), all.begin() + long((step + 1) * n));
    };
    for (const char* name : names) set_gradient(p, name, row(std::string(name) + ".grad"));
    optimizer.step(float(lr[step]));
    for (const char* name : names) {
      expect_close(p.values(p.find(name)), row(std::string(name) + ".after"), tolerance,
                   prefix + ", step " + std::to_string(step) + ", " + name);
    }
  }
}

TEST(AdamW, AgreesWithPyTorch) {
  for (const char* prefix : {"adamw", "adamw_beta2_0.95"}) {
    check_against_pytorch(prefix, Device::cpu, DType::f32, 2e-6);
    check_against_pytorch(prefix, Device::cpu, DType::f64, 2e-6);  // the fixture is f32
  }
}

TEST(AdamWKernels, AgreeWithPyTorch) {
  SKIP_WITHOUT_KERNELS();
  check_against_pytorch("adamw", kernel_device, DType::f32, 2e-6);
  check_against_pytorch("adamw", kernel_device, DType::bf16, 2e-6);  // masters are f32
}

// In bf16 runs the model computes with rounded copies of the masters, refreshed by every step.
TEST(AdamWKernels, RefreshTheBf16Copies) {
  SKIP_WITHOUT_KERNELS();
  Parameters p;
  declare(p);
  p.allocate(kernel_device, DType::bf16, 0);
  set_gradient(p, "weight", std::vector<double>(28, 1.0));
  AdamW(p, {.weight_decay = 0}).step(0.3f);
  const std::vector<double> master = p.values(p.find("weight"));
  std::vector<bf16> copy(28);
  copy_to_host(p.device(), copy.data(), p.find("weight").data, 28 * sizeof(bf16));
  for (size_t i = 0; i < 28; ++i) {
    EXPECT_NEAR(master[i], -0.3, 1e-6);  // Adam's first step is lr times the gradient's sign
    EXPECT_EQ(float(copy[i]), float(bf16(float(master[i]))));
  }
}

// clip_grad_norm_ of PyTorch: Adam is blind to a common scale of all its gradients (but for
// epsilon), so the clipped gradient is read off the first moment after one step.
void check_clipping(Device device, DType dtype) {
  const TensorFile file = read_safetensors(reference_folder() + "/layers.safetensors");
  for (const std::string prefix : {"clip", "clip_not_needed"}) {
    Parameters p;
    declare(p);
    p.allocate(device, dtype, 0);
    for (int i = 0; i < 3; ++i) {
      set_gradient(p, names[i], file.doubles(prefix + "/grad" + std::to_string(i)));
    }
    // With beta = 0 and a huge epsilon the update is -lr * g / epsilon: proportional to g.
    AdamW optimizer(p, {.beta1 = 0,
                        .beta2 = 0,
                        .epsilon = 1e6f,
                        .weight_decay = 0,
                        .max_norm = float(file.doubles(prefix + "/max_norm")[0])});
    optimizer.step(1e6f);
    for (int i = 0; i < 3; ++i) {
      std::vector<double> moved = p.values(p.find(names[i]));
      for (double& v : moved) v = -v;
      expect_close(moved, file.doubles(prefix + "/clipped" + std::to_string(i)), 2e-5,
                   prefix + " " + names[i]);
    }
    EXPECT_NEAR(optimizer.gradient_norm(), file.doubles(prefix + "/norm")[0],
                1e-5 * optimizer.gradient_norm());
  }
}

TEST(AdamW, ClipsAsPyTorchDoes) { check_clipping(Device::cpu, DType::f32); }
TEST(AdamWKernels, ClipAsPyTorchDoes) {
  SKIP_WITHOUT_KERNELS();
  check_clipping(kernel_device, DType::f32);
}

TEST(CosineSchedule, AgreesWithTheFormula) {
  const TensorFile file = read_safetensors(reference_folder() + "/layers.safetensors");
  for (const std::string prefix : {"schedule", "schedule_no_warmup"}) {
    const auto number = [&](const char* key) { return file.doubles(prefix + "/" + key)[0]; };
    const auto integer = [&](const char* key) { return file.integers(prefix + "/" + key)[0]; };
    const CosineSchedule schedule{number("lr"), number("lr_min"), integer("warmup"),
                                  integer("steps")};
    const std::vector<double> values = file.doubles(prefix + "/values");
    for (size_t s = 0; s < values.size(); ++s) {
      EXPECT_NEAR(schedule(int64_t(s)), values[s], 1e-6 * number("lr")) << prefix << " step " << s;
    }
  }
}

}  // namespace
}  // namespace dyt::test
