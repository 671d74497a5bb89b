#include "models/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/datasets/expect_error.h"
#include "tests/models/tiny_models.h"

namespace dyt::test {
namespace {

struct Loaded {
  Parameters parameters;
  Model model;
  explicit Loaded(const ModelSpec& spec, DType dtype = DType::f32) : model(spec, parameters) {
    parameters.allocate(Device::cpu, dtype, 1);
  }
};

TensorFile tiny_weights(const TinyModel& tiny) {
  return weights_of(read_safetensors(reference_folder() + "/" + tiny.file));
}

void expect_same(const TensorFile& a, const TensorFile& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    EXPECT_EQ(b.at(name).type, tensor.type) << name;
    EXPECT_EQ(b.at(name).shape, tensor.shape) << name;
    EXPECT_EQ(b.at(name).bytes, tensor.bytes) << name;
  }
}

// What is written is what was read, also without the word `transformer.` that some files lack.
TEST(Weights, AreWrittenAsTheyWereRead) {
  std::vector<TinyModel> models = tiny_language_models();
  for (const TinyModel& vit : tiny_vits()) models.push_back(vit);
  for (const TinyModel& tiny : models) {
    SCOPED_TRACE(tiny.file);
    const TensorFile weights = tiny_weights(tiny);
    Loaded loaded(tiny.spec), other(tiny.spec);
    read_weights(loaded.model, loaded.parameters, weights);
    TensorFile written, short_names;
    write_weights(loaded.model, loaded.parameters, written);
    expect_same(written, weights);
    for (const auto& [name, tensor] : weights.tensors) {
      const std::string word = "transformer.";
      short_names.tensors[name.starts_with(word) ? name.substr(word.size()) : name] = tensor;
    }
    read_weights(other.model, other.parameters, short_names);
    TensorFile again;
    write_weights(other.model, other.parameters, again);
    expect_same(again, weights);
  }
}

// Running statistics too, and the count of batches as timm has it: one int64 without dimensions.
TEST(Weights, HoldTheBuffersOfBatchnorm) {
  const ModelSpec spec{.preset = "resnet", .width = 4};
  Loaded loaded(spec), other(spec);
  for (const ModelBuffer& b : loaded.parameters.buffers()) {
    loaded.parameters.set_values(b, std::vector<double>(size_t(b.size()), b.counts ? 12345 : 0.5));
  }
  TensorFile file, again;
  write_weights(loaded.model, loaded.parameters, file);
  EXPECT_EQ(file.at("bn1.num_batches_tracked").type, StoredType::I64);
  EXPECT_EQ(file.at("bn1.num_batches_tracked").shape, std::vector<int64_t>());
  EXPECT_EQ(file.integers("bn1.num_batches_tracked")[0], 12345);
  EXPECT_EQ(file.floats("layer3.2.bn2.running_var")[0], 0.5f);
  read_weights(other.model, other.parameters, file);
  write_weights(other.model, other.parameters, again);
  expect_same(file, again);
  file.tensors.erase("bn1.running_mean");
  expect_error([&] { read_weights(other.model, other.parameters, file); },
               {"lacks bn1.running_mean"});
}

// timm's small ConvNeXts have 1 x 1 convolutions for matrices; both ways of writing them are read.
TEST(Weights, ConvNeXtHasTimmsShapes) {
  const ModelSpec spec{.preset = "convnext", .width = 4};
  Loaded loaded(spec);
  TensorFile file;
  write_weights(loaded.model, loaded.parameters, file);
  const std::string name = "stages.1.blocks.0.mlp.fc1.weight";
  EXPECT_EQ(file.at(name).shape, (std::vector<int64_t>{32, 8, 1, 1}));
  EXPECT_EQ(file.at("head.fc.weight").shape, (std::vector<int64_t>{10, 32}));
  read_weights(loaded.model, loaded.parameters, file);
  file.tensors[name].shape = {32, 8};
  read_weights(loaded.model, loaded.parameters, file);
  file.tensors[name].shape = {8, 32};
  expect_error([&] { read_weights(loaded.model, loaded.parameters, file); },
               {name + " is [8, 32] instead of [32, 8, 1, 1]"});
}

TEST(Weights, KeepF64InF64Runs) {
  Loaded loaded(tiny_gpt2(), DType::f64);
  TensorFile file;
  write_weights(loaded.model, loaded.parameters, file, "x.");
  write_weights(loaded.model, loaded.parameters, file, "", true);
  EXPECT_EQ(file.at("x.transformer.wte.weight").type, StoredType::F64);
  EXPECT_EQ(file.at("grad.transformer.h.0.mlp.c_fc.weight").shape, (std::vector<int64_t>{32, 128}));
}

// A checkpoint holds more than weights, and the average of the weights under a prefix.
TEST(Weights, IgnoreWhatElseACheckpointHolds) {
  Loaded loaded(tiny_gpt2()), other(tiny_gpt2());
  loaded.parameters.set_values(loaded.parameters.find("transformer.ln_f.bias"),
                               std::vector<double>(32, 0.25));
  TensorFile file;
  write_weights(loaded.model, loaded.parameters, file, "ema.");
  write_weights(other.model, other.parameters, file);
  file.add("optimizer.step", {}, std::vector<int64_t>{7});
  read_weights(loaded.model, loaded.parameters, file);
  EXPECT_EQ(loaded.parameters.values(loaded.parameters.find("transformer.ln_f.bias"))[3], 0);
  read_weights(loaded.model, loaded.parameters, file, "ema.");
  EXPECT_EQ(loaded.parameters.values(loaded.parameters.find("transformer.ln_f.bias"))[3], 0.25);
  expect_error([&] { read_weights(loaded.model, loaded.parameters, file, "mean."); },
               {"lacks mean.transformer.wte.weight, "});
}

TEST(Weights, ReadHalfPrecision) {
  Loaded loaded(tiny_gpt2());
  TensorFile file;
  write_weights(loaded.model, loaded.parameters, file);
  StoredTensor& bias = file.tensors["transformer.ln_f.bias"];
  const uint16_t halves[] = {0x3c00, 0xc000, 0x3555, 0x0001, 0x8000, 0x7bff, 0x03ff, 0x0400};
  const float floats[] = {1, -2, 0.333251953125f, 0x1p-24f, -0.0f, 65504, 0x3ffp-24f, 0x1p-14f};
  bias.type = StoredType::F16;
  bias.bytes.resize(64);
  for (int i = 0; i < 32; ++i) std::memcpy(bias.bytes.data() + 2 * i, &halves[i % 8], 2);
  read_weights(loaded.model, loaded.parameters, file);
  const auto values = loaded.parameters.values(loaded.parameters.find("transformer.ln_f.bias"));
  for (int i = 0; i < 32; ++i) EXPECT_EQ(values[size_t(i)], floats[i % 8]) << i;
  const uint16_t infinity = 0xfc00;
  std::memcpy(bias.bytes.data(), &infinity, 2);
  expect_error([&] { read_weights(loaded.model, loaded.parameters, file); },
               {"transformer.ln_f.bias has a value -inf"});
}

TEST(Weights, NameWhatIsWrongInAFile) {
  const TensorFile weights = tiny_weights(tiny_language_models()[0]);
  Loaded loaded(tiny_gpt2());
  const auto read_changed = [&](auto change) {
    TensorFile changed = weights;
    change(changed);
    return [&, changed] { read_weights(loaded.model, loaded.parameters, changed); };
  };
  expect_error(read_changed([](TensorFile& f) { f.tensors.erase("transformer.h.1.ln_2.bias"); }),
               {"lacks transformer.h.1.ln_2.bias", "the model is a gpt_char with layernorm"});
  expect_error(read_changed([](TensorFile& f) { f.tensors.clear(); }),
               {"lacks transformer.", " and 25 more"});
  expect_error(read_changed([](TensorFile& f) { f.add("extra", {1}, std::vector<float>{0}); }),
               {"has tensors that the model does not: extra"});
  expect_error(read_changed([](TensorFile& f) {
                 f.tensors["transformer.h.0.mlp.c_fc.weight"] =
                     f.tensors["transformer.h.0.mlp.c_proj.weight"];
               }),
               {"transformer.h.0.mlp.c_fc.weight is [128, 32] instead of [32, 128]"});
  expect_error(read_changed([](TensorFile& f) {
                 f.tensors["transformer.ln_f.bias"].type = StoredType::I32;
               }),
               {"transformer.ln_f.bias", "is I32"});
  expect_error(read_changed([](TensorFile& f) {
                 f.tensors.erase("transformer.ln_f.bias");
                 f.add("transformer.ln_f.bias", {32}, std::vector<double>(32, 1e39));
               }),
               {"transformer.ln_f.bias has a value 1e+39"});

  // A NaN is found before anything is set.
  TensorFile before, after;
  write_weights(loaded.model, loaded.parameters, before);
  expect_error(read_changed([](TensorFile& f) {
                 const float nan = std::nanf("");
                 std::memcpy(f.tensors["transformer.wte.weight"].bytes.data(), &nan, 4);
               }),
               {"transformer.wte.weight has a value nan"});
  write_weights(loaded.model, loaded.parameters, after);
  expect_same(before, after);
}

TEST(Weights, TakeTheHeadOfATiedModelOnlyIfItIsTheEmbedding) {
  TensorFile weights = tiny_weights(tiny_language_models()[0]);
  Loaded loaded(tiny_gpt2());
  weights.tensors["lm_head.weight"] = weights.tensors["transformer.wte.weight"];
  read_weights(loaded.model, loaded.parameters, weights);
  weights.tensors["lm_head.weight"].bytes[5] ^= std::byte(1);
  expect_error([&] { read_weights(loaded.model, loaded.parameters, weights); },
               {"lm_head.weight differs from transformer.wte.weight"});
}

TEST(Weights, OfAnotherModelAreRefusedInOneSentence) {
  const TensorFile vit = tiny_weights(tiny_vits()[0]);
  Loaded loaded(tiny_vit(NormKind::dyt, false));
  expect_error([&] { read_weights(loaded.model, loaded.parameters, vit); },
               {"lacks blocks.0.norm1.alpha", "the model is a vit_micro with dyt"});
  Loaded resnet({.preset = "resnet"});
  expect_error([&] { read_weights(resnet.model, resnet.parameters, vit); },
               {"lacks ", "more; it has tensors that the model does not: blocks.0."});
}

}  // namespace
}  // namespace dyt::test
