#include <gtest/gtest.h>

#include <cmath>

#include "core/philox.h"
#include "core/safetensors.h"
#include "layers/layers.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

struct Table {
  int64_t B, T, V, C;
  bool position = true, scale = false;
  int64_t first = 0;
};

// Tokens drawn from a vocabulary, the smaller ones more often.
std::vector<int32_t> draw_tokens(const Table& s) {
  RandomSequence random(5, 5);
  std::vector<int32_t> tokens(size_t(s.B * s.T));
  for (int32_t& t : tokens)
    t = int32_t(std::min(random.below(uint32_t(s.V)), random.below(uint32_t(s.V))));
  return tokens;
}

OpCase embedding_case(const std::string& name, const Table& s, const std::vector<int32_t>& tokens) {
  return {.name = name,
          .inputs = {},
          .declare =
              [=](Parameters& p) {
                p.add("weight", {s.V, s.C}, Init::gaussian(1));
                if (s.position) p.add("position", {s.first + s.T + 3, s.C}, Init::gaussian(1));
                if (s.scale) p.add("scale", {1}, Init::fill(2.4));
              },
          .run =
              [=](Tape& tape, const std::vector<Tensor>&, Parameters& p) {
                return token_embedding(tape, tape.upload({s.B, s.T}, DType::i32, tokens.data()),
                                       p.find("weight"), s.position ? &p.find("position") : nullptr,
                                       s.scale ? &p.find("scale") : nullptr, s.first);
              }};
}

OpCase embedding_case(const std::string& name, const Table& s) {
  return embedding_case(name, s, draw_tokens(s));
}

TEST(TokenEmbedding, GradientsAgreeWithFiniteDifferences) {
  check_gradients(embedding_case("plain", {2, 5, 4, 3, false}));
  check_gradients(embedding_case("with position and scale", {3, 4, 5, 6, true, true, 2}));
}

TEST(TokenEmbedding, AgreesWithPyTorch) {
  const std::string file = "layers2.safetensors";
  const TensorFile fixture = read_safetensors(reference_folder() + "/" + file);
  const auto check = [&](const std::string& prefix, bool position, bool scale) {
    const std::vector<int64_t> wide = fixture.integers(prefix + "/tokens");
    const std::vector<int32_t> tokens(wide.begin(), wide.end());
    check_reference(embedding_case(prefix, {2, 5, 11, 6, position, scale}, tokens), file, prefix,
                    {});
  };
  check("token_embedding", false, false);
  check("token_position_embedding", true, false);
  check("scaled_token_embedding", false, true);
}

TEST(TokenEmbeddingKernels, AgreeWithTheCpuAtAwkwardShapes) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(embedding_case("one row", {1, 1, 5, 8}));
  check_kernels(embedding_case("odd width", {3, 7, 11, 33, true, true}));
  check_kernels(embedding_case("runs over many parts", {2, 197, 3, 40, true, true, 4}));
  check_kernels(embedding_case("wide", {2, 33, 300, 520}));
}

// More rows than a tile of the sort holds: its steps in device memory are needed, too.
TEST(TokenEmbeddingKernels, SortManyRows) {
  SKIP_WITHOUT_KERNELS();
  check_kernels(embedding_case("many rows", {17, 250, 400, 8}));
}

// Both uses of the table are in its gradient.
TEST(TokenEmbedding, GradientsOfTwoUsesAddUp) {
  const Table s{2, 3, 4, 5};
  const OpCase once = embedding_case("once", s);
  OpCase twice = once;
  twice.run = [run = once.run](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    const Tensor a = run(tape, x, p);
    return residual_add(tape, a, run(tape, x, p));
  };
  const Values values = draw_values(once, 3);
  const Outcome one = run_op(once, Device::cpu, DType::f64, values);
  const Outcome two = run_op(twice, Device::cpu, DType::f64, values);
  for (const auto& [name, gradient] : one.parameter_gradients) {
    std::vector<double> doubled = gradient;
    for (double& v : doubled) v *= 2;
    expect_close(two.parameter_gradients.at(name), doubled, 1e-12, name);
  }
}

std::string message_of(const Table& s, const std::vector<int32_t>& tokens, int64_t positions) {
  Parameters p;
  Parameter& weight = p.add("wte", {s.V, s.C}, Init::ones());
  Parameter& position = p.add("wpe", {positions, s.C}, Init::ones());
  p.allocate(Device::cpu, DType::f32, 0);
  Tape tape(Device::cpu, DType::f32);
  try {
    token_embedding(tape, tape.upload({s.B, s.T}, DType::i32, tokens.data()), weight, &position);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(TokenEmbedding, RefusesUnknownTokensAndTooLongTexts) {
  EXPECT_EQ(message_of({1, 3, 4, 2}, {0, 3, 1}, 3), "no error");
  for (int32_t bad : {4, -1}) {
    EXPECT_NE(
        message_of({1, 3, 4, 2}, {0, bad, 1}, 3)
            .find("token 1 of the batch is " + std::to_string(bad) + ", but the vocabulary has 4"),
        std::string::npos);
  }
  EXPECT_NE(message_of({1, 3, 4, 2}, {0, 3, 1}, 2).find("wpe (2, 2) has no row"),
            std::string::npos);
}

// A kernel can't throw: the row of an unknown token becomes NaN, and no memory is touched that
// isn't the table's.
TEST(TokenEmbeddingKernels, MakeAnUnknownTokensRowNaN) {
  SKIP_WITHOUT_KERNELS();
  Parameters p;
  Parameter& weight = p.add("weight", {4, 8}, Init::ones());
  p.allocate(kernel_device, DType::f32, 0);
  Tape tape(kernel_device, DType::f32);
  const std::vector<int32_t> tokens = {3, 4, -1, 3};
  const Tensor y = token_embedding(tape, tape.upload({1, 4}, DType::i32, tokens.data()), weight);
  const std::vector<double> values = to_host(tape, y);
  for (int64_t i = 0; i < 32; ++i) {
    EXPECT_EQ(std::isnan(values[size_t(i)]), i / 8 == 1 || i / 8 == 2) << i;
  }
  tape.backward(y, std::vector<float>(32, 1.0f).data());
  std::vector<double> expected(32, 0.0);
  for (int64_t i = 24; i < 32; ++i) expected[size_t(i)] = 2;
  EXPECT_EQ(p.gradient(weight), expected);
}

}  // namespace
}  // namespace dyt::test
