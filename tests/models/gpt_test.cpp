#include "models/gpt.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>

#include "core/product.h"
#include "models/weights.h"
#include "tests/datasets/expect_error.h"
#include "tests/models/tiny_models.h"

namespace dyt::test {
namespace {

TensorFile read_fixture(const TinyModel& fixture) {
  return read_safetensors(reference_folder() + "/" + fixture.file);
}

std::vector<int32_t> integers(const TensorFile& file, const std::string& name) {
  const std::vector<int64_t> wide = file.integers(name);
  return {wide.begin(), wide.end()};
}

void check_against_hugging_face(Device device, DType dtype, double tolerance) {
  for (const TinyModel& fixture : tiny_language_models()) {
    SCOPED_TRACE(std::string(fixture.file) + " in " + name_of(dtype));
    const TensorFile file = read_fixture(fixture);
    Parameters p;
    const Model whole(fixture.spec, p);
    const GPT& model = *whole.language();
    p.allocate(device, dtype, 1);
    read_weights(whole, p, weights_of(file));
    const Shape shape{file.at("tokens").shape[0], file.at("tokens").shape[1]};
    Tape tape(device, dtype);
    tape.begin(0);
    const Tensor tokens = tape.upload(shape, DType::i32, integers(file, "tokens").data());
    const Tensor labels = tape.upload(shape, DType::i32, integers(file, "labels").data());
    expect_close(to_host(tape, model.logits(tape, tokens)), file.doubles("logits"), tolerance,
                 "logits");
    const Tensor loss = model.loss(tape, tokens, labels);
    EXPECT_NEAR(to_host(tape, loss)[0], file.doubles("loss")[0], 10 * tolerance);
    tape.backward(loss);
    TensorFile gradients;
    write_weights(whole, p, gradients, "", true);
    std::set<std::string> ours, theirs;
    for (const auto& [name, tensor] : gradients.tensors) ours.insert(name);
    for (const auto& [name, tensor] : file.tensors) {
      if (name.starts_with("grad.")) theirs.insert(name);
    }
    ASSERT_EQ(ours, theirs);
    for (const std::string& name : ours) {
      EXPECT_EQ(gradients.at(name).shape, file.at(name).shape) << name;
      expect_close(gradients.doubles(name), file.doubles(name),
                   10 * tolerance * room_for(gradients.at(name)), name);
    }
  }
}

TEST(GPT, LogitsLossAndEveryGradientAgreeWithHuggingFace) {
  check_against_hugging_face(Device::cpu, DType::f32, 2e-6);
  const CpuProductsIn narrow(DType::bf16);
  check_against_hugging_face(Device::cpu, DType::f32, 2e-2);
}

TEST(GPTKernels, LogitsLossAndEveryGradientAgreeWithHuggingFace) {
  SKIP_WITHOUT_KERNELS();
  check_against_hugging_face(kernel_device, DType::f32, 2e-6);
  check_against_hugging_face(kernel_device, DType::bf16, 2e-2);
}

// Token by token with a cache: the logits that the whole text has at once.
void check_cache(Device device, DType dtype, double tolerance) {
  for (const TinyModel& fixture : tiny_language_models()) {
    const TensorFile file = read_fixture(fixture);
    Parameters p;
    const Model whole(fixture.spec, p);
    const GPT& model = *whole.language();
    p.allocate(device, dtype, 1);
    read_weights(whole, p, weights_of(file));
    const std::vector<int32_t> tokens = integers(file, "tokens");
    const std::vector<double> logits = file.doubles("logits");  // of two texts of 11 tokens
    Tape tape(device, dtype);
    tape.training = false;
    GPTCache cache(model.config(), device, dtype);
    int64_t read = 0;
    for (int64_t count : {4, 1, 1, 5}) {
      tape.begin(0);
      const Tensor next =
          model.next(tape, tape.upload({1, count}, DType::i32, tokens.data() + read), cache);
      read += count;
      EXPECT_EQ(cache.length(), read);
      const auto last = logits.begin() + (read - 1) * 61;
      expect_close(to_host(tape, next), {last, last + 61}, tolerance,
                   std::string(fixture.file) + " after " + std::to_string(read));
    }
  }
}

TEST(GPT, ReadsTokenByTokenWithACache) { check_cache(Device::cpu, DType::f32, 2e-6); }
TEST(GPTKernels, ReadTokenByTokenWithACache) {
  SKIP_WITHOUT_KERNELS();
  check_cache(kernel_device, DType::f32, 2e-6);
}

// A gradient check of the whole model in f64, in each style and placement, with dropout; and of a
// model that sees the whole text and names what was hidden from it.
TEST(GPT, GradientsAgreeWithFiniteDifferences) {
  struct Case {
    GPTStyle style;
    Placement placement;
    bool causal;
  };
  for (const auto& [style, placement, causal] : {Case{GPTStyle::gpt2, Placement::pre, true},
                                                 {GPTStyle::gpt2, Placement::post, true},
                                                 {GPTStyle::llama, Placement::pre, true},
                                                 {GPTStyle::llama, Placement::post, true},
                                                 {GPTStyle::gpt2, Placement::pre, false}}) {
    const GPTConfig config{.style = style,
                           .vocabulary = 7,
                           .context = 5,
                           .width = 32,
                           .depth = 1,
                           .heads = 2,
                           .hidden = 6,
                           .tied = style == GPTStyle::gpt2,
                           .dropout = 0.2f,
                           .norm = {.kind = NormKind::dyt, .placement = placement},
                           .causal = causal};
    const std::vector<int32_t> text = {0, 3, 3, 6, 1, 2, 0, 3};
    const std::vector<int32_t> labels = causal ? std::vector<int32_t>{3, 3, 6, 1, 2, 0, 3, 5}
                                               : std::vector<int32_t>{-1, 2, -1, -1, 1, 5, -1, -1};
    const auto model = std::make_shared<std::unique_ptr<GPT>>();
    const OpCase op{.name = style == GPTStyle::gpt2 ? "gpt2" : "llama",
                    .inputs = {},
                    .declare = [=](Parameters& p) { *model = std::make_unique<GPT>(config, p); },
                    .run =
                        [=](Tape& tape, const std::vector<Tensor>&, Parameters&) {
                          return (*model)->loss(tape, tape.upload({2, 4}, DType::i32, text.data()),
                                                tape.upload({2, 4}, DType::i32, labels.data()));
                        }};
    check_gradients(op);
  }
}

// Counts of Hugging Face's gpt2, gpt2-medium, -large and -xl, and of LLaMAs of the usual small
// sizes.
TEST(GPT, PresetsHaveTheirKnownSizes) {
  const std::pair<const char*, int64_t> known[] = {
      {"gpt2_124m", 124439808},  {"gpt2_355m", 354823168}, {"gpt2_774m", 774030080},
      {"gpt2_1.5b", 1557611200}, {"llama_60m", 58073600},  {"llama_130m", 134105856}};
  for (const auto& [name, count] : known) {
    Parameters p;
    const GPT model(gpt_preset(name), p);
    EXPECT_EQ(p.count(), count) << name;
  }
}

// Dropout of the embeddings and of what each branch adds: a number that goes into a norm is 0 where
// everything that was added up in it has been dropped.
TEST(GPT, DropsEmbeddingsAndWhatBranchesAdd) {
  Parameters p;
  const GPT model({.context = 64, .width = 32, .depth = 2, .heads = 2, .dropout = 0.5f}, p);
  p.allocate(Device::cpu, DType::f32, 1);
  Tape tape(Device::cpu, DType::f32);
  std::vector<double> zeros;
  tape.observer = [&](const std::string&, const Tensor& in, const Tensor&) {
    const std::vector<float> x = host_floats(tape, in);
    zeros.push_back(double(std::count(x.begin(), x.end(), 0.0f)) / double(x.size()));
  };
  const std::vector<int32_t> tokens(256, 7);
  tape.begin(0);
  model.logits(tape, tape.upload({4, 64}, DType::i32, tokens.data()));
  ASSERT_EQ(zeros.size(), 5u);
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(zeros[i], std::pow(0.5, i + 1), 0.03) << i;
}

std::set<std::string> names_of(const GPTConfig& config) {
  Parameters p;
  const GPT model(config, p);
  std::set<std::string> names;
  for (const Parameter& parameter : p.all()) names.insert(parameter.name);
  return names;
}

// A LLaMA with DyT has alphas, no bias anywhere, and a factor on its embeddings that begins at
// sqrt(width); alpha0 may differ before attention.
TEST(GPT, LlamaWithDytFollowsThePaper) {
  GPTConfig config = config_of(tiny_llama(NormKind::dyt));
  config.norm.alpha0 = 0.25f;
  config.alpha0_attention = 0.75f;
  Parameters p;
  const GPT model(config, p);
  p.allocate(Device::cpu, DType::f32, 1);
  for (const Parameter& parameter : p.all()) {
    EXPECT_EQ(parameter.name.find("bias"), std::string::npos) << parameter.name;
  }
  EXPECT_NEAR(p.values(p.find("model.embed_scale"))[0], std::sqrt(32.0), 1e-6);
  EXPECT_EQ(p.values(p.find("model.layers.1.input_layernorm.alpha"))[0], 0.75);
  EXPECT_EQ(p.values(p.find("model.layers.1.post_attention_layernorm.alpha"))[0], 0.25);
  EXPECT_EQ(p.values(p.find("model.norm.alpha"))[0], 0.25);
  EXPECT_EQ(names_of(config_of(tiny_llama(NormKind::rmsnorm))).count("model.embed_scale"), 0u);
  GPTConfig gpt2 = config_of(tiny_gpt2());
  gpt2.norm.kind = NormKind::dyt;
  EXPECT_EQ(names_of(gpt2).count("transformer.embed_scale"), 0u);
  EXPECT_EQ(names_of(gpt2).count("transformer.ln_f.bias"), 1u);
  gpt2.embedding_scale = true;
  EXPECT_EQ(names_of(gpt2).count("transformer.embed_scale"), 1u);
  EXPECT_EQ(tuned_alpha0(4096), std::make_pair(0.8f, 0.2f));
  EXPECT_EQ(tuned_alpha0(192), std::make_pair(1.0f, 1.0f));
}

// Post-LN ends in its last block's norm.
TEST(GPT, PostPlacementHasNoFinalNorm) {
  GPTConfig config = config_of(tiny_gpt2());
  config.norm.placement = Placement::post;
  EXPECT_EQ(names_of(config).count("transformer.ln_f.weight"), 0u);
  EXPECT_EQ(names_of(config_of(tiny_gpt2())).count("transformer.ln_f.weight"), 1u);
}

TEST(GPT, RefusesImpossibleConfigurationsAndTooLongTexts) {
  const auto build = [](const GPTConfig& config) {
    return [=] {
      Parameters p;
      const GPT model(config, p);
    };
  };
  expect_error(build({.width = 100, .heads = 3}), {"heads (3) must divide the width (100)"});
  expect_error(build({.width = 64, .heads = 8}), {"16 to 128", "not 8"});
  expect_error(build({.heads = 6, .kv_heads = 4}), {"(4) must divide the heads (6)"});
  expect_error(build({.vocabulary = 0}), {"positive vocabulary (0)"});
  expect_error(build({.dropout = 1}), {"dropout must be in [0, 1)"});
  expect_error(build({.norm = {.kind = NormKind::groupnorm}}),
               {"groupnorm", "see those that follow"});
  expect_error([] { gpt_preset("gpt5"); }, {"gpt5", "gpt_char", "llama_130m"});

  Parameters p;
  const GPT model(config_of(tiny_gpt2()), p);
  p.allocate(Device::cpu, DType::f32, 1);
  Tape tape(Device::cpu, DType::f32);
  const std::vector<int32_t> tokens(17, 0);
  const Tensor text = tape.upload({1, 17}, DType::i32, tokens.data());
  expect_error([&] { model.logits(tape, text); }, {"17 tokens", "context of 16"});
  tape.training = false;
  GPTCache cache(config_of(tiny_gpt2()), Device::cpu, DType::f32);
  model.next(tape, tape.upload({1, 16}, DType::i32, tokens.data()), cache);
  expect_error(
      [&] {
        model.next(tape, tape.upload({1, 1}, DType::i32, tokens.data()), cache);
      },
      {"17 tokens", "context of 16"});
}

}  // namespace
}  // namespace dyt::test
