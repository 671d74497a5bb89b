#include "models/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "layers/layers.h"
#include "tests/datasets/expect_error.h"
#include "tests/models/tiny_models.h"

namespace dyt::test {
namespace {

TEST(Model, BuildsEveryFamilyOfImageModelsAndChangesWhatItIsTold) {
  const ModelSpec specs[] = {
      {.preset = "vit", .image_size = 16, .patch = 8, .width = 32, .depth = 1, .heads = 2},
      {.preset = "convnext", .width = 2},
      {.preset = "resnet", .image_size = 8, .width = 4, .norm = NormKind::groupnorm},
      {.preset = "vgg", .width = 4, .norm = NormKind::dyt, .alpha0 = 0.7f}};
  for (ModelSpec spec : specs) {
    SCOPED_TRACE(to_json(spec));
    spec.classes = 7;
    spec.channels = 1;
    Parameters p;
    const Model model(spec, p);
    EXPECT_EQ(model.image_size(), spec.image_size.value_or(32));
    EXPECT_EQ(model.channels(), 1);
    EXPECT_EQ(model.classes(), 7);
    EXPECT_EQ(model.language(), nullptr);
    EXPECT_EQ(model.norm().kind, spec.norm.value_or(NormKind::layernorm));
    p.allocate(Device::cpu, DType::f32, 1);
    Tape tape(Device::cpu, DType::f32);
    const int64_t size = model.image_size();
    const std::vector<float> images(size_t(2 * size * size), 0.5f);
    const Tensor input = tape.upload({2, size, size, 1}, DType::f32, images.data());
    EXPECT_EQ(model.forward(tape, input).shape, (Shape{2, 7}));
    const int32_t labels[] = {3, 6};
    EXPECT_EQ(model.loss(tape, input, tape.upload({2}, DType::i32, labels)).size(), 1);
  }
}

TEST(Model, BuildsLanguageModels) {
  for (const TinyModel& tiny : tiny_language_models()) {
    Parameters p;
    const Model model(tiny.spec, p);
    ASSERT_NE(model.language(), nullptr);
    EXPECT_EQ(model.language()->config().vocabulary, 61);
    EXPECT_EQ(model.language()->config().tied, tiny.spec.tied.value_or(true));
    expect_error([&] { model.classes(); }, {"a language model reads no images"});
    p.allocate(Device::cpu, DType::f32, 1);
    Tape tape(Device::cpu, DType::f32);
    const int32_t text[] = {0, 60, 3, 3, 6, 1};
    const Tensor tokens = tape.upload({2, 3}, DType::i32, text);
    EXPECT_EQ(model.forward(tape, tokens).shape, (Shape{2, 3, 61}));
    EXPECT_EQ(model.loss(tape, tokens, tokens).size(), 1);
  }
}

TEST(Model, EveryPresetCanBeBuiltAndFamiliesStandForSmallOnes) {
  for (const std::string& name : model_presets()) {
    Parameters p;
    const Model model({.preset = name}, p);
    EXPECT_EQ(model.spec().preset, name);
    EXPECT_EQ(model.language() != nullptr, reads_text(name)) << name;
    EXPECT_GT(p.count(), 0) << name;
  }
  Parameters p;
  EXPECT_EQ(Model({.preset = "resnet"}, p).spec().preset, "resnet20");
  EXPECT_EQ(resolve_preset("llama"), "llama_char");
}

std::string refusal(const ModelSpec& spec) {
  Parameters p;
  try {
    const Model model(spec, p);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

// timm and nanoGPT: matrices and filters decay; biases, norms, scales, tokens that belong to no
// input and tables of positions don't.
TEST(Model, MatricesAndFiltersDecay) {
  for (const char* preset : {"vit", "convnext", "resnet", "vgg", "gpt", "llama", "bert"}) {
    for (const NormKind norm : {NormKind::layernorm, NormKind::derf}) {
      ModelSpec spec{.preset = preset, .norm = norm};
      if (spec.preset == "vit") spec.class_token = true;
      Parameters p;
      const Model model(spec, p);
      for (const Parameter& w : p.all()) {
        const auto is = [&](const char* part) { return w.name.find(part) != w.name.npos; };
        const bool of_no_input = is("cls_token") || is("pos_embed") || is("wpe");
        EXPECT_EQ(w.decay, w.shape.rank() >= 2 && !of_no_input) << preset << ": " << w.name;
      }
    }
  }
}

// As their papers and reference codes have it; of ViT and ConvNeXt see models/vit.cpp.
TEST(Model, StartsWithTheUsualWeights) {
  const auto start = [](ModelSpec spec, const std::string& name) {
    Parameters p;
    const Model model(spec, p);
    return p.find(name).init;
  };
  const auto expect_normal = [](const Init& init, double std) {
    EXPECT_EQ(init.kind, Init::normal);
    EXPECT_NEAR(init.value, std, 1e-6);
  };
  // GPT-2: what writes into the residual stream is smaller by the root of how many write.
  const ModelSpec gpt{.preset = "gpt", .depth = 8};
  expect_normal(start(gpt, "transformer.h.3.attn.c_attn.weight"), 0.02);
  expect_normal(start(gpt, "transformer.h.3.attn.c_proj.weight"), 0.02 / std::sqrt(16));
  expect_normal(start(gpt, "transformer.h.3.mlp.c_fc.weight"), 0.02);
  expect_normal(start(gpt, "transformer.h.3.mlp.c_proj.weight"), 0.02 / std::sqrt(16));
  const ModelSpec llama{.preset = "llama", .depth = 8};
  expect_normal(start(llama, "model.layers.3.self_attn.o_proj.weight"), 0.02);
  // ResNet and VGG: He's, by what a filter's outputs feed; a block begins as its shortcut.
  const ModelSpec resnet{.preset = "resnet20"};
  expect_normal(start(resnet, "layer2.1.conv1.weight"), std::sqrt(2.0 / (32 * 9)));
  EXPECT_EQ(start(resnet, "layer2.1.bn1.weight").value, 1);
  EXPECT_EQ(start(resnet, "layer2.1.bn2.weight").value, 0);
  expect_normal(start({.preset = "vgg11_bn_cifar"}, "features.4.weight"),
                std::sqrt(2.0 / (128 * 9)));
  expect_normal(start({.preset = "vgg11_bn_cifar"}, "head.fc.weight"), 0.01);
  const Init vit = start({.preset = "vit"}, "blocks.1.mlp.fc1.weight");
  EXPECT_EQ(vit.kind, Init::truncated_normal);
  EXPECT_EQ(vit.value, 0.02);
}

// Stochastic depth: block i of n is left out with drop_path i / (n - 1) (timm's linspace), which
// shows in its gradients, that are 0 then.
TEST(Model, LeavesOutBranchesAsOftenAsTheirDepthSays) {
  const auto check = [](ModelSpec spec, const std::map<std::string, double>& shares) {
    spec.drop_path = 0.9f;
    Parameters p;
    const Model model(spec, p);
    p.allocate(Device::cpu, DType::f32, 1);
    const int64_t size = model.image_size();
    const std::vector<float> image(size_t(size * size * 3), 0.5f);
    const int32_t label = 3;
    constexpr int steps = 400;
    std::map<std::string, int> left_out;
    Tape tape(Device::cpu, DType::f32, 5);
    for (int step = 0; step < steps; ++step) {
      tape.begin(uint64_t(step));
      p.zero_gradients();
      const Tensor x = tape.upload({1, size, size, 3}, DType::f32, image.data());
      tape.backward(
          cross_entropy(tape, model.forward(tape, x), tape.upload({1}, DType::i32, &label)));
      for (const auto& [name, share] : shares) {
        const std::vector<double> g = p.gradient(p.find(name));
        left_out[name] += std::all_of(g.begin(), g.end(), [](double v) { return v == 0; });
      }
    }
    for (const auto& [name, share] : shares) {
      EXPECT_NEAR(double(left_out[name]) / steps, share, 0.06) << name;
    }
  };
  check({.preset = "vit", .image_size = 16, .patch = 8, .width = 32, .depth = 3, .heads = 2},
        {{"blocks.0.mlp.fc2.bias", 0},
         {"blocks.1.attn.proj.bias", 0.45},
         {"blocks.1.mlp.fc2.bias", 0.45},
         {"blocks.2.attn.proj.bias", 0.9},
         {"blocks.2.mlp.fc2.bias", 0.9}});
  check({.preset = "convnext", .width = 4}, {{"stages.0.blocks.0.gamma", 0},
                                             {"stages.2.blocks.1.gamma", 0.9 * 5 / 11},
                                             {"stages.3.blocks.1.gamma", 0.9}});
  check({.preset = "resnet", .image_size = 8, .width = 4, .norm = NormKind::dyt},
        {{"layer1.0.bn2.bias", 0}, {"layer2.1.bn2.bias", 0.45}, {"layer3.2.bn2.bias", 0.9}});
}

// Tables 11 and 12 of the DyT paper: before attention, elsewhere.
TEST(Model, Alpha0IsThePapersForTheWidth) {
  EXPECT_EQ(tuned_alpha0(1024), (std::pair{1.0f, 1.0f}));
  EXPECT_EQ(tuned_alpha0(2048), (std::pair{1.0f, 0.5f}));
  EXPECT_EQ(tuned_alpha0(4096), (std::pair{0.8f, 0.2f}));
  EXPECT_EQ(tuned_alpha0(8192), (std::pair{0.2f, 0.05f}));
}

TEST(Model, RefusesUnknownNamesAndWhatAModelDoesNotHave) {
  const std::string unknown = refusal({.preset = "alexnet"});
  for (const char* word : {"alexnet", "vit_b16", "convnext_tiny", "resnet50", "gpt2_124m"}) {
    EXPECT_NE(unknown.find(word), std::string::npos) << unknown;
  }
  EXPECT_EQ(refusal({.preset = "resnet20", .heads = 3}),
            "resnet20 has no heads to choose, only image_size, classes, channels, drop_path, width "
            "and the norm");
  const auto begins = [](const ModelSpec& spec, const std::string& text) {
    EXPECT_EQ(refusal(spec).substr(0, text.size()), text);
  };
  begins({.preset = "convnext", .depth = 3}, "convnext_atto_cifar has no depth to choose, only ");
  begins({.preset = "vgg11_bn", .drop_path = 0.1f}, "vgg11_bn has no drop_path to choose, only ");
  begins({.preset = "resnet", .placement = Placement::post}, "resnet20 has no placement to choose");
  begins({.preset = "gpt", .classes = 3}, "gpt_char has no classes to choose, only ");
  begins({.preset = "vit", .vocabulary = 3}, "vit_micro has no vocabulary to choose, only ");
  EXPECT_EQ(refusal({.preset = "vit", .alpha0 = 1.0f}), "layernorm has no alpha");
  EXPECT_EQ(refusal({.preset = "vit", .norm = NormKind::dyt, .epsilon = 1e-5f}),
            "dyt has no epsilon");
  EXPECT_EQ(refusal({.preset = "vit", .epsilon = 0.0f}), "epsilon must be positive, not 0");
}

// GPT-2's epsilon is 1e-5, also as RMSNorm's; alpha starts at the values tuned for the width.
TEST(Model, KeepsWhatAPresetSaysOfItsNorm) {
  ModelSpec spec{.preset = "gpt2_124m", .norm = NormKind::rmsnorm};
  EXPECT_EQ(config_of(spec).norm.epsilon, 1e-5f);
  spec.epsilon = 1e-3f;
  EXPECT_EQ(config_of(spec).norm.epsilon, 1e-3f);
  spec = {.preset = "gpt2_124m", .width = 2048, .heads = 16, .norm = NormKind::dyt};
  EXPECT_EQ(config_of(spec).alpha0_attention, tuned_alpha0(2048).first);
  EXPECT_EQ(config_of(spec).norm.alpha0, tuned_alpha0(2048).second);
  EXPECT_EQ(config_of(spec).hidden_width(), 8192);
  spec.alpha0 = 0.3f;
  EXPECT_EQ(config_of(spec).alpha0_attention, 0.3f);
  spec.alpha0_attention = 0.9f;
  EXPECT_EQ(config_of(spec).norm.alpha0, 0.3f);
  EXPECT_EQ(config_of(spec).alpha0_attention, 0.9f);
}

// alpha0 auto, in every family: on a calibrating tape each norm's input times its alpha has a
// standard deviation of 1, one norm after the other; and it is the same the second time.
TEST(Model, CalibratesEveryNormOfEveryFamily) {
  const ModelSpec specs[] = {
      {.preset = "vit", .image_size = 16, .patch = 8, .width = 32, .depth = 2, .heads = 2},
      {.preset = "convnext", .width = 4},
      {.preset = "resnet", .image_size = 8, .width = 4},
      {.preset = "vgg", .width = 4},
      {.preset = "gpt", .width = 32, .depth = 2, .heads = 2, .context = 8},
      {.preset = "llama", .width = 32, .depth = 2, .heads = 2, .context = 8}};
  for (ModelSpec spec : specs) {
    spec.norm = NormKind::dyt;
    spec.alpha0 = Alpha0::measured();
    SCOPED_TRACE(to_json(spec));
    Parameters p;
    const Model model(spec, p);
    p.allocate(Device::cpu, DType::f32, 1);
    Tape tape(Device::cpu, DType::f32);
    int sites = 0;
    tape.observer = [&](const std::string& site, const Tensor& in, const Tensor&) {
      ++sites;
      const std::vector<float> x = host_floats(tape, in);
      double mean = 0, squares = 0;
      for (const float v : x) mean += double(v) / double(x.size());
      for (const float v : x) squares += std::pow(double(v) - mean, 2) / double(x.size());
      EXPECT_NEAR(p.values(p.find(site + ".alpha"))[0] * std::sqrt(squares), 1, 1e-5) << site;
    };
    const auto pass = [&] {
      tape.begin(0);
      if (model.language()) {
        const int32_t tokens[] = {7, 1, 2, 3, 3, 250, 8, 9};
        model.forward(tape, tape.upload({1, 8}, DType::i32, tokens));
      } else {
        const int64_t size = model.image_size();
        std::vector<float> images(size_t(2 * size * size * 3));
        for (size_t i = 0; i < images.size(); ++i) images[i] = std::sin(float(i * i % 977));
        model.forward(tape, tape.upload({2, size, size, 3}, DType::f32, images.data()));
      }
    };
    tape.calibrating = true;
    pass();
    EXPECT_GE(sites, 5);
    tape.calibrating = false;
    pass();  // the same inputs, so the same standard deviations, without setting anything
  }
}

TEST(Model, RefusesToMeasureAlphaWhereItCannot) {
  const auto measured = Alpha0::measured();
  EXPECT_EQ(refusal({.preset = "vit", .alpha0 = measured}), "layernorm has no alpha");
  EXPECT_NE(
      refusal(
          {.preset = "gpt", .norm = NormKind::dyt, .alpha0_attention = 1.0f, .alpha0 = measured})
          .find("leave alpha0_attention out"),
      std::string::npos);
  EXPECT_NE(
      refusal({.preset = "vit", .norm = NormKind::dyt, .alpha0 = measured, .learn_alpha = false})
          .find("not learned"),
      std::string::npos);
}

TEST(ModelSpec, SurvivesJson) {
  const ModelSpec full{.preset = "llama_60m",
                       .image_size = 1,
                       .class_token = true,
                       .drop_path = 0.1f,
                       .width = 64,
                       .vocabulary = 1000,
                       .tied = false,
                       .norm = NormKind::derf,
                       .placement = Placement::post,
                       .epsilon = 1e-6f,
                       .alpha0 = 0.3f,
                       .learn_alpha = false};
  for (const ModelSpec& spec : {full, ModelSpec{.preset = "vit"}, tiny_gpt2()}) {
    EXPECT_EQ(model_spec_from_json(to_json(spec)), spec) << to_json(spec);
  }
  EXPECT_EQ(to_json({.preset = "vit_micro", .width = 96, .norm = NormKind::dyt}),
            R"({"preset":"vit_micro","width":96,"norm":"dyt"})");
  const ModelSpec measured{.preset = "vit", .norm = NormKind::dyt, .alpha0 = Alpha0::measured()};
  EXPECT_EQ(to_json(measured), R"({"preset":"vit","norm":"dyt","alpha0":"auto"})");
  EXPECT_EQ(model_spec_from_json(to_json(measured)), measured);
  EXPECT_EQ(to_json({.preset = "vit", .drop_path = 0.1f}), R"({"preset":"vit","drop_path":0.1})");
}

TEST(ModelSpec, RefusesJsonThatDescribesNoModel) {
  const auto parse = [](const char* text) { return [=] { model_spec_from_json(text); }; };
  expect_error(parse("vit"), {"a JSON object", "vit"});
  expect_error(parse("{\"preset\": "), {"a JSON object"});
  expect_error(parse("[]"), {"a JSON object"});
  expect_error(parse("{}"), {"no \"preset\""});
  expect_error(parse(R"({"preset": 7})"), {"\"preset\" must be a name, not 7"});
  expect_error(parse(R"({"preset": "vit", "colour": 1})"), {"unknown key \"colour\""});
  expect_error(parse(R"({"preset": "vit", "width": 1.5})"), {"\"width\"", "whole number", "1.5"});
  expect_error(parse(R"({"preset": "vit", "width": 99999999999})"), {"\"width\"", "2^31"});
  expect_error(parse(R"({"preset": "vit", "alpha0": "big"})"),
               {"\"alpha0\"", "a number or \"auto\""});
  expect_error(parse(R"({"preset": "gpt", "tied": 1})"), {"\"tied\" must be true or false"});
  expect_error(parse(R"({"preset": "vit", "norm": "ln"})"), {"unknown norm 'ln'"});
}

}  // namespace
}  // namespace dyt::test
