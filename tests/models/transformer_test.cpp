#include "models/transformer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "core/safetensors.h"
#include "tests/datasets/expect_error.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

// The models of make_transformer.py, which says what they are.
TransformerConfig config_of(const std::string& name) {
  TransformerConfig c{
      .vocabulary = 31, .context = 12, .width = 32, .depth = 1, .heads = 2, .hidden = 40};
  c.norm.placement = name == "post" ? Placement::post : Placement::pre;
  if (name == "post") c.depth = 2;
  if (name == "pre") c.gelu = c.learned_positions = true, c.source_vocabulary = 23;
  if (name == "dyt") c.norm.kind = NormKind::dyt;
  return c;
}

struct Fixture {
  std::string prefix;
  TensorFile file = read_safetensors(reference_folder() + "/transformer.safetensors");
  Parameters parameters;
  Transformer model;

  Fixture(const std::string& name, Device device, DType dtype)
      : prefix(name + "/"), model(config_of(name), parameters) {
    parameters.allocate(device, dtype, 1);
    for (const Parameter& p : parameters.all()) {
      parameters.set_values(p, file.doubles(prefix + p.name));
    }
  }
  std::vector<int32_t> integers(const std::string& name) const {
    const std::vector<int64_t> wide = file.integers(prefix + name);
    return {wide.begin(), wide.end()};
  }
  Tensor upload(Tape& tape, const std::string& name) const {
    Shape shape;
    for (const int64_t n : file.at(prefix + name).shape) shape.append(n);
    return tape.upload(shape, DType::i32, integers(name).data());
  }
  Texts source(Tape& tape) const { return {upload(tape, "source"), upload(tape, "lengths")}; }
};

void check_against_pytorch(Device device, DType dtype, double tolerance) {
  for (const std::string name : {"post", "pre", "dyt"}) {
    SCOPED_TRACE(name + " in " + name_of(dtype));
    const Fixture f(name, device, dtype);
    Tape tape(device, dtype);
    tape.begin(0);
    const Texts source = f.source(tape);
    const Tensor target = f.upload(tape, "target");
    expect_close(to_host(tape, f.model.logits(tape, source, target)),
                 f.file.doubles(name + "/logits"), tolerance, "logits");
    tape.begin(0);
    const Tensor loss = f.model.loss(tape, f.source(tape), f.upload(tape, "target"),
                                     f.upload(tape, "labels"), 0.1f);
    EXPECT_NEAR(to_host(tape, loss)[0], f.file.doubles(name + "/loss")[0], 10 * tolerance);
    tape.backward(loss);
    size_t gradients = 0;
    for (const Parameter& p : f.parameters.all()) {
      expect_close(f.parameters.gradient(p), f.file.doubles(name + "/grad." + p.name),
                   10 * tolerance, p.name);
    }
    for (const auto& [key, tensor] : f.file.tensors) gradients += key.starts_with(name + "/grad.");
    EXPECT_EQ(gradients, f.parameters.all().size());
  }
}

TEST(Transformer, LogitsLossAndEveryGradientAgreeWithPyTorch) {
  check_against_pytorch(Device::cpu, DType::f32, 3e-6);
}

TEST(TransformerKernels, LogitsLossAndEveryGradientAgreeWithPyTorch) {
  SKIP_WITHOUT_KERNELS();
  check_against_pytorch(kernel_device, DType::f32, 3e-6);
  check_against_pytorch(kernel_device, DType::bf16, 3e-2);
}

// Token by token, several translations of each text at once: the logits that PyTorch has for the
// whole of them. The order of the translations changes on the way.
void check_cache(Device device, double tolerance) {
  for (const std::string name : {"post", "pre", "dyt"}) {
    const Fixture f(name, device, DType::f32);
    const std::vector<int32_t> target = f.integers("target");  // (3, 7)
    const std::vector<double> logits = f.file.doubles(name + "/logits");
    Tape tape(device, DType::f32);
    tape.training = false;
    for (const int64_t beams : {1, 2}) {
      TransformerCache cache(f.model.config(), device, DType::f32, 3, beams, 9, 7);
      tape.begin(0);
      f.model.read(tape, f.source(tape), cache);
      for (int64_t t = 0; t < 7; ++t) {
        // The first translation of each text is the fixture's, the other is wrong from the second
        // token on; at the fifth, both go on from the right one.
        std::vector<int32_t> tokens;
        for (int64_t n = 0; n < 3 * beams; ++n) {
          const int32_t right = target[size_t(n / beams * 7 + t)];
          tokens.push_back(n % beams && (t == 2 || t == 3) ? (right + 1) % 31 : right);
        }
        if (t == 4) {
          std::vector<int32_t> parents;
          for (int64_t n = 0; n < 3 * beams; ++n) parents.push_back(int32_t(n / beams * beams));
          cache.reorder(parents);
        }
        tape.begin(0);
        const Tensor next =
            f.model.next(tape, tape.upload({3 * beams}, DType::i32, tokens.data()), cache);
        const std::vector<double> all = to_host(tape, next);
        for (int64_t n = 0; n < 3 * beams; ++n) {
          if (n % beams && (t == 2 || t == 3)) continue;
          const auto expected = logits.begin() + (n / beams * 7 + t) * 31;
          expect_close({all.begin() + n * 31, all.begin() + (n + 1) * 31},
                       {expected, expected + 31}, tolerance, name + " token " + std::to_string(t));
        }
      }
      EXPECT_EQ(cache.length(), 7);
    }
  }
}

TEST(Transformer, WritesTokenByTokenWithACache) { check_cache(Device::cpu, 3e-6); }
TEST(TransformerKernels, WriteTokenByTokenWithACache) {
  SKIP_WITHOUT_KERNELS();
  check_cache(kernel_device, 3e-6);
}

// A gradient check of the whole model in f64, in each placement, with dropout.
TEST(Transformer, GradientsAgreeWithFiniteDifferences) {
  for (const Placement placement : {Placement::pre, Placement::post}) {
    TransformerConfig config{.vocabulary = 7,
                             .context = 6,
                             .width = 32,
                             .depth = 1,
                             .heads = 2,
                             .hidden = 6,
                             .gelu = true,
                             .dropout = 0.2f};
    config.norm.placement = placement;
    auto model = std::make_shared<std::unique_ptr<Transformer>>();
    const OpCase op{
        .name = name_of(placement),
        .inputs = {},
        .declare = [=](Parameters& p) { *model = std::make_unique<Transformer>(config, p); },
        .run =
            [=](Tape& tape, const std::vector<Tensor>&, Parameters&) {
              const std::vector<int32_t> source = {1, 2, 3, 4, 5, 0}, lengths = {3, 2};
              const std::vector<int32_t> target = {0, 6, 1, 3, 2, 2}, labels = {6, 1, 5, 0, 4, -1};
              const Texts texts{tape.upload({2, 3}, DType::i32, source.data()),
                                tape.upload({2}, DType::i32, lengths.data())};
              return (*model)->loss(tape, texts, tape.upload({2, 3}, DType::i32, target.data()),
                                    tape.upload({2, 3}, DType::i32, labels.data()), 0.1f);
            },
        .checked_elements = 5};
    check_gradients(op);
  }
}

// Xavier's bounds, and embeddings of variance 1 / width.
TEST(Transformer, StartsWithTheUsualWeights) {
  Parameters p;
  const Transformer model({.width = 32, .depth = 1, .heads = 2}, p);
  const auto expect_init = [&](const char* name, Init::Kind kind, double value) {
    EXPECT_EQ(p.find(name).init.kind, kind) << name;
    EXPECT_NEAR(p.find(name).init.value, value, 1e-6) << name;
  };
  const auto uniform = Init::uniform_between;
  expect_init("target_embedding.weight", Init::normal, 1 / std::sqrt(32));
  expect_init("encoder.layers.0.self_attn.in_proj_weight", uniform, std::sqrt(6.0 / (32 + 96)));
  expect_init("decoder.layers.0.linear2.weight", uniform, std::sqrt(6.0 / (128 + 32)));
}

// As in the paper, dropout of the embeddings (with their positions) and of what each branch adds: a
// number that goes into a norm is 0 where everything that was added up in it has been dropped.
TEST(Transformer, DropsEmbeddingsAndWhatBranchesAdd) {
  Parameters p;
  const Transformer model({.width = 32, .depth = 1, .heads = 2, .dropout = 0.5f}, p);
  p.allocate(Device::cpu, DType::f32, 1);
  Tape tape(Device::cpu, DType::f32);
  std::map<std::string, double> zeros;
  tape.observer = [&](const std::string& name, const Tensor& in, const Tensor&) {
    const std::vector<float> x = host_floats(tape, in);
    zeros[name] = double(std::count(x.begin(), x.end(), 0.0f)) / double(x.size());
  };
  const std::vector<int32_t> tokens(256, 7), lengths(4, 64);
  tape.begin(0);
  const Tensor text = tape.upload({4, 64}, DType::i32, tokens.data());
  model.logits(tape, {text, tape.upload({4}, DType::i32, lengths.data())}, text);
  const std::pair<const char*, double> expected[] = {
      {"encoder.layers.0.norm1", 0.5},  {"encoder.layers.0.norm2", 0.25},
      {"encoder.norm", 0.125},          {"decoder.layers.0.norm1", 0.5},
      {"decoder.layers.0.norm2", 0.25}, {"decoder.layers.0.norm3", 0.125},
      {"decoder.norm", 0.0625}};
  for (const auto& [name, share] : expected) EXPECT_NEAR(zeros.at(name), share, 0.03) << name;
}

TEST(Transformer, RefusesWhatCannotBe) {
  const auto make = [](const TransformerConfig& c) {
    return [=] {
      Parameters p;
      Transformer(c, p);
    };
  };
  expect_error(make({.width = 96, .heads = 5}), {"heads (5) must divide the width (96)"});
  expect_error(make({.width = 32, .heads = 4}), {"heads of width 16 to 128 are supported, not 8"});
  expect_error(make({.norm = {.kind = NormKind::batchnorm}}), {"a token would see"});
  expect_error(make({.dropout = 1}), {"dropout must be in [0, 1)"});
  expect_error(make({.depth = 0}), {"depth (0)"});
}

}  // namespace
}  // namespace dyt::test
