#include "models/convnext.h"

#include "core/convolution.h"
#include "core/product.h"
#include "tests/models/model_check.h"

namespace dyt::test {
namespace {

// The tiny timm models of tests/reference/make_convnets.py.
ConvNeXtConfig tiny(int patch, NormKind norm) {
  return {.image_size = 32,
          .patch_size = patch,
          .classes = 10,
          .depths = {1, 1, 2, 1},
          .widths = {8, 10, 12, 16},
          .norm = {.kind = norm}};
}
const std::pair<const char*, ConvNeXtConfig> fixtures[] = {
    {"convnext_layernorm.safetensors", tiny(4, NormKind::layernorm)},
    {"convnext_dyt.safetensors", tiny(2, NormKind::dyt)}};

TEST(ConvNeXt, LogitsLossAndEveryGradientAgreeWithTimm) {
  for (const auto& [file, config] : fixtures) {
    check_model<ConvNeXt>(file, config, Device::cpu, DType::f32, 3e-6, 1e-5);
    const CpuProductsIn narrow(DType::bf16);
    check_model<ConvNeXt>(file, config, Device::cpu, DType::f32, 2e-2, 5e-2);
  }
}

// Logits in training, with drop path; and what the last block's norm reads.
std::vector<double> logits_of(const ConvNeXtConfig& config, DType* activations) {
  Parameters p;
  const ConvNeXt model(config, p);
  p.allocate(Device::cpu, DType::f32, 3);
  Tape tape(Device::cpu, DType::f32, 4);
  tape.observer = [&](const std::string& name, const Tensor& in, const Tensor&) {
    if (name == "stages.3.blocks.0.norm") *activations = in.dtype;
  };
  std::vector<float> pixels(4 * 32 * 32 * 3);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = float(int(i * i % 101) - 50) / 32;
  const std::vector<float> logits = host_floats(
      tape, model.forward(tape, tape.upload({4, 32, 32, 3}, DType::f32, pixels.data())));
  return {logits.begin(), logits.end()};
}

TEST(ConvNeXt, KeepsItsActivationsInBf16OnTheCpu) {
  for (const NormKind kind : {NormKind::layernorm, NormKind::rmsnorm, NormKind::dyt}) {
    for (const float layer_scale : {0.0f, 1.0f}) {
      ConvNeXtConfig config = tiny(2, kind);
      config.layer_scale = layer_scale;
      config.drop_path = 0.3f;
      DType wide_type = DType::bf16, narrow_type = DType::f32;
      const std::vector<double> wide = logits_of(config, &wide_type);
      const CpuProductsIn in_bf16(DType::bf16);
      const std::vector<double> narrow = logits_of(config, &narrow_type);
      expect_close(narrow, wide, 3e-2, name_of(kind));
      EXPECT_NE(narrow, wide);
      EXPECT_EQ(wide_type, DType::f32);
      if (library_convolves_in_bf16()) {
        EXPECT_EQ(narrow_type, DType::bf16) << name_of(kind);
      }
    }
  }
}

TEST(ConvNeXtKernels, LogitsLossAndEveryGradientAgreeWithTimm) {
  SKIP_WITHOUT_KERNELS();
  for (const auto& [file, config] : fixtures) {
    check_model<ConvNeXt>(file, config, kernel_device, DType::f32, 3e-6, 1e-5);
    check_model<ConvNeXt>(file, config, kernel_device, DType::bf16, 2e-2, 5e-2);
  }
}

TEST(ConvNeXt, HasTimmsParameterNames) {
  for (const auto& [file, config] : fixtures) check_names<ConvNeXt>(file, config);
}

// timm.create_model(name), with 1000 classes.
TEST(ConvNeXt, PresetsHaveTheirKnownSizes) {
  const std::pair<const char*, int64_t> known[] = {
      {"convnext_atto", 3695520},  {"convnext_femto", 5217784},  {"convnext_pico", 9045672},
      {"convnext_nano", 15593560}, {"convnext_tiny", 28589128},  {"convnext_small", 50223688},
      {"convnext_base", 88591464}, {"convnext_large", 197767336}};
  for (const auto& [name, count] : known) {
    EXPECT_EQ(parameter_count<ConvNeXt>(convnext_preset(name)), count) << name;
  }
  EXPECT_TRUE(convnext_preset("convnext_nano").conv_mlp);
  EXPECT_FALSE(convnext_preset("convnext_tiny").conv_mlp);
}

// With drop path, and with and without layer scale, the residual is added in three different ways.
TEST(ConvNeXt, GradientsAgreeWithFiniteDifferences) {
  for (float layer_scale : {0.0f, 0.5f}) {
    for (float drop_path : {0.0f, 0.5f}) {
      ConvNeXtConfig config = tiny(2, NormKind::layernorm);
      config.image_size = 16;
      config.first_halves = false;
      config.widths = {3, 4, 5, 6};
      config.layer_scale = layer_scale;
      config.drop_path = drop_path;
      check_model_gradients<ConvNeXt>(config, {2, 16, 16, 3});
    }
  }
}

TEST(ConvNeXt, RefusesImpossibleConfigurations) {
  EXPECT_NE(refusal<ConvNeXt>(ConvNeXtConfig{.image_size = 31}).find("at least 32 pixels, not 31"),
            std::string::npos);
  EXPECT_NE(refusal<ConvNeXt>(ConvNeXtConfig{.widths = {8, 0, 8, 8}}).find("stage 1 has 0 and 3"),
            std::string::npos);
  EXPECT_NE(refusal<ConvNeXt>(ConvNeXtConfig{.drop_path = 1}).find("not 1"), std::string::npos);
  EXPECT_THROW(convnext_preset("convnext_huge"), Error);
}

}  // namespace
}  // namespace dyt::test
