#include "models/vit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <set>

#include "core/product.h"
#include "core/safetensors.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

// The tiny timm model of tests/reference/make_vit.py.
ViTConfig tiny(NormKind norm, bool class_token) {
  return {.image_size = 16,
          .patch_size = 4,
          .classes = 10,
          .width = 32,
          .depth = 2,
          .heads = 2,
          .class_token = class_token,
          .pool = class_token ? Pool::class_token : Pool::mean,
          .norm = {.kind = norm}};
}

// timm's (N, 3, H, W) to ours (N, H, W, 3)
std::vector<float> channels_last(const std::vector<float>& x, int64_t N, int64_t S) {
  std::vector<float> y(x.size());
  for (int64_t n = 0; n < N; ++n)
    for (int64_t c = 0; c < 3; ++c)
      for (int64_t i = 0; i < S * S; ++i)
        y[size_t((n * S * S + i) * 3 + c)] = x[size_t((n * 3 + c) * S * S + i)];
  return y;
}

struct Results {
  std::vector<double> logits;
  double loss;
  std::map<std::string, std::vector<double>> gradients;
};

Results run(const TensorFile& file, const ViTConfig& config, Device device, DType dtype) {
  Parameters p;
  const ViT model(config, p);
  p.allocate(device, dtype, 1);
  for (const Parameter& parameter : p.all()) {
    p.set_values(parameter, file.doubles(parameter.name));
  }
  const std::vector<int64_t> shape = file.at("images").shape;
  const std::vector<float> images = channels_last(file.floats("images"), shape[0], shape[2]);
  const std::vector<int64_t> wide = file.integers("labels");
  const std::vector<int32_t> labels(wide.begin(), wide.end());
  Tape tape(device, dtype);
  tape.begin(0);
  const Tensor logits = model.forward(
      tape, tape.upload({shape[0], shape[2], shape[3], 3}, DType::f32, images.data()));
  const Tensor loss =
      cross_entropy(tape, logits, tape.upload({shape[0]}, DType::i32, labels.data()));
  tape.backward(loss);
  Results results{to_host(tape, logits), to_host(tape, loss)[0], {}};
  for (const Parameter& parameter : p.all()) {
    results.gradients[parameter.name] = p.gradient(parameter);
  }
  return results;
}

ViTConfig with_mean(ViTConfig config) {
  config.pool = Pool::mean;
  return config;
}
ViTConfig post(ViTConfig config) {
  config.norm.placement = Placement::post;
  return config;
}

struct Fixture {
  const char* file;
  ViTConfig config;
};
const std::vector<Fixture> fixtures = {
    {"vit_layernorm.safetensors", tiny(NormKind::layernorm, false)},
    {"vit_dyt.safetensors", tiny(NormKind::dyt, false)},
    {"vit_class_token.safetensors", tiny(NormKind::layernorm, true)},
    {"vit_class_token_mean.safetensors", with_mean(tiny(NormKind::layernorm, true))},
    {"vit_post.safetensors", post(tiny(NormKind::layernorm, false))}};

void check_against_timm(Device device, DType dtype, double tolerance) {
  for (const Fixture& fixture : fixtures) {
    SCOPED_TRACE(fixture.file);
    const TensorFile file = read_safetensors(reference_folder() + "/" + fixture.file);
    const Results results = run(file, fixture.config, device, dtype);
    expect_close(results.logits, file.doubles("logits"), tolerance, "logits");
    EXPECT_NEAR(results.loss, file.doubles("loss")[0], tolerance * 10);
    std::vector<double> all, expected_all;
    for (const auto& [name, gradient] : results.gradients) {
      const std::vector<double> expected = file.doubles("grad." + name);
      // In bf16 a scalar's gradient, a sum of terms that cancel, may be off by itself.
      if (dtype == DType::f32) expect_close(gradient, expected, 10 * tolerance, name);
      all.insert(all.end(), gradient.begin(), gradient.end());
      expected_all.insert(expected_all.end(), expected.begin(), expected.end());
    }
    expect_close(all, expected_all, 2 * tolerance, "all gradients");
  }
}

TEST(ViT, LogitsLossAndEveryGradientAgreeWithTimm) {
  check_against_timm(Device::cpu, DType::f32, 2e-6);
  const CpuProductsIn narrow(DType::bf16);
  check_against_timm(Device::cpu, DType::f32, 2e-2);
}

TEST(ViTKernels, LogitsLossAndEveryGradientAgreeWithTimm) {
  SKIP_WITHOUT_KERNELS();
  check_against_timm(kernel_device, DType::f32, 2e-6);
  check_against_timm(kernel_device, DType::bf16, 2e-2);
}

// Every parameter of the timm model is one of ours, by name, and the other way round.
TEST(ViT, HasTimmsParameterNames) {
  for (const Fixture& fixture : fixtures) {
    const TensorFile file = read_safetensors(reference_folder() + "/" + fixture.file);
    std::set<std::string> theirs, ours;
    for (const auto& [name, tensor] : file.tensors) {
      if (name.rfind("grad.", 0) == 0) theirs.insert(name.substr(5));
    }
    Parameters p;
    const ViT model(fixture.config, p);
    for (const Parameter& parameter : p.all()) ours.insert(parameter.name);
    EXPECT_EQ(ours, theirs) << fixture.file;
  }
}

// Counts of timm's models with 1000 classes: vit_base_patch16_224, vit_large_patch16_224 (with
// class-token pooling, whose norm has as many numbers as fc_norm), vit_tiny, vit_small.
TEST(ViT, PresetsHaveTheirKnownSizes) {
  const std::pair<const char*, int64_t> known[] = {
      {"vit_b16", 86567656}, {"vit_l16", 304326632}, {"vit_ti16", 5717416}, {"vit_s16", 22050664}};
  for (const auto& [name, count] : known) {
    Parameters p;
    const ViT model(vit_preset(name), p);
    EXPECT_EQ(p.count(), count) << name;
  }
}

// A gradient check of the whole model in f64, in each placement and with drop path.
TEST(ViT, GradientsAgreeWithFiniteDifferences) {
  for (Placement placement : {Placement::pre, Placement::post}) {
    for (NormKind norm : {NormKind::layernorm, NormKind::dyt, NormKind::none}) {
      ViTConfig config = tiny(norm, false);
      config.image_size = 8;
      config.width = 16;
      config.heads = 1;
      config.drop_path = 0.5f;
      config.norm.placement = placement;
      const auto model = std::make_shared<std::unique_ptr<ViT>>();
      const OpCase op{.name = std::string("vit ") + name_of(norm) + " " + name_of(placement),
                      .inputs = {{3, 8, 8, 3}},
                      .declare = [=](Parameters& p) { *model = std::make_unique<ViT>(config, p); },
                      .run = [=](Tape& tape, const std::vector<Tensor>& x,
                                 Parameters&) { return (*model)->forward(tape, x[0]); },
                      .checked_elements = 3};
      check_gradients(op);
    }
  }
}

ViTConfig without_norms(NormFree way) {
  ViTConfig config = tiny(NormKind::none, false);
  config.image_size = 8, config.width = 16, config.heads = 1;
  config.norm_free = way;
  return config;
}

// sigmaReparam is left out: its power iteration moves between two evaluations of the loss, and its
// op is checked by itself.
TEST(ViT, GradientsWithoutNormsAgreeWithFiniteDifferences) {
  for (NormFree way : {NormFree::fixup, NormFree::skipinit}) {
    for (float drop_path : {0.0f, 0.5f}) {
      ViTConfig config = without_norms(way);
      config.drop_path = drop_path;
      const auto model = std::make_shared<std::unique_ptr<ViT>>();
      OpCase op{.name = way == NormFree::fixup ? "vit with Fixup" : "vit with SkipInit",
                .inputs = {{3, 8, 8, 3}},
                .declare =
                    [=](Parameters& p) {
                      *model = std::make_unique<ViT>(config, p);
                      // Away from the zeros they start at, or most gradients would be 0.
                      for (Parameter& q : p.all()) {
                        if (q.init.kind == Init::constant) q.init = Init::gaussian(0.5);
                      }
                    },
                .run = [=](Tape& tape, const std::vector<Tensor>& x,
                           Parameters&) { return (*model)->forward(tape, x[0]); },
                .checked_elements = 3};
      check_gradients(op);
    }
  }
}

TEST(ViTKernels, WithoutNormsAgreeWithTheCpu) {
  SKIP_WITHOUT_KERNELS();
  for (NormFree way : {NormFree::fixup, NormFree::skipinit, NormFree::sigma_reparam}) {
    const auto model = std::make_shared<std::unique_ptr<ViT>>();
    const ViTConfig config = without_norms(way);
    check_kernels({.name = "vit without norms",
                   .inputs = {{3, 8, 8, 3}},
                   .declare =
                       [=](Parameters& p) {
                         *model = std::make_unique<ViT>(config, p);
                         for (Parameter& q : p.all()) {
                           if (q.init.kind == Init::constant) q.init = Init::gaussian(0.5);
                         }
                       },
                   .run = [=](Tape& tape, const std::vector<Tensor>& x,
                              Parameters&) { return (*model)->forward(tape, x[0]); },
                   // A scalar's gradient is a sum over all tokens, whose terms cancel.
                   .bf16_tolerance = 0.15});
  }
}

// What the rules of the three say of the network at its start.
TEST(ViT, WithoutNormsStartsAsItsMethodSays) {
  const std::vector<float> pixels(2 * 8 * 8 * 3, 0.7f);
  const auto logits = [&](const ViTConfig& config) {
    Parameters p;
    const ViT model(config, p);
    p.allocate(Device::cpu, DType::f32, 5);
    Tape tape(Device::cpu, DType::f32);
    return to_host(tape, model.forward(tape, tape.upload({2, 8, 8, 3}, DType::f32, pixels.data())));
  };
  for (double logit : logits(without_norms(NormFree::fixup))) EXPECT_EQ(logit, 0);
  // SkipInit's branches add nothing: the depth makes no difference.
  ViTConfig deep = without_norms(NormFree::skipinit);
  deep.depth = 5;
  EXPECT_EQ(logits(deep), logits(without_norms(NormFree::skipinit)));
  // sigmaReparam starts as the network without norms.
  expect_close(logits(without_norms(NormFree::sigma_reparam)), logits(without_norms(NormFree::no)),
               1e-4, "logits");

  Parameters p;
  const ViT fixup(without_norms(NormFree::fixup), p);
  EXPECT_NEAR(p.find("blocks.1.mlp.fc1.weight").init.value, std::sqrt(2.0 / 16) * std::pow(4, -0.5),
              1e-12);  // L = 4 branches, m = 2: L^(-1/(2m-2))
  EXPECT_NEAR(p.find("blocks.1.attn.qkv.weight").init.value,
              std::sqrt(2.0 / 16) * std::pow(4, -1.0 / 6), 1e-12);
  EXPECT_EQ(p.find("blocks.1.mlp.fc2.weight").init.value, 0);
  EXPECT_EQ(p.find("blocks.1.attn.multiplier").init.value, 1);
  EXPECT_EQ(p.find("blocks.1.attn.first_bias").init.value, 0);
}

TEST(ViT, RefusesImpossibleConfigurations) {
  const auto message = [](const ViTConfig& config) -> std::string {
    Parameters p;
    try {
      const ViT model(config, p);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_NE(message({.width = 100, .heads = 3}).find("heads (3) must divide the width (100)"),
            std::string::npos);
  EXPECT_NE(message({.width = 0}).find("positive width (0)"), std::string::npos);
  EXPECT_NE(message({.depth = -1}).find("depth (-1)"), std::string::npos);
  EXPECT_NE(message({.image_size = 30}).find("patch size (4) must divide the image size (30)"),
            std::string::npos);
  EXPECT_NE(message({.norm_free = NormFree::fixup}).find("the norm must be none, not layernorm"),
            std::string::npos);
  EXPECT_THROW(vit_preset("vit_huge"), Error);
}

}  // namespace
}  // namespace dyt::test
