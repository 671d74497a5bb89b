#include "models/resnet.h"

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
