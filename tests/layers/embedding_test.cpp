#include <gtest/gtest.h>
#include <omp.h>

#include "layers/layers.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

const std::string fixtures = "layers.safetensors";

OpCase patch_case(Shape images, int64_t P, int64_t D) {
  return {.name = "patch_embedding " + images.text() + " P " + std::to_string(P) + " D " +
                  std::to_string(D),
          .inputs = {images},
          .declare =
              [=](Parameters& p) {
                p.add("weight", {D, images[3], P, P}, Init::gaussian(0.5));
                p.add("bias", {D}, Init::gaussian(1.0));
              },
          .run =
              [](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                return patch_embedding(tape, x[0], p.find("weight"), p.find("bias"));
              }};
}

OpCase position_case(Shape x, bool with_class_token) {
  const int64_t T = x[1], C = x[2];
  return {.name = (with_class_token ? "class token and position " : "position ") + x.text(),
          .inputs = {x},
          .declare =
              [=](Parameters& p) {
                if (with_class_token) p.add("class_token", {1, 1, C}, Init::gaussian(1.0));
                p.add("pos_embed", {1, T + with_class_token, C}, Init::gaussian(1.0));
              },
          .run =
              [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                return add_position(tape, x[0], with_class_token ? &p.find("class_token") : nullptr,
                                    p.find("pos_embed"));
              }};
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

// --- patch_embedding -----------------------------------------------------------------------------

TEST(PatchEmbedding, GradientsAgreeWithFiniteDifferences) {
  check_gradients(patch_case({2, 6, 4, 3}, 2, 5));
  check_gradients(patch_case({1, 3, 6, 1}, 3, 4));
}

TEST(PatchEmbedding, AgreesWithPyTorch) {
  check_reference(patch_case({2, 8, 12, 3}, 4, 10), fixtures, "patch_embedding");
  check_reference(patch_case({2, 6, 3, 3}, 3, 10), fixtures, "patch_embedding_p3");
}

TEST(PatchEmbeddingKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(patch_case({1, 4, 4, 3}, 4, 8));
  check_kernels(patch_case({3, 6, 9, 1}, 3, 7));
  check_kernels(patch_case({2, 14, 28, 2}, 7, 40));
  check_kernels(patch_case({5, 8, 8, 3}, 1, 33));  // a patch of one pixel: 64 tokens
}

// The same images through two embeddings: the second to write their gradient must add.
TEST(PatchEmbedding, AddsToAGradientThatIsThere) {
  const OpCase twice{.name = "patch_embedding twice",
                     .inputs = {{2, 4, 6, 3}},
                     .declare =
                         [](Parameters& p) {
                           p.add("mix", {8, 8}, Init::gaussian(1));
                           for (const char* name : {"first", "second"}) {
                             p.add(name, {8, 3, 2, 2}, Init::gaussian(0.5));
                           }
                           p.add("bias", {8}, Init::gaussian(1));
                         },
                     .run =
                         [](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
                           const Parameter& bias = p.find("bias");  // used twice as well
                           const Tensor a = patch_embedding(tape, x[0], p.find("first"), bias);
                           const Tensor b = patch_embedding(tape, x[0], p.find("second"), bias);
                           return linear(tape, b, p.find("mix"), nullptr, &a);
                         }};
  check_gradients(twice);
  std::string why;
  if (is_available(kernel_device, &why)) check_kernels(twice);
}

// Images are f32 whatever the model computes in, and need no gradient.
TEST(PatchEmbedding, TakesImagesInF32InEveryRun) {
  const OpCase op = patch_case({2, 8, 4, 3}, 4, 16);
  const Values values = draw_values(op, 21, true);  // numbers that bf16 can hold
  const std::vector<float> pixels(values.inputs[0].begin(), values.inputs[0].end());
  const std::vector<double> expected = run_op(op, Device::cpu, DType::f64, values).y;
  for (Device device : {Device::cpu, kernel_device}) {
    std::string why;
    if (!is_available(device, &why)) continue;
    const DType narrow = device == Device::cpu ? DType::f64 : DType::bf16;
    for (DType dtype : {DType::f32, narrow}) {
      Parameters parameters;
      op.declare(parameters);
      parameters.allocate(device, dtype, 1);
      for (const Parameter& p : parameters.all()) {
        parameters.set_values(p, values.parameters.at(p.name));
      }
      for (bool wants_gradient : {false, true}) {
        Tape tape(device, dtype);
        const Tensor images = tape.upload(op.inputs[0], DType::f32, pixels.data(), wants_gradient);
        const Tensor y = op.run(tape, {images}, parameters);
        EXPECT_EQ(y.dtype, dtype);
        const std::string what = std::string(name_of(device)) + " in " + name_of(dtype);
        expect_close(to_host(tape, y), expected, dtype == DType::bf16 ? 1e-2 : 1e-6, what);
        std::vector<char> dy(size_t(y.size()) * size_of(dtype), 0);
        tape.backward(y, dy.data());
        EXPECT_EQ(images.grad != nullptr, wants_gradient);
        if (!wants_gradient) continue;
        std::vector<float> dimages(pixels.size(), 1.0f);
        copy_to_host(device, dimages.data(), images.grad->data, dimages.size() * sizeof(float));
        EXPECT_EQ(dimages, std::vector<float>(pixels.size(), 0.0f)) << what;
      }
    }
  }
}

TEST(PatchEmbedding, RefusesShapesThatDoNotFit) {
  Parameters p;
  const Parameter& weight = p.add("proj.weight", {6, 3, 4, 4}, Init::ones());
  const Parameter& flat = p.add("flat.weight", {6, 48}, Init::ones());
  const Parameter& oblong = p.add("oblong.weight", {6, 3, 2, 4}, Init::ones());
  const Parameter& bias = p.add("proj.bias", {6}, Init::ones());
  const Parameter& short_bias = p.add("short.bias", {5}, Init::ones());
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  const auto message = [&](Shape images, const Parameter& w, const Parameter& b) {
    return message_of([&] { patch_embedding(tape, tape.empty(images), w, b); });
  };
  EXPECT_EQ(message({1, 8, 8, 3}, weight, bias), "no error");
  EXPECT_EQ(message({1, 30, 32, 3}, weight, bias),
            "patch_embedding: images of 30 x 32 pixels cannot be cut into patches of 4 x 4");
  EXPECT_EQ(message({1, 32, 30, 3}, weight, bias),
            "patch_embedding: images of 32 x 30 pixels cannot be cut into patches of 4 x 4");
  EXPECT_EQ(message({1, 8, 8, 1}, weight, bias),
            "patch_embedding: weight proj.weight (6, 3, 4, 4) is not (D, C, P, P) for images "
            "(1, 8, 8, 1)");
  EXPECT_NE(message({1, 8, 8, 3}, oblong, bias).find("oblong.weight"), std::string::npos);
  EXPECT_NE(message({1, 8, 8, 3}, flat, bias).find("not (1, 8, 8, 3) and (6, 48)"),
            std::string::npos);
  EXPECT_EQ(message({1, 8, 8, 3}, weight, short_bias),
            "patch_embedding: bias short.bias has 5 elements for 6 channels");
}

// --- add_position --------------------------------------------------------------------------------

TEST(AddPosition, GradientsAgreeWithFiniteDifferences) {
  check_gradients(position_case({3, 4, 5}, false));
  check_gradients(position_case({3, 4, 5}, true));
}

TEST(AddPosition, AgreesWithPyTorch) {
  check_reference(position_case({3, 5, 9}, false), fixtures, "pos_embed");
  check_reference(position_case({3, 5, 9}, true), fixtures, "class_token");
}

TEST(AddPositionKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  for (bool with_class_token : {false, true}) {
    for (const Shape& shape :
         {Shape{1, 1, 8}, Shape{33, 7, 33}, Shape{2, 196, 40}, Shape{70, 2, 48}}) {
      check_kernels(position_case(shape, with_class_token));
    }
  }
}

// x into two embeddings with parameters in common; the gradients of all of them add up.
TEST(AddPosition, AddsToGradientsThatAreThere) {
  for (bool with_class_token : {false, true}) {
    OpCase twice = position_case({3, 4, 8}, with_class_token);
    const auto declare = twice.declare;
    const auto embed = twice.run;
    twice.declare = [=](Parameters& p) {
      declare(p);
      p.add("mix", {8, 8}, Init::gaussian(1));
    };
    twice.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
      const Tensor a = embed(tape, x, p), b = embed(tape, x, p);
      return linear(tape, b, p.find("mix"), nullptr, &a);
    };
    check_gradients(twice);
    std::string why;
    if (is_available(kernel_device, &why)) check_kernels(twice);
  }
}

TEST(AddPosition, GivesTheSameBitsForAnyNumberOfThreads) {
  const OpCase op = position_case({70, 5, 9}, true);
  const Values values = draw_values(op, 8);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Outcome one = run_op(op, Device::cpu, DType::f32, values);
  for (int threads : {2, 3, 7}) {
    omp_set_num_threads(threads);
    const Outcome many = run_op(op, Device::cpu, DType::f32, values);
    EXPECT_EQ(many.y, one.y) << threads << " threads";
    EXPECT_EQ(many.input_gradients, one.input_gradients) << threads << " threads";
    EXPECT_EQ(many.parameter_gradients, one.parameter_gradients) << threads << " threads";
  }
  omp_set_num_threads(before);
}

TEST(AddPosition, RefusesShapesThatDoNotFit) {
  Parameters p;
  const Parameter& position = p.add("pos_embed", {1, 5, 6}, Init::ones());
  const Parameter& class_token = p.add("cls_token", {1, 1, 6}, Init::ones());
  const Parameter& narrow = p.add("narrow", {1, 1, 4}, Init::ones());
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  const auto message = [&](Shape x, const Parameter* token) {
    return message_of([&] { add_position(tape, tape.empty(x), token, position); });
  };
  EXPECT_EQ(message({2, 5, 6}, nullptr), "no error");
  EXPECT_EQ(message({2, 4, 6}, &class_token), "no error");
  EXPECT_EQ(message({2, 5, 6}, &class_token),
            "add_position: pos_embed (1, 5, 6) does not fit 6 tokens of 6 channels");
  EXPECT_EQ(message({2, 4, 6}, &narrow),
            "add_position: class token narrow has 4 elements for 6 channels");
  EXPECT_EQ(message({10, 6}, nullptr), "add_position: x is (B, T, C), not (10, 6)");
}

}  // namespace
}  // namespace dyt::test
