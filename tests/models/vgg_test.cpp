#include "models/vgg.h"

#include "core/product.h"
#include "tests/models/model_check.h"

namespace dyt::test {
namespace {

// The tiny timm models of tests/reference/make_convnets.py.
const std::pair<const char*, VGGConfig> fixtures[] = {
    {"vgg.safetensors",
     {.image_size = 28, .classes = 10, .features = {4, 0, 6, 5, 0}, .hidden = 24}},
    {"vgg_cifar.safetensors",
     {.image_size = 17, .classes = 10, .features = {6, 0, 8, 8, 0, 12, 0}, .hidden = 0}}};

TEST(VGG, LogitsLossGradientsAndStatisticsAgreeWithTimm) {
  for (const auto& [file, config] : fixtures) {
    check_model<VGG>(file, config, Device::cpu, DType::f32, 5e-6, 2e-5);
  }
}

TEST(VGG, InBf16OnTheCpuAgreesWithTimm) {
  const CpuProductsIn narrow(DType::bf16);
  for (const auto& [file, config] : fixtures) {
    check_model<VGG>(file, config, Device::cpu, DType::f32, 5e-2, 0.2);
  }
}

TEST(VGGKernels, LogitsLossGradientsAndStatisticsAgreeWithTimm) {
  SKIP_WITHOUT_KERNELS();
  for (const auto& [file, config] : fixtures) {
    check_model<VGG>(file, config, kernel_device, DType::f32, 5e-6, 2e-5);
    check_model<VGG>(file, config, kernel_device, DType::bf16, 5e-2, 0.2);
  }
}

TEST(VGG, HasTimmsNames) {
  for (const auto& [file, config] : fixtures) check_names<VGG>(file, config);
}

TEST(VGG, PresetsHaveTheirKnownSizes) {
  const std::pair<const char*, int64_t> known[] = {{"vgg11_bn", 132868840},
                                                   {"vgg13_bn", 133053736},
                                                   {"vgg16_bn", 138365992},
                                                   {"vgg19_bn", 143678248},
                                                   {"vgg16_bn_cifar", 14728266}};
  for (const auto& [name, count] : known) {
    EXPECT_EQ(parameter_count<VGG>(vgg_preset(name)), count) << name;
  }
}

// Without norms the names are those of timm's vgg11, of 132863336 numbers.
TEST(VGG, WithoutNormsHasTheNamesOfPlainVGG) {
  VGGConfig config;
  config.norm.kind = NormKind::none;
  Parameters p;
  const VGG model(config, p);
  EXPECT_EQ(p.count(), 132863336);
  EXPECT_EQ(p.find("features.18.weight").shape, (Shape{512, 512, 3, 3}));  // the last convolution
}

TEST(VGG, RefusesImpossibleConfigurations) {
  EXPECT_NE(refusal<VGG>(VGGConfig{.image_size = 32}).find("has 1 left, of 7 that its head needs"),
            std::string::npos);
  EXPECT_NE(refusal<VGG>(VGGConfig{.features = {0, 8}}).find("starts with a convolution"),
            std::string::npos);
  EXPECT_THROW(vgg_preset("vgg12"), Error);
}

}  // namespace
}  // namespace dyt::test
