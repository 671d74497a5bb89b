// dyt bench: what it says, not how fast things are.
#include <nlohmann/json.hpp>
#include <vector>

#include "tests/cli/cli.h"

namespace dyt::test {
namespace {

using nlohmann::json;

std::vector<json> lines_of(const std::string& text) {
  std::vector<json> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

// layernorm of 16 x 8 numbers of f32: x read and y written, mean and rstd of each row; backward dy,
// x and the statistics read, dx written. Each rung of a ladder is measured by the same work.
TEST_F(Cli, BenchKernelsGivesTheWorkOfEachRungAndWhatPartOfACopyItReaches) {
  const Ran ran =
      dyt("bench kernels layernorm --device cpu --rows 16 --channels 8 --seconds 0 --json");
  ASSERT_EQ(ran.status, 0) << ran.error;
  EXPECT_NE(ran.error.find("unfused"), std::string::npos) << ran.error;  // the table
  const std::vector<json> lines = lines_of(ran.out);
  ASSERT_EQ(lines.size(), 1u + 2 * 2 + 1);
  EXPECT_EQ(lines[0].at("device"), "cpu");
  const double copy = lines[0].at("copy_bytes_per_s");
  EXPECT_GT(copy, 0);
  EXPECT_GT(lines[0].at("product_flops_per_s"), 0);
  // With the residual added on the way: two more tensors go by.
  EXPECT_EQ(lines[5].at("rung"), "x + f, fused");
  EXPECT_EQ(lines[5].at("bytes"), 4 * 16 * 8 * 4 + 16 * 8);
  for (size_t i = 1; i < 5; ++i) {
    const json& row = lines[i];
    const bool forward = i % 2 == 1;
    EXPECT_EQ(row.at("kernel"), "layernorm");
    EXPECT_EQ(row.at("rung"), i < 3 ? "fused" : "unfused");
    EXPECT_EQ(row.at("direction"), forward ? "forward" : "backward");
    EXPECT_EQ(row.at("shape"), json::parse("[16, 8]"));
    EXPECT_EQ(row.at("bytes"), (forward ? 2 : 3) * 16 * 8 * 4 + 16 * 8);
    const double seconds = row.at("seconds");
    EXPECT_GT(seconds, 0);
    EXPECT_NEAR(double(row.at("share")) * copy * seconds, double(row.at("bytes")), 1e-3);
    EXPECT_EQ(row.at("share_of"), "copy");
    EXPECT_GT(row.at("share_of_equal_copy"), 0);
  }
}

// What it counts is tested in tests/bench/accesses_test.cpp, in a build that can.
TEST_F(Cli, BenchAccessesSaysWhichBuildItNeeds) {
  const Ran ran = dyt("bench accesses layernorm");
  EXPECT_NE(ran.status, 0);
  EXPECT_NE(ran.error.find("SANITIZE=thread"), std::string::npos) << ran.error;
  EXPECT_EQ(ran.out, "");
}

TEST_F(Cli, BenchKernelsMeasuresProductsByALargeProduct) {
  const Ran ran =
      dyt("bench kernels attention --device cpu --rows 32 --channels 64 --tokens 16 --seconds 0 "
          "--json");
  ASSERT_EQ(ran.status, 0) << ran.error;
  const std::vector<json> lines = lines_of(ran.out);
  ASSERT_GT(lines.size(), 4u);
  // 2 texts, 1 head of 64: two products of 2 x 16 x 16 x 64 each; backward five.
  EXPECT_EQ(lines[1].at("flops"), 2 * 2 * 2 * 16 * 16 * 64);
  EXPECT_EQ(lines[2].at("flops"), 5 * 2 * 2 * 16 * 16 * 64);
  EXPECT_EQ(lines[3].at("flops"), 2 * 16 * 16 * 64 * 2);  // causal: half
  EXPECT_EQ(lines[1].at("share_of"), "product");
  EXPECT_FALSE(lines[1].contains("share_of_equal_copy"));
}

TEST_F(Cli, BenchKernelsRefusesAKernelThatIsNotThere) {
  expect_refusal("bench kernels gelu --seconds nan", 2, "nan is not a");
  expect_refusal("bench kernels frobnicate --device cpu", 1, "layernorm");
  expect_refusal("bench kernels --rows 0", 2, "--rows");
}

TEST_F(Cli, BenchTrainTellsStepsMemoryAndModelFlopUse) {
  const Ran ran = dyt("bench train vit_micro --device cpu --batch 2 --steps 3 --json");
  ASSERT_EQ(ran.status, 0) << ran.error;
  const std::vector<json> lines = lines_of(ran.out);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].at("ready"), true);
  EXPECT_EQ(lines[0].at("batch"), 2);
  const double parameters = lines[0].at("parameters");
  EXPECT_EQ(lines[1].at("seconds_per_step").size(), 3u);
  // f32: weights, gradients and two moments, and the activations.
  EXPECT_GT(lines[1].at("peak_memory_bytes"), 16 * parameters);
  const double seconds = lines[1].at("median"), flops = lines[1].at("flops_per_step");
  EXPECT_NEAR(double(lines[1].at("model_flop_use")) * double(lines[1].at("product_flops_per_s")),
              flops / seconds, 1e-6 * flops / seconds);
  EXPECT_NEAR(double(lines[1].at("images_per_s")) * seconds, 2, 1e-9);
}

TEST_F(Cli, BenchTrainTakesAPrecision) {
  const Ran ran =
      dyt("bench train vit_micro --device cpu --precision bf16 --batch 2 --steps 1 --json");
  ASSERT_EQ(ran.status, 0) << ran.error;
  EXPECT_EQ(lines_of(ran.out)[0].at("dtype"), "bf16");
  expect_refusal("bench train vit_micro --device cpu --precision fp8", 2, "fp8");
}

TEST_F(Cli, BenchTrainByTurnsMeasuresOnlyWhenAsked) {
  const Ran ran = dyt("bench train vit_micro --device cpu --batch 1 --steps 1 --json --by-turns");
  EXPECT_EQ(ran.status, 0) << ran.error;
  EXPECT_EQ(lines_of(ran.out).size(), 1u) << ran.out;  // ready; stdin is empty
}

}  // namespace
}  // namespace dyt::test
