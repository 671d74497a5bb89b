#include "models/window.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/product.h"
#include "models/weights.h"
#include "tests/datasets/expect_error.h"
#include "tests/datasets/temporary_folder.h"
#include "tests/models/tiny_models.h"

namespace dyt::test {
namespace {

std::vector<TinyModel> tiny_models() {
  std::vector<TinyModel> models = tiny_vits();
  for (const TinyModel& model : tiny_language_models()) models.push_back(model);
  return models;
}

struct Window {
  TemporaryFolder folder;
  TensorFile fixture, input;
  WindowOptions options;

  explicit Window(const TinyModel& tiny) {
    fixture = read_safetensors(reference_folder() + "/" + tiny.file);
    for (const char* name : {"images", "tokens", "labels"}) {
      if (fixture.contains(name)) input.tensors[name] = fixture.at(name);
    }
    options.model = tiny.spec;
    options.weights = folder.path("weights.safetensors");
    write_safetensors(options.weights, weights_of(fixture));
  }
};

// Everything the fixture knows: logits, loss, gradients, under the same names and shapes.
void check_fixtures(Device device, DType dtype, double tolerance) {
  for (const TinyModel& tiny : tiny_models()) {
    SCOPED_TRACE(std::string(tiny.file) + " in " + name_of(dtype));
    Window window(tiny);
    window.options.device = device;
    window.options.dtype = dtype;
    const TensorFile forward = look_into(window.options, window.input);
    EXPECT_EQ(forward.tensors.size(), 1u);
    window.options.backward = true;
    const TensorFile backward = look_into(window.options, window.input);
    for (const TensorFile* result : {&forward, &backward}) {
      for (const auto& [name, tensor] : result->tensors) {
        EXPECT_EQ(tensor.shape, window.fixture.at(name).shape) << name;
        expect_close(result->doubles(name), window.fixture.doubles(name),
                     tolerance * room_for(tensor), name);
      }
    }
    for (const auto& [name, tensor] : window.fixture.tensors) {
      EXPECT_TRUE(!name.starts_with("grad.") || backward.contains(name)) << name;
    }
    EXPECT_TRUE(backward.contains("logits") && backward.contains("loss"));
  }
}

TEST(Window, ShowsLogitsLossAndEveryGradient) {
  check_fixtures(Device::cpu, DType::f32, 2e-5);
  check_fixtures(Device::cpu, DType::f64, 1e-6);
}

// Bf16 has 8 bits, and in the sum that is the gradient of an alpha much cancels; and the products
// of the whole process are f32 again afterwards.
TEST(Window, ShowsWhatBf16MakesOnTheCpu) {
  check_fixtures(Device::cpu, DType::bf16, 0.1);
  EXPECT_EQ(cpu_products(), DType::f32);
  Window window(tiny_vits()[0]);
  const TensorFile wide = look_into(window.options, window.input);
  window.options.dtype = DType::bf16;
  EXPECT_NE(look_into(window.options, window.input).doubles("logits"), wide.doubles("logits"));
}

TEST(WindowKernels, ShowLogitsLossAndEveryGradient) {
  SKIP_WITHOUT_KERNELS();
  check_fixtures(kernel_device, DType::f32, 2e-5);
}

TEST(Window, ShowsWhatGoesIntoAndOutOfEveryNorm) {
  Window window({"vit_dyt.safetensors", tiny_vit(NormKind::dyt, false)});
  window.options.activations = true;
  const TensorFile result = look_into(window.options, window.input);
  EXPECT_EQ(result.tensors.size(), 1u + 2 * 5);
  for (const std::string site : {"blocks.0.norm1", "blocks.1.norm2", "fc_norm"}) {
    const std::vector<int64_t> shape =
        site == "fc_norm" ? std::vector<int64_t>{3, 32} : std::vector<int64_t>{3, 16, 32};
    EXPECT_EQ(result.at(site + ".input").shape, shape);
    const std::vector<double> x = result.doubles(site + ".input");
    const std::vector<double> weight = window.fixture.doubles(site + ".weight");
    const std::vector<double> bias = window.fixture.doubles(site + ".bias");
    const double alpha = window.fixture.doubles(site + ".alpha")[0];
    std::vector<double> y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      y[i] = weight[i % 32] * std::tanh(alpha * x[i]) + bias[i % 32];
    }
    expect_close(result.doubles(site + ".output"), y, 1e-6, site);
  }
  window.options.backward = true;
  EXPECT_TRUE(look_into(window.options, window.input).contains("blocks.1.norm1.output"));
}

// Each site once, though a language model's backward goes through the model twice.
TEST(Window, ShowsTheNormsOfLanguageModels) {
  Window window(tiny_language_models()[1]);
  window.options.activations = true;
  window.options.backward = true;
  const TensorFile result = look_into(window.options, window.input);
  EXPECT_EQ(result.at("model.layers.1.input_layernorm.input").shape,
            (std::vector<int64_t>{2, 11, 32}));
  EXPECT_TRUE(result.contains("model.norm.output"));
}

// In training BatchNorm takes this batch's statistics and moves the running ones; with `evaluation`
// backward computes what forward does.
TEST(Window, HasBatchnormInTrainingAndInEvaluation) {
  WindowOptions options;
  options.model = {.preset = "resnet", .image_size = 8, .width = 4};
  TensorFile input, weights;
  std::vector<float> images(2 * 3 * 8 * 8);
  for (size_t i = 0; i < images.size(); ++i) images[i] = std::sin(float(i));
  input.add("images", {2, 3, 8, 8}, images);
  input.add("labels", {2}, std::vector<int64_t>{0, 9});
  const std::vector<float> logits = look_into(options, input, &weights).floats("logits");
  EXPECT_TRUE(weights.contains("layer1.0.bn2.running_var"));
  options.backward = true;
  const TensorFile training = look_into(options, input);
  EXPECT_NE(training.floats("logits"), logits);
  EXPECT_EQ(training.integers("after.bn1.num_batches_tracked")[0], 1);
  EXPECT_NE(training.floats("after.bn1.running_var"), weights.floats("bn1.running_var"));
  options.evaluation = true;
  const TensorFile evaluation = look_into(options, input);
  EXPECT_EQ(evaluation.floats("logits"), logits);
  EXPECT_FALSE(evaluation.contains("after.bn1.num_batches_tracked"));
}

// Weights of a seed, written, give the same logits when they are read.
TEST(Window, WritesTheWeightsItUsed) {
  Window window(tiny_language_models()[2]);
  WindowOptions random = window.options;
  random.weights.clear();
  random.seed = 7;
  TensorFile weights;
  const std::vector<float> logits = look_into(random, window.input, &weights).floats("logits");
  write_safetensors(window.options.weights, weights);
  EXPECT_EQ(look_into(window.options, window.input).floats("logits"), logits);
  random.seed = 8;
  EXPECT_NE(look_into(random, window.input).floats("logits"), logits);
}

// The same checks of every model in one place: `change` spoils the input.
template <class Change>
void expect_refusal(const TinyModel& tiny, Change change, const std::vector<std::string>& words) {
  Window window(tiny);
  window.options.backward = true;
  change(window);
  expect_error([&] { look_into(window.options, window.input); }, words);
}

template <class Value>
void put(TensorFile& file, const std::string& name, const std::vector<int64_t>& shape,
         const std::vector<Value>& values) {
  file.tensors.erase(name);
  file.add(name, shape, values);
}

TEST(Window, RefusesImagesThatAModelCannotRead) {
  const TinyModel vit = tiny_vits()[0];
  expect_refusal(vit, [](Window& w) { w.input.tensors.erase("images"); },
                 {"no tensor \"images\"", "\"labels\""});
  expect_refusal(vit, [](Window& w) { put(w.input, "images", {3}, std::vector<float>(3)); },
                 {"images is [3]", "[N, 3, 16, 16] is needed"});
  expect_refusal(vit,
                 [](Window& w) {
                   put(w.input, "images", {0, 3, 16, 16}, std::vector<float>());
                 },
                 {"images is [0, 3, 16, 16]"});
  expect_refusal(vit,
                 [](Window& w) {
                   put(w.input, "images", {1, 16, 16, 3}, std::vector<float>(768));
                 },
                 {"images is [1, 16, 16, 3], where vit_micro takes [N, 3, 16, 16]"});
  expect_refusal(vit,
                 [](Window& w) {
                   const float nan = std::nanf("");
                   std::memcpy(w.input.tensors["images"].bytes.data() + 40, &nan, 4);
                 },
                 {"images has a value nan"});
  expect_refusal(vit,
                 [](Window& w) {
                   put(w.input, "images", {1, 3, 16, 16}, std::vector<int64_t>(768));
                 },
                 {"\"images\" is I64"});
  expect_refusal(vit, [](Window& w) { put(w.input, "labels", {3}, std::vector<float>(3)); },
                 {"\"labels\" is F32; an integer type is needed"});
  expect_refusal(vit,
                 [](Window& w) {
                   put(w.input, "labels", {3}, std::vector<int64_t>{0, 10, 2});
                 },
                 {"labels has a 10, but there are 10 classes, 0 to 9"});
  expect_refusal(vit,
                 [](Window& w) {
                   put(w.input, "labels", {3}, std::vector<int64_t>{0, -1, 2});
                 },
                 {"labels has a -1"});
  expect_refusal(vit, [](Window& w) { put(w.input, "labels", {2}, std::vector<int64_t>(2)); },
                 {"labels is [2], where [3] is needed"});
}

TEST(Window, RefusesTextThatAModelCannotRead) {
  const TinyModel gpt = tiny_language_models()[0];
  expect_refusal(gpt, [](Window& w) { w.input = {}; }, {"no tensor \"tokens\""});
  expect_refusal(gpt,
                 [](Window& w) {
                   put(w.input, "tokens", {1, 2}, std::vector<int64_t>{60, 61});
                 },
                 {"tokens has a 61, but there are 61 tokens in the vocabulary, 0 to 60"});
  expect_refusal(gpt,
                 [](Window& w) {
                   put(w.input, "tokens", {1, 17}, std::vector<int32_t>(17));
                 },
                 {"tokens is [1, 17]: longer than the model's context of 16 tokens"});
  expect_refusal(gpt, [](Window& w) { put(w.input, "tokens", {3}, std::vector<int32_t>(3)); },
                 {"tokens is [3], where [N, T] is needed"});
  expect_refusal(gpt, [](Window& w) { put(w.input, "labels", {22}, std::vector<int64_t>(22)); },
                 {"labels is [22], where [2, 11] is needed"});
}

TEST(Window, RefusesWeightsOfAnotherModelAndNumberTypesOfAnotherDevice) {
  const TinyModel vit = tiny_vits()[0];
  expect_refusal(vit, [](Window& w) { w.options.model.norm = NormKind::dyt; },
                 {"weights.safetensors lacks blocks.0.norm1.alpha", "and 2 more"});
  expect_refusal(vit, [](Window& w) { w.options.prefix = "ema."; }, {"lacks ema.pos_embed"});
  expect_refusal(vit,
                 [](Window& w) {
                   w.options.device = kernel_device;
                   w.options.dtype = DType::f64;
                 },
                 {" computes in f32 and bf16, not in f64"});
}

}  // namespace
}  // namespace dyt::test
