#include "models/registry.h"

#include <gtest/gtest.h>

namespace dyt::test {
namespace {

TEST(ImageModels, BuildsEveryFamilyAndChangesWhatItIsTold) {
  ImageModelOptions vit, convnext, resnet, vgg;
  vit.image_size = 16, vit.patch = 8, vit.width = 32, vit.depth = 1, vit.heads = 2;
  convnext.width = 2;
  resnet.image_size = 8, resnet.width = 4, resnet.norm = NormSpec{.kind = NormKind::groupnorm};
  vgg.norm = NormSpec{.kind = NormKind::dyt};
  const std::pair<const char*, ImageModelOptions> models[] = {
      {"vit", vit}, {"convnext", convnext}, {"resnet", resnet}, {"vgg11_bn_cifar", vgg}};
  for (const auto& [name, options] : models) {
    ImageModelOptions changed = options;
    changed.classes = 7;
    changed.channels = 1;
    Parameters p;
    const ImageModel model = build_image_model(name, changed, p);
    EXPECT_EQ(model.image_size, options.image_size.value_or(32)) << name;
    EXPECT_EQ(model.channels, 1);
    EXPECT_EQ(model.classes, 7);
    p.allocate(Device::cpu, DType::f32, 1);
    Tape tape(Device::cpu, DType::f32);
    const int64_t size = model.image_size;
    const std::vector<float> images(size_t(2 * size * size), 0.5f);
    const Tensor logits =
        model.forward(tape, tape.upload({2, size, size, 1}, DType::f32, images.data()));
    EXPECT_EQ(logits.shape, (Shape{2, 7})) << name;
  }
}

TEST(ImageModels, EveryPresetCanBeBuilt) {
  EXPECT_EQ(image_model_preset("resnet"), "resnet20");
  for (const std::string& name : image_model_presets()) {
    Parameters p;
    EXPECT_EQ(build_image_model(name, {}, p).preset, name);
    EXPECT_GT(p.count(), 0) << name;
  }
}

TEST(ImageModels, RefusesUnknownNamesAndWhatAModelDoesNotHave) {
  const auto message = [](const std::string& name,
                          const ImageModelOptions& options) -> std::string {
    Parameters p;
    try {
      build_image_model(name, options, p);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  const std::string unknown = message("alexnet", {});
  for (const char* word : {"alexnet", "vit_b16", "convnext_tiny", "resnet50", "vgg19_bn_cifar"}) {
    EXPECT_NE(unknown.find(word), std::string::npos) << unknown;
  }
  ImageModelOptions heads, depth, drop_path;
  heads.heads = 3, depth.depth = 3, drop_path.drop_path = 0.1f;
  EXPECT_EQ(message("resnet20", heads), "resnet20 has no number of heads to choose");
  EXPECT_EQ(message("convnext_atto", depth), "convnext_atto has no depth to choose");
  EXPECT_EQ(message("vgg11_bn", drop_path), "vgg11_bn has no drop path to choose");
}

}  // namespace
}  // namespace dyt::test
