#include "layers/norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "layers/activations_bf16.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

std::vector<std::string> names(const NormSpec& spec) {
  Parameters p;
  const Norm norm(p, "n", 6, spec);
  std::vector<std::string> list;
  for (const Parameter& parameter : p.all()) list.push_back(parameter.name);
  for (const ModelBuffer& buffer : p.buffers()) list.push_back(buffer.name);
  return list;
}

// What experiments look at models through: the site's name, what goes in and what comes out.
TEST(Norm, ShowsItsInputAndOutputToAnObserver) {
  Parameters parameters;
  const Norm norm(parameters, "blocks.0.norm1", 4, {.kind = NormKind::dyt, .alpha0 = 0.7f});
  parameters.allocate(Device::cpu, DType::f32, 1);
  Tape tape(Device::cpu, DType::f32);
  std::vector<std::string> seen;
  tape.observer = [&](const std::string& site, const Tensor& in, const Tensor& out) {
    seen.push_back(site);
    for (int i = 0; i < 4; ++i) {
      EXPECT_NEAR(host_floats(tape, out)[i], std::tanh(0.7 * host_floats(tape, in)[i]), 1e-6);
    }
  };
  tape.begin(0);
  const float x[] = {-3, -0.5f, 0.25f, 2};
  norm(tape, tape.upload({1, 4}, DType::f32, x));
  EXPECT_EQ(seen, std::vector<std::string>{"blocks.0.norm1"});
}

// On a calibrating tape alpha becomes calibrate / std of the input, and what comes out is computed
// with it; otherwise, and where there is no spread, alpha stays where it was.
TEST(Norm, CalibratesAlphaByItsFirstInput) {
  Parameters parameters;
  const NormSpec spec{.kind = NormKind::dyt, .alpha0 = 0.7f, .calibrate = 1.5f};
  const Norm norm(parameters, "n", 2, spec);
  parameters.allocate(Device::cpu, DType::f32, 1);
  const auto alpha = [&] { return parameters.values(parameters.find("n.alpha"))[0]; };
  Tape tape(Device::cpu, DType::f32);
  tape.begin(0);
  const float x[] = {1, 5, 3, 7};  // mean 4, variance 5
  const Tensor in = tape.upload({2, 2}, DType::f32, x);
  norm(tape, in);
  EXPECT_FLOAT_EQ(float(alpha()), 0.7f);
  tape.calibrating = true;
  const float constant[] = {2, 2, 2, 2};
  norm(tape, tape.upload({2, 2}, DType::f32, constant));
  EXPECT_FLOAT_EQ(float(alpha()), 0.7f);
  const std::vector<float> y = host_floats(tape, norm(tape, in));
  EXPECT_NEAR(alpha(), 1.5 / std::sqrt(5.0), 1e-7);
  EXPECT_NEAR(y[1], std::tanh(5 * 1.5 / std::sqrt(5.0)), 1e-6);
}

// In the kernels' number types, too: the bf16 copy of alpha moves with its master.
TEST(NormKernels, CalibrateAlphaByItsFirstInput) {
  SKIP_WITHOUT_KERNELS();
  Parameters parameters;
  const Norm norm(parameters, "n", 8, {.kind = NormKind::derf, .calibrate = 1});
  parameters.allocate(kernel_device, DType::bf16, 1);
  Tape tape(kernel_device, DType::bf16);
  tape.calibrating = true;
  tape.begin(0);
  std::vector<bf16> x;
  for (int i = 0; i < 16; ++i) x.push_back(bf16(i % 2 ? 0.25f : -0.25f));  // std 1/4
  const std::vector<float> y =
      host_floats(tape, norm(tape, tape.upload({2, 8}, DType::bf16, x.data())));
  EXPECT_EQ(parameters.values(parameters.find("n.alpha"))[0], 4);
  EXPECT_NEAR(y[1], std::erf(1.0), 4e-3);
}

TEST(Norm, RefusesToCalibrateAnAlphaThatIsNotLearned) {
  Parameters parameters;
  const NormSpec spec{.kind = NormKind::dyt, .calibrate = 1, .learn_alpha = false};
  EXPECT_THROW(Norm(parameters, "n", 2, spec), Error);
}

TEST(Norm, EveryKindHasItsParametersUnderTheNamesOfTheField) {
  using List = std::vector<std::string>;
  EXPECT_EQ(names({.kind = NormKind::layernorm}), (List{"n.weight", "n.bias"}));
  EXPECT_EQ(names({.kind = NormKind::rmsnorm}), (List{"n.weight"}));
  EXPECT_EQ(names({.kind = NormKind::groupnorm}), (List{"n.weight", "n.bias"}));
  EXPECT_EQ(names({.kind = NormKind::batchnorm}), (List{"n.weight", "n.bias", "n.running_mean",
                                                        "n.running_var", "n.num_batches_tracked"}));
  EXPECT_EQ(names({.kind = NormKind::dyt}), (List{"n.alpha", "n.weight", "n.bias"}));
  EXPECT_EQ(names({.kind = NormKind::dyt, .bias = false}), (List{"n.alpha", "n.weight"}));
  EXPECT_EQ(names({.kind = NormKind::derf}), (List{"n.alpha", "n.shift", "n.weight", "n.bias"}));
  EXPECT_EQ(names({.kind = NormKind::none}), List{});
}

TEST(Norm, EveryNameIsUnderstood) {
  for (const std::string& name : norm_names()) EXPECT_EQ(name_of(parse_norm(name)), name);
  EXPECT_THROW(parse_norm("instancenorm"), Error);
}

// Of 6 channels, at most 4 groups: 3. The last epsilon is what the kind takes if none is given.
TEST(Norm, CallsTheOpOfItsKind) {
  const Shape shape = {2, 3, 5, 6};
  struct Case {
    NormSpec spec;
    std::function<Tensor(Tape&, const Tensor&, Parameters&)> op;
  };
  const auto find = [](Parameters& p, const char* name) { return &p.find(name); };
  const Case cases[] = {{{.kind = NormKind::layernorm},
                         [&](Tape& tape, const Tensor& x, Parameters& p) {
                           return layernorm(tape, x, find(p, "n.weight"), find(p, "n.bias"), 1e-6f);
                         }},
                        {{.kind = NormKind::rmsnorm},
                         [&](Tape& tape, const Tensor& x, Parameters& p) {
                           return rmsnorm(tape, x, find(p, "n.weight"), 1e-6f);
                         }},
                        {{.kind = NormKind::groupnorm, .groups = 4},
                         [&](Tape& tape, const Tensor& x, Parameters& p) {
                           return groupnorm(tape, x, 3, find(p, "n.weight"), find(p, "n.bias"),
                                            1e-5f);
                         }},
                        {{.kind = NormKind::batchnorm},
                         [&](Tape& tape, const Tensor& x, Parameters& p) {
                           return batchnorm(tape, x,
                                            {.gamma = find(p, "n.weight"),
                                             .beta = find(p, "n.bias"),
                                             .running_mean = &p.find_buffer("n.running_mean"),
                                             .running_variance = &p.find_buffer("n.running_var")});
                         }},
                        {{.kind = NormKind::derf}, [&](Tape& tape, const Tensor& x, Parameters& p) {
                           return dyt::dyt(tape, x,
                                           {.alpha = find(p, "n.alpha"),
                                            .shift = find(p, "n.shift"),
                                            .gamma = find(p, "n.weight"),
                                            .beta = find(p, "n.bias")},
                                           Squash::erf);
                         }}};
  std::vector<Case> all(std::begin(cases), std::end(cases));
  for (const auto& [kind, squash] : {std::pair{NormKind::dyt, Squash::tanh},
                                     {NormKind::hardtanh, Squash::hardtanh},
                                     {NormKind::sigmoid, Squash::sigmoid},
                                     {NormKind::isru, Squash::isru},
                                     {NormKind::identity, Squash::identity},
                                     {NormKind::shifted_tanh, Squash::shifted_tanh},
                                     {NormKind::arcsinh, Squash::arcsinh},
                                     {NormKind::deadzone, Squash::deadzone},
                                     {NormKind::bump, Squash::bump}}) {
    all.push_back({{.kind = kind}, [&find, squash](Tape& tape, const Tensor& x, Parameters& p) {
                     return dyt::dyt(tape, x,
                                     {.alpha = find(p, "n.alpha"),
                                      .gamma = find(p, "n.weight"),
                                      .beta = find(p, "n.bias")},
                                     squash);
                   }});
  }
  EXPECT_EQ(all.size() + 1, norm_names().size());  // all but none
  for (const Case& c : all) {
    Parameters p;
    const Norm norm(p, "n", 6, c.spec, 0.5f);
    p.allocate(Device::cpu, DType::f64, 1);
    std::vector<double> values(180);
    for (size_t i = 0; i < values.size(); ++i) values[i] = 1e-3 * double(i * i % 37) + 0.1;
    Tape tape(Device::cpu, DType::f64);
    const Tensor x = tape.upload(shape, DType::f64, values.data());
    EXPECT_EQ(to_host(tape, norm(tape, x)), to_host(tape, c.op(tape, x, p)))
        << name_of(c.spec.kind);
    EXPECT_EQ(p.values(p.find("n.weight")), std::vector<double>(6, 0.5));
  }
}

// Whatever its loops are for: what it gets in bf16 on the CPU, it takes.
TEST(Norm, OfEveryKindTakesBf16OnTheCpu) {
  for (const std::string& name : norm_names()) {
    const NormKind kind = parse_norm(name);
    Parameters p;
    const Norm norm(p, "n", 6, {.kind = kind, .groups = 3});
    p.allocate(Device::cpu, DType::f32, 1);
    std::vector<float> values(180);
    for (size_t i = 0; i < values.size(); ++i) values[i] = float(int(i * i % 37) - 18) / 8;
    Tape tape(Device::cpu, DType::f32);
    const Tensor x = tape.upload({5, 6, 6}, DType::f32, values.data(), true);
    const Tensor wide = norm.then_relu(tape, x);
    const Tensor narrow = norm.then_relu(tape, narrowed(tape, x));
    EXPECT_EQ(narrow.dtype, DType::bf16) << name;
    expect_close(to_host(tape, narrow), to_host(tape, wide), 5e-3, name);
  }
}

}  // namespace
}  // namespace dyt::test
