#include "models/resnet.h"

#include "core/convolution.h"
#include "core/product.h"
#include "tests/models/model_check.h"

namespace dyt::test {
namespace {

// The tiny models of tests/reference/make_convnets.py.
const ResNetConfig cifar = {.image_size = 13,
                            .classes = 10,
                            .large_stem = false,
                            .stem_width = 6,
                            .depths = {1, 2, 1},
                            .widths = {6, 8, 12}};
const ResNetConfig bottleneck = {.image_size = 37,
                                 .classes = 10,
                                 .bottleneck = true,
                                 .depths = {1, 1, 2, 1},
                                 .widths = {4, 5, 6, 7}};
const std::pair<const char*, ResNetConfig> fixtures[] = {
    {"resnet_cifar.safetensors", cifar}, {"resnet_bottleneck.safetensors", bottleneck}};

TEST(ResNet, LogitsLossGradientsAndStatisticsAgreeWithTimm) {
  for (const auto& [file, config] : fixtures) {
    check_model<ResNet>(file, config, Device::cpu, DType::f32, 5e-6, 2e-5);
  }
}

TEST(ResNet, InBf16OnTheCpuAgreesWithTimm) {
  const CpuProductsIn narrow(DType::bf16);
  for (const auto& [file, config] : fixtures) {
    check_model<ResNet>(file, config, Device::cpu, DType::f32, 5e-2, 0.6);
  }
}

struct Pass {
  std::vector<double> logits, gradients;  // of all parameters together
  DType activations = DType::f32;
};

// In training: with drop path, and with norms that have loops for bf16 on the CPU and without.
Pass pass_of(const ResNetConfig& config) {
  Pass pass;
  Parameters p;
  const ResNet model(config, p);
  p.allocate(Device::cpu, DType::f32, 3);
  Tape tape(Device::cpu, DType::f32, 4);
  tape.observer = [&](const std::string&, const Tensor& in, const Tensor&) {
    pass.activations = in.dtype;
  };
  std::vector<float> pixels(8 * 13 * 13 * 3);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = float(int(i * i % 101) - 50) / 32;
  const Tensor logits = model.forward(tape, tape.upload({8, 13, 13, 3}, DType::f32, pixels.data()));
  const int32_t labels[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  tape.backward(cross_entropy(tape, logits, tape.upload({8}, DType::i32, labels)));
  pass.logits = to_host(tape, logits);
  for (const Parameter& w : p.all()) {
    std::vector<double> gradient = p.gradient(w);
    double squares = 0;  // each parameter counts alike
    for (const double g : gradient) squares += g * g;
    const double size = std::sqrt(squares);
    for (const double g : gradient) pass.gradients.push_back(size > 0 ? g / size : 0);
  }
  return pass;
}

TEST(ResNet, KeepsItsActivationsInBf16OnTheCpu) {
  for (const NormKind kind : {NormKind::batchnorm, NormKind::groupnorm, NormKind::dyt,
                              NormKind::layernorm, NormKind::none}) {
    ResNetConfig config = cifar;
    config.norm = {.kind = kind, .groups = 2};
    config.drop_path = 0.5f;
    const Pass wide = pass_of(config);
    const CpuProductsIn in_bf16(DType::bf16);
    const Pass narrow = pass_of(config);
    expect_close(narrow.logits, wide.logits, 3e-2, name_of(kind));
    EXPECT_NE(narrow.logits, wide.logits);
    // Statistics of few numbers divide by what is small, and what is rounded then is another
    // number. A gradient that is missing makes a difference of 0.2.
    const double tolerance = kind == NormKind::batchnorm   ? 0.6
                             : kind == NormKind::layernorm ? 0.15
                                                           : 0.1;
    expect_close(narrow.gradients, wide.gradients, tolerance,
                 std::string(name_of(kind)) + ": gradients");
    EXPECT_EQ(wide.activations, DType::f32);
    if (library_convolves_in_bf16()) {
      EXPECT_EQ(narrow.activations, DType::bf16) << name_of(kind);
    }
  }
}

TEST(ResNetKernels, LogitsLossGradientsAndStatisticsAgreeWithTimm) {
  SKIP_WITHOUT_KERNELS();
  for (const auto& [file, config] : fixtures) {
    check_model<ResNet>(file, config, kernel_device, DType::f32, 5e-6, 2e-5);
    check_model<ResNet>(file, config, kernel_device, DType::bf16, 5e-2, 0.6);
  }
}

TEST(ResNet, HasTimmsNames) {
  for (const auto& [file, config] : fixtures) check_names<ResNet>(file, config);
}

// Of torchvision and timm; of CIFAR's ResNets with projections instead of padded shortcuts.
TEST(ResNet, PresetsHaveTheirKnownSizes) {
  const std::pair<const char*, int64_t> known[] = {{"resnet18", 11689512}, {"resnet34", 21797672},
                                                   {"resnet50", 25557032}, {"resnet101", 44549160},
                                                   {"resnet20", 272474},   {"resnet56", 855770}};
  for (const auto& [name, count] : known) {
    EXPECT_EQ(parameter_count<ResNet>(resnet_preset(name)), count) << name;
  }
}

TEST(ResNet, GradientsAgreeWithFiniteDifferences) {
  ResNetConfig config = cifar;
  config.drop_path = 0.5f;
  config.norm.kind = NormKind::dyt;
  check_model_gradients<ResNet>(config, {2, 7, 7, 3});
}

TEST(ResNet, RefusesImpossibleConfigurations) {
  EXPECT_NE(refusal<ResNet>(ResNetConfig{.depths = {1, 1}}).find("not 2 and 4"), std::string::npos);
  EXPECT_NE(refusal<ResNet>(ResNetConfig{.classes = 0}).find("classes (0)"), std::string::npos);
  EXPECT_THROW(resnet_preset("resnet19"), Error);
}

}  // namespace
}  // namespace dyt::test
