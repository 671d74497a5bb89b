// dyt forward and dyt backward, on the tiny models of tests/reference/.
#include "core/safetensors.h"
#include "tests/cli/cli.h"
#include "tests/models/tiny_models.h"

namespace dyt::test {
namespace {

class CliWindow : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    if (IsSkipped()) return;
    fixture_ = read_safetensors(reference_folder() + "/vit_dyt.safetensors");
    write_safetensors(folder_ / "weights", weights_of(fixture_));
    for (const char* name : {"images", "labels"}) input_.tensors[name] = fixture_.at(name);
    write_safetensors(folder_ / "input", input_);
    kept_ = {"weights", "input", "spoiled"};
  }

  TensorFile fixture_, input_;
  const std::string tiny_ = "vit --norm dyt --image-size 16 --width 32 --depth 2 --heads 2 ";
  const std::string files_ = "--init weights --input input --output out ";
};

TEST_F(CliWindow, ForwardAndBackwardGiveTimmsNumbers) {
  const Ran forward = dyt("forward " + tiny_ + files_ + "--activations --device cpu");
  ASSERT_EQ(forward.status, 0) << forward.error;
  EXPECT_EQ(forward.out, "out: 11 tensors, logits [3, 10]\n");
  TensorFile result = read_safetensors(folder_ / "out");
  expect_close(result.doubles("logits"), fixture_.doubles("logits"), 1e-5, "logits");
  EXPECT_EQ(result.at("blocks.0.norm1.input").shape, (std::vector<int64_t>{3, 16, 32}));

  const Ran backward = dyt("backward " + tiny_ + files_ + "--dtype f64 --device cpu --eval");
  ASSERT_EQ(backward.status, 0) << backward.error;
  result = read_safetensors(folder_ / "out");
  EXPECT_EQ(result.at("loss").type, StoredType::F64);
  for (const auto& [name, tensor] : fixture_.tensors) {
    if (!name.starts_with("grad.")) continue;
    expect_close(result.doubles(name), fixture_.doubles(name), 1e-6, name);
  }
}

TEST_F(CliWindow, WeightsOfASeedCanBeKept) {
  const std::string random = "forward " + tiny_ + "--input input --device cpu --seed 3 ";
  ASSERT_EQ(dyt(random + "--output a --save-weights made").status, 0);
  ASSERT_EQ(dyt("forward " + tiny_ + "--input input --init made --output b --device cpu").status,
            0);
  EXPECT_EQ(slurp(folder_ / "a"), slurp(folder_ / "b"));
}

TEST_F(CliWindow, RefusesBadUsageWithStatus2) {
  expect_refusal("forward", 2, "MODEL");
  expect_refusal("forward vit", 2, "--input");
  expect_refusal("forward vit --input input --output out --dtype f16", 2, "f16");
  expect_refusal("forward vit --input input --output out --eval", 2, "--eval");
  expect_refusal("backward vit --input input --output out --heads 0", 2, "--heads");
}

TEST_F(CliWindow, RefusesWhatItCannotComputeWithStatus1) {
  const std::string files = "--input input --output out --device cpu ";
  expect_refusal("forward alexnet " + files, 1, "unknown model 'alexnet'");
  expect_refusal("forward resnet --heads 3 " + files, 1, "resnet20 has no heads to choose");
  expect_refusal("forward gpt " + files, 1, "no tensor \"tokens\"");
  expect_refusal("forward vit " + files, 1, "images is [3, 3, 16, 16], where vit_micro takes");
  expect_refusal("forward " + tiny_ + files + "--ema", 1, "--ema needs a checkpoint");
  expect_refusal("forward " + tiny_ + "--input nothing --output out", 1, "no such file");
  expect_refusal("forward " + tiny_ + "--input input --output no/out", 1, "no folder");
  expect_refusal("forward vit --image-size 16 --norm dyt --width 64 --depth 2 --heads 2 " + files_,
                 1, "weights has other shapes: pos_embed is [1, 16, 32] instead of [1, 16, 64]");
  expect_refusal("backward " + tiny_ + files_ + "--classes 5 ", 1, "head.weight is [10, 32]");
  expect_refusal("forward " + tiny_ + "--input input --output ./input", 1, "two files at once");
  expect_refusal("forward " + tiny_ + files + "--save-weights out", 1, "two files at once");
}

// What a crash, a bad disk or a forger leaves.
TEST_F(CliWindow, RefusesSpoiledFiles) {
  const std::string whole = slurp(folder_ / "weights");
  const auto expect_spoiled = [&](const std::string& bytes, const std::string& words) {
    std::ofstream(folder_ / "spoiled", std::ios::binary) << bytes;
    const std::string spoiled_weights = "--init spoiled --input input --output out";
    expect_refusal("forward " + tiny_ + spoiled_weights, 1, words);
    const std::string spoiled_input = "--init weights --input spoiled --output out";
    expect_refusal("backward " + tiny_ + spoiled_input, 1, words);
  };
  expect_spoiled("", "too short for a safetensors file");
  expect_spoiled("hello, this is text", "not a safetensors file");
  expect_spoiled(whole.substr(0, whole.size() - 100), "truncated");
  expect_spoiled(whole.substr(0, 200), "the file is truncated");
  std::string lying = whole;
  const size_t at = lying.find("[32]");
  ASSERT_NE(at, std::string::npos);
  lying.replace(at, 4, "[99]");
  expect_spoiled(lying, "but its data_offsets are");
  lying = whole;
  lying[7] = '\x70';
  expect_spoiled(lying, "the header claims");
}

}  // namespace
}  // namespace dyt::test
