#include "training/sgd.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/safetensors.h"
#include "layers/layers.h"
#include "tests/op_check.h"
#include "training/trainer.h"

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
void check_against_pytorch(const std::string& prefix, Device device, DType dtype) {
  const TensorFile file = read_safetensors(reference_folder() + "/sgd.safetensors");
  Parameters p;
  declare(p);
  p.allocate(device, dtype, 0);
  for (const char* name : names) {
    p.set_values(p.find(name), file.doubles(prefix + "/" + name + ".start"));
  }
  Sgd optimizer(p, {.momentum = float(file.doubles(prefix + "/momentum")[0]),
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
      expect_close(p.values(p.find(name)), row(std::string(name) + ".after"), 2e-6,
                   prefix + ", step " + std::to_string(step) + ", " + name);
    }
  }
}

TEST(Sgd, AgreesWithPyTorch) {
  for (const char* prefix : {"sgd", "sgd_decay"}) {
    check_against_pytorch(prefix, Device::cpu, DType::f32);
    check_against_pytorch(prefix, Device::cpu, DType::f64);  // the fixture is f32
  }
}

TEST(SgdKernels, AgreeWithPyTorch) {
  SKIP_WITHOUT_KERNELS();
  check_against_pytorch("sgd", kernel_device, DType::f32);
  check_against_pytorch("sgd_decay", kernel_device, DType::bf16);  // masters are f32
}

// In bf16 runs the model computes with rounded copies of the masters, refreshed by every step.
TEST(SgdKernels, RefreshTheBf16Copies) {
  SKIP_WITHOUT_KERNELS();
  Parameters p;
  declare(p);
  p.allocate(kernel_device, DType::bf16, 0);
  set_gradient(p, "weight", std::vector<double>(28, 1.0));
  Sgd(p, {}).step(0.3f);
  std::vector<bf16> copy(28);
  copy_to_host(p.device(), copy.data(), p.find("weight").data, 28 * sizeof(bf16));
  for (const bf16 v : copy) EXPECT_EQ(float(v), float(bf16(-0.3f)));
}

TEST(Sgd, RefusesWhatItCantDo) {
  Parameters p;
  declare(p);
  p.allocate(Device::cpu, DType::f32, 0);
  EXPECT_THROW(Sgd(p, {.momentum = 1}), Error);
}

// A quadratic bowl: the trainer takes SGD where it is asked to, with the schedule's learning rate.
TEST(Sgd, IsTheTrainersIfChosen) {
  Parameters p;
  const Parameter& w = p.add("weight", {1, 2}, Init::ones());
  p.allocate(Device::cpu, DType::f64, 0);
  TrainOptions options{.steps = 1, .batch = 1, .lr = 0.25};
  options.sgd = SgdOptions{.momentum = 0};
  Trainer trainer(p, options);
  TrainTask task;
  const std::vector<double> x = {2, 3};
  task.work.batch = [&](int64_t) { return HostBatch{{{1, 2}, DType::f64, x.data()}}; };
  task.work.loss = [&](Tape& tape, const DeviceBatch& batch) {
    return linear(tape, batch[0], w, nullptr);  // w . x: its gradient is x
  };
  task.evaluate = [](Tape&, bool) { return Evaluation{}; };
  trainer.run(task);
  EXPECT_EQ(p.values(w), (std::vector<double>{1 - 0.25 * 2, 1 - 0.25 * 3}));
}

}  // namespace
}  // namespace dyt::test
