// dyt train, sample, predict and export, as a person uses them.
#include <fcntl.h>
#include <signal.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "core/safetensors.h"
#include "tests/cli/cli.h"

namespace dyt::test {
namespace {

class TrainCli : public Cli {
 protected:
  static constexpr const char* small_vit =
      "train vit --width 16 --depth 1 --heads 1 --patch 8 --train-images 64 --test-images 20 "
      "--batch 16 --steps 12 --evaluate-every 3 --ema 0.9 ";
  static constexpr const char* small_gpt =
      "train gpt --width 16 --depth 1 --heads 1 --context 16 --data grammar:4000 --batch 4 "
      "--steps 8 --evaluate-every 4 ";
  void expect_fine(const std::string& arguments) {
    const Ran ran = dyt(arguments);
    EXPECT_EQ(ran.status, 0) << arguments << "\n" << ran.error;
  }
};

// Everything that two checkpoints say of the course of a run, but for the time it took.
void expect_same_checkpoint(const fs::path& a_path, const fs::path& b_path) {
  const TensorFile a = read_safetensors(a_path), b = read_safetensors(b_path);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    EXPECT_EQ(tensor.bytes, b.at(name).bytes) << name;
  }
  auto state_a = nlohmann::json::parse(a.metadata.at("dyt.state"));
  auto state_b = nlohmann::json::parse(b.metadata.at("dyt.state"));
  state_a.erase("seconds"), state_b.erase("seconds");
  EXPECT_EQ(state_a, state_b);
}

// Starts dyt, kills it after some milliseconds, and says whether it was still running.
bool start_and_kill(const fs::path& binary, const fs::path& folder, const std::string& arguments,
                    int milliseconds) {
  const pid_t child = fork();
  if (child == 0) {
    if (chdir(folder.c_str()) != 0) _exit(126);
    const int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, 1), dup2(nowhere, 2);
    execl("/bin/sh", "sh", "-c", ("exec " + binary.string() + " " + arguments).c_str(), nullptr);
    _exit(127);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status);
}

// Killed again and again, at whatever moment, a run ends with the bits of one that wasn't.
TEST_F(TrainCli, SurvivesKillsAtAnyMoment) {
  const std::string once =
      "train vit --width 16 --depth 1 --heads 1 --patch 8 --train-images 64 --test-images 20 "
      "--batch 16 --steps 60 --evaluate-every 3 --ema 0.9 --save-every 1 ";
  expect_fine(once + "--save whole.st");
  int kills = 0;
  for (int attempt = 0; attempt < 40; ++attempt) {
    const bool begun = fs::exists(folder_ / "killed.st");
    const std::string resume = begun ? "--resume killed.st " : "";
    if (!start_and_kill(binary_, folder_, once + resume + "--save killed.st",
                        30 + 37 * (attempt % 7))) {
      break;  // it was quicker
    }
    ++kills;
    if (fs::exists(folder_ / "killed.st")) read_safetensors(folder_ / "killed.st");  // whole
  }
  EXPECT_GT(kills, 0);
  expect_fine(once + (fs::exists(folder_ / "killed.st") ? "--resume killed.st " : "") +
              "--save killed.st");
  expect_same_checkpoint(folder_ / "whole.st", folder_ / "killed.st");
}

TEST_F(TrainCli, WritesMetricsCheckpointAndCurves) {
  const Ran ran = dyt(std::string(small_vit) + "--save run.st --out run --plot");
  ASSERT_EQ(ran.status, 0) << ran.error;
  std::ifstream log(folder_ / "run/metrics.jsonl");
  std::string line;
  std::vector<nlohmann::json> lines;
  while (std::getline(log, line)) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[3]["step"], 12);
  for (const char* key : {"train_loss", "test_loss", "average_loss"}) {
    EXPECT_NEAR(lines[0][key].get<double>(), std::log(10), 0.7) << key;
  }
  EXPECT_GE(lines[3]["test_accuracy"].get<double>(), 0);
  if (std::system("command -v gnuplot > /dev/null") == 0) {
    EXPECT_NE(slurp(folder_ / "run/loss.svg").find("<svg"), std::string::npos);
    EXPECT_NE(slurp(folder_ / "run/accuracy.svg").find("<svg"), std::string::npos);
  }
  // Going on after the end changes nothing, and writes the log again.
  fs::remove(folder_ / "run/metrics.jsonl");
  expect_fine(std::string(small_vit) + "--resume run.st --out run");
  EXPECT_TRUE(fs::exists(folder_ / "run/metrics.jsonl"));
}

TEST_F(TrainCli, TrainsEveryKindOfModel) {
  const std::string few = " --train-images 16 --test-images 8 --batch 8 --steps 2";
  expect_fine("train convnext --width 8" + few);
  expect_fine("train resnet20 --width 4" + few);
  expect_fine("train vgg" + few);
  expect_fine("train resnet20 --width 4 --recipe paper --accumulate 2" + few);
  expect_fine(
      "train llama --width 32 --depth 1 --heads 2 --kv-heads 1 --context 16 --norm dyt "
      "--data grammar:4000 --batch 4 --steps 2");
}

// A checkpoint says that alpha was measured, and only a run that says so too goes on from it.
TEST_F(TrainCli, MeasuresAlphaInTheFirstBatch) {
  const std::string vit = std::string(small_vit) + "--norm dyt --alpha0 auto ";
  expect_fine(vit + "--save whole.st");
  const TensorFile file = read_safetensors(folder_ / "whole.st");
  EXPECT_EQ(nlohmann::json::parse(file.metadata.at("dyt.model"))["alpha0"], "auto");
  expect_fine(vit + "--resume whole.st");
  kept_ = {"whole.st"};
  expect_refusal(std::string(small_vit) + "--norm dyt --resume whole.st", 1, "another model");
  expect_refusal(vit + "--init whole.st", 1, "--alpha0 auto");
  expect_refusal("train vit --norm dyt --alpha0 automatic", 2, "--alpha0");
  expect_refusal("train vit --alpha0 auto", 1, "no alpha");
}

TEST_F(TrainCli, SamplesFromWhatItTrained) {
  expect_fine(std::string(small_gpt) + "--save gpt.st");
  const Ran a = dyt("sample gpt.st --prompt abc --length 30 --seed 4");
  EXPECT_EQ(a.status, 0) << a.error;
  EXPECT_EQ(a.out.size(), 3u + 30 + 1);
  EXPECT_EQ(a.out.substr(0, 3), "abc");
  EXPECT_EQ(dyt("sample gpt.st --prompt abc --length 30 --seed 4 --no-cache").out, a.out);
  EXPECT_NE(dyt("sample gpt.st --prompt abc --length 30 --seed 5").out, a.out);
  kept_ = {"gpt.st"};
  expect_refusal("sample gpt.st --prompt ''", 1, "empty");
  expect_refusal("sample gpt.st --tokens 300", 1, "token 300");
  expect_refusal("sample gpt.st --ema", 1, "no averaged weights");
  expect_refusal("predict gpt.st x.jpg", 1, "dyt sample");
  expect_refusal("sample missing.st", 1, "missing.st");
}

// A 2 x 2 BMP of one colour.
std::string bmp(unsigned char red) {
  std::string file("BM", 2);
  const auto number = [&](uint32_t v) {
    for (int i = 0; i < 4; ++i) file += char(v >> (8 * i) & 255);
  };
  number(70), number(0), number(54), number(40), number(2), number(2);
  file += std::string("\1\0\30\0", 4);
  number(0), number(16), number(0), number(0), number(0), number(0);
  for (int row = 0; row < 2; ++row) {
    for (int column = 0; column < 2; ++column) file += {'\0', '\0', char(red)};
    file += std::string(2, '\0');
  }
  return file;
}

TEST_F(TrainCli, PredictsWithWhatItTrained) {
  expect_fine(std::string(small_vit) + "--save vit.st");
  std::ofstream(folder_ / "red.bmp", std::ios::binary) << bmp(200);
  std::ofstream(folder_ / "broken.jpg") << "no image";
  kept_ = {"vit.st", "red.bmp", "broken.jpg"};
  const Ran ran = dyt("predict vit.st red.bmp broken.jpg --top 10");
  EXPECT_EQ(ran.status, 0) << ran.error;
  EXPECT_EQ(ran.out.substr(0, 9), "red.bmp: ");
  EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '%'), 10);
  EXPECT_NE(ran.error.find("broken.jpg"), std::string::npos);
  EXPECT_NE(ran.error.find("1 of 2"), std::string::npos);
  EXPECT_NE(dyt("predict vit.st red.bmp --ema").out, "");
  expect_refusal("predict vit.st broken.jpg red.bmp --strict", 1, "broken.jpg");
  expect_refusal("sample vit.st", 1, "dyt predict");
}

TEST_F(TrainCli, NamesImagesThatCannotBeDecoded) {
  for (const char* split : {"train", "val"}) {
    for (const char* name : {"a", "b"}) {
      const fs::path of_class = folder_ / "set" / split / name;
      fs::create_directories(of_class);
      for (int i = 0; i < 4; ++i) {
        std::ofstream(of_class / (std::to_string(i) + ".bmp"), std::ios::binary) << bmp(50 * i);
      }
    }
  }
  std::ofstream(folder_ / "set/train/a/broken.jpg") << "no image";
  const std::string train =
      "train vit --width 16 --depth 1 --heads 1 --patch 2 --data folder:set "
      "--batch 4 --steps 2";
  for (const char* size : {"", " --image-size 4"}) {  // in memory; from the files
    const Ran ran = dyt(train + size);
    EXPECT_EQ(ran.status, 0) << ran.error;
    EXPECT_NE(ran.out.find("1 file left out"), std::string::npos) << ran.out;
    EXPECT_NE(ran.out.find("broken.jpg"), std::string::npos) << ran.out;
  }
  kept_ = {"set"};
  expect_refusal(train + " --strict", 1, "broken.jpg");
  const Ran strict = dyt(train + " --strict --image-size 4");  // found out while it trains
  EXPECT_EQ(strict.status, 1);
  EXPECT_NE(strict.error.find("broken.jpg"), std::string::npos) << strict.error;
}

TEST_F(TrainCli, ExportsWeightsAlone) {
  expect_fine(std::string(small_vit) + "--save vit.st");
  expect_fine("export vit.st plain.st");
  expect_fine("export vit.st average.st --ema");
  const TensorFile whole = read_safetensors(folder_ / "vit.st");
  const TensorFile plain = read_safetensors(folder_ / "plain.st");
  const TensorFile average = read_safetensors(folder_ / "average.st");
  EXPECT_EQ(plain.tensors.size(), average.tensors.size());
  for (const auto& [name, tensor] : plain.tensors) {
    EXPECT_EQ(tensor.bytes, whole.at(name).bytes) << name;
    EXPECT_EQ(average.at(name).bytes, whole.at("ema." + name).bytes) << name;
  }
  EXPECT_EQ(4 * plain.tensors.size(), whole.tensors.size());  // m, v, ema
  expect_fine(std::string(small_vit) + "--init plain.st");
}

TEST_F(TrainCli, TrainsWithSgd) {
  const std::string run =
      "train resnet20 --train-images 64 --test-images 20 --batch 16 --steps 6 "
      "--optimizer sgd --momentum 0.8 --save sgd.st ";
  expect_fine(run);
  kept_ = {"sgd.st"};
  const TensorFile whole = read_safetensors(folder_ / "sgd.st");
  EXPECT_TRUE(whole.contains("optimizer.velocity.conv1.weight"));
  expect_fine(run + "--resume sgd.st");
  expect_refusal(
      "train resnet20 --train-images 64 --test-images 20 --batch 16 --steps 6 "
      "--optimizer sgd --resume sgd.st",
      1, "momentum is 0.89999");
  expect_fine("export sgd.st plain.st");
}

TEST_F(TrainCli, RefusesWhatCannotBe) {
  const std::string vit = small_vit, gpt = small_gpt;
  expect_fine(vit + "--device cpu --precision f32 --save vit.st");
  kept_ = {"vit.st"};
  expect_refusal(vit + "--device cpu --precision f32 --resume vit.st --lr 0.1", 1, "another run");
  expect_refusal(vit + "--device cpu --precision bf16 --resume vit.st", 1, "another run");
  expect_refusal(vit + "--precision fp8", 2, "fp8");
  expect_refusal(gpt + "--resume vit.st", 1, "another model");
  expect_refusal("train resnet20 --train-images 64 --test-images 20 --batch 16 --init vit.st", 1,
                 "conv1.weight");
  expect_refusal(vit + "--init missing.st", 1, "missing.st");
  expect_refusal(vit + "--plot", 1, "--out");
  // What can't be written is said at once, and not after the training.
  expect_refusal(vit + "--save no/vit.st", 1, "there is no folder");
  expect_refusal(vit + "--save /proc/vit.st", 1, "cannot write /proc/vit.st");
  expect_refusal(vit + "--save ..", 1, "not a regular file");
  expect_refusal(vit + "--accumulate 3", 1, "3 equal parts");
  expect_refusal(vit + "--optimizer sgd --resume vit.st", 1, "another run");
  expect_refusal(vit + "--optimizer sgd --clip 1", 1, "--clip goes with AdamW");
  expect_refusal(vit + "--optimizer sgd --beta2 0.9", 1, "--beta2 is AdamW's");
  expect_refusal(vit + "--momentum 0.5", 1, "--momentum is SGD's");
  expect_refusal(vit + "--optimizer lion", 2, "lion");
  expect_refusal(gpt + "--recipe paper", 1, "recipes are for images");
  expect_refusal("train gpt --data text:missing.txt", 1, "missing.txt");
  expect_refusal("train nothing", 1, "unknown model");
  std::ofstream(folder_ / "short.txt") << "too short";
  kept_.insert("short.txt");
  expect_refusal("train gpt --data text:short.txt", 1, "short.txt");
  fs::create_directories(folder_ / "empty/train");
  kept_.insert("empty");
  expect_refusal("train vit --data folder:empty", 1, "empty");
  fs::resize_file(folder_ / "vit.st", 1000);
  expect_refusal(vit + "--resume vit.st", 1, "vit.st");
}

}  // namespace
}  // namespace dyt::test
