// dyt train, sample, predict and export, as a person uses them.
#include <fcntl.h>
#include <signal.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "commands/saved_model.h"
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
std::string bmp(int red, int green = 0, int blue = 0) {
  std::string file("BM", 2);
  const auto number = [&](uint32_t v) {
    for (int i = 0; i < 4; ++i) file += char(v >> (8 * i) & 255);
  };
  number(70), number(0), number(54), number(40), number(2), number(2);
  file += std::string("\1\0\30\0", 4);
  number(0), number(16), number(0), number(0), number(0), number(0);
  for (int row = 0; row < 2; ++row) {
    for (int column = 0; column < 2; ++column) file += {char(blue), char(green), char(red)};
    file += std::string(2, '\0');
  }
  return file;
}

// The share of the likeliest class, computed here from the weights and from the mean and deviation
// that the checkpoint has of its data.
TEST_F(TrainCli, PredictsWhatTheModelSays) {
  expect_fine(std::string(small_vit) + "--lr 0.02 --save vit.st");
  std::ofstream(folder_ / "red.bmp", std::ios::binary) << bmp(200);
  const SavedModel saved = load_saved_model(folder_ / "vit.st", false, Device::cpu);
  const auto data = nlohmann::json::parse(saved.metadata.at("dyt.data"));
  std::vector<float> pixels;
  for (int i = 0; i < 32 * 32 * 3; ++i) {
    const double v = i % 3 == 0 ? 200 / 255.0 : 0;
    pixels.push_back(
        float((v - data.at("mean")[i % 3].get<double>()) / data.at("std")[i % 3].get<double>()));
  }
  Tape tape(Device::cpu, DType::f32);
  tape.training = false;
  const std::vector<float> logits = host_floats(
      tape, saved.model->forward(tape, tape.upload({1, 32, 32, 3}, DType::f32, pixels.data())));
  const auto top = std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float l : logits) sum += std::exp(double(l - *top));
  char share[32];
  std::snprintf(share, sizeof share, " %.1f %%", 100 / sum);
  const std::string name = data.at("classes")[size_t(top - logits.begin())];
  EXPECT_EQ(dyt("predict vit.st red.bmp --top 1").out, "red.bmp: " + name + share + "\n");
}

// A model of one channel sees the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, rounded: a
// colour is to it what this grey is, and no other grey. It has learned to tell greys apart from
// images in MNIST's format, of 8 x 8 pixels of one value each.
TEST_F(TrainCli, PredictsColoursByTheirBrightness) {
  const auto write = [&](const std::string& name, char dimensions, const std::string& bytes) {
    std::string file = {0, 0, 8, dimensions, 0, 0, 0, 100};
    if (dimensions == 3) file += {0, 0, 0, 8, 0, 0, 0, 8};
    std::ofstream(folder_ / "grey" / name, std::ios::binary) << file << bytes;
  };
  fs::create_directories(folder_ / "grey");
  std::string images, labels;
  for (int n = 0; n < 100; ++n) {
    images.append(8 * 8, char(n * 255 / 99));
    labels += char(n / 10);
  }
  for (const std::string split : {"train", "t10k"}) {
    write(split + "-images-idx3-ubyte", 3, images);
    write(split + "-labels-idx1-ubyte", 1, labels);
  }
  expect_fine(
      "train vit --data mnist:grey --width 16 --depth 1 --heads 1 --patch 8 --batch 20 "
      "--steps 200 --lr 0.02 --save grey.st");
  const auto seen = [&](int red, int green, int blue) {
    std::ofstream(folder_ / "image.bmp", std::ios::binary) << bmp(red, green, blue);
    const Ran ran = dyt("predict grey.st image.bmp --top 10");
    EXPECT_EQ(ran.status, 0) << ran.error;
    return ran.out;
  };
  const auto expect_grey = [&](int red, int green, int blue, int grey) {
    const std::string colour = seen(red, green, blue);
    EXPECT_EQ(colour, seen(grey, grey, grey)) << grey;
    EXPECT_NE(colour, seen(grey - 1, grey - 1, grey - 1)) << grey;
    EXPECT_NE(colour, seen(grey + 1, grey + 1, grey + 1)) << grey;
  };
  expect_grey(255, 0, 0, 76);      // 76.2
  expect_grey(0, 255, 0, 150);     // 149.7
  expect_grey(0, 0, 255, 29);      // 29.1
  expect_grey(200, 100, 50, 124);  // 124.2
}

TEST_F(TrainCli, PredictsWithWhatItTrained) {
  expect_fine(std::string(small_vit) + "--save vit.st");
  std::ofstream(folder_ / "red.bmp", std::ios::binary) << bmp(200);
  std::ofstream(folder_ / "broken.jpg") << "no image";
  fs::create_directories(folder_ / "images");
  kept_ = {"vit.st", "red.bmp", "broken.jpg", "images"};
  const Ran ran = dyt("predict vit.st images red.bmp broken.jpg --top 10");
  EXPECT_EQ(ran.status, 0) << ran.error;
  EXPECT_EQ(ran.out.substr(0, 9), "red.bmp: ");
  EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '%'), 10);
  EXPECT_NE(ran.error.find("broken.jpg"), std::string::npos);
  EXPECT_NE(ran.error.find("2 of 3"), std::string::npos);
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

// By the checkpoint, which is all that a run leaves: VGG numbers its layers as they come, so that
// the names of its norms are those of convolutions in another VGG.
TEST_F(TrainCli, TrainsNormsAlone) {
  const std::string few =
      "train vgg --only norms --train-images 16 --test-images 8 --batch 8 --steps 2 ";
  expect_fine(few + "--lr 1e-12 --save start.st");
  expect_fine(few + "--lr 0.1 --save end.st");
  const TensorFile start = read_safetensors(folder_ / "start.st"),
                   end = read_safetensors(folder_ / "end.st");
  int norms = 0;
  for (const auto& [name, tensor] : start.tensors) {
    if (!name.starts_with("features.") || !name.ends_with(".weight")) continue;
    const bool is_norm = tensor.shape.size() == 1;
    norms += is_norm;
    EXPECT_EQ(tensor.bytes != end.at(name).bytes, is_norm) << name;
  }
  EXPECT_EQ(norms, 8);
}

// A warm-up that nobody asked for leaves four fifths of a run; one that was asked for stands.
TEST_F(TrainCli, WarmUpFitsTheRun) {
  const auto warmup = [&](const std::string& arguments) {
    expect_fine(arguments + " --save run.st");
    const TensorFile file = read_safetensors(folder_ / "run.st");
    return nlohmann::json::parse(file.metadata.at("dyt.run"))["warm-up"].get<std::string>();
  };
  const std::string vit = small_vit;
  EXPECT_EQ(warmup(vit), "2");                     // of half an epoch of 4 steps
  EXPECT_EQ(warmup(vit + "--recipe paper"), "2");  // of 20 epochs; a fifth of 12
  EXPECT_EQ(warmup(vit + "--warmup-epochs 2"), "8");
  EXPECT_EQ(warmup(small_gpt), "1");  // of 100 steps; a fifth of 8
  kept_ = {"run.st"};
  expect_refusal(vit + "--warmup-epochs 3", 1, "warm-up (12 steps) must be shorter");
}

// What the command line says reaches the run: by the checkpoint, which holds what the run was.
TEST_F(TrainCli, OptionsReachTheRun) {
  const auto expect_run = [&](const std::string& arguments,
                              const std::vector<std::pair<std::string, double>>& expected) {
    expect_fine(arguments + " --save run.st");
    const TensorFile file = read_safetensors(folder_ / "run.st");
    const auto run = nlohmann::json::parse(file.metadata.at("dyt.run"));
    for (const auto& [name, value] : expected) {
      EXPECT_NEAR(std::stod(run.at(name).get<std::string>()), value, 1e-6 * value) << name;
    }
  };
  const std::string vit = small_vit;
  expect_run(vit +
                 "--lr 0.01 --weight-decay 0.25 --beta2 0.75 --clip 3 --label-smoothing 0.5 "
                 "--accumulate 2 --seed 9",
             {{"lr", 0.01},
              {"lr floor", 1e-4},  // a hundredth of the peak, as before
              {"weight decay", 0.25},
              {"beta2", 0.75},
              {"clip", 3},
              {"label smoothing", 0.5},
              {"ema", 0.9},
              {"accumulate", 2},
              {"seed", 9}});
  // DyT's ImageNet recipe: 4e-3 for batches of 4,096.
  expect_run(vit + "--recipe paper",
             {{"lr", 4e-3 * 16 / 4096}, {"label smoothing", 0.1}, {"mixup", 0.8}, {"cutmix", 1}});
  expect_run(vit + "--optimizer sgd --lr 0.2 --weight-decay 0.25",
             {{"lr", 0.2}, {"lr floor", 2e-3}, {"weight decay", 0.25}, {"momentum", 0.9}});
}

// Stochastic depth is the recipe's, unless the command line has another.
TEST_F(TrainCli, TheRecipeSetsDropPath) {
  const auto drop_path = [&](const std::string& options) {
    expect_fine(small_vit + options + " --save run.st");
    const TensorFile file = read_safetensors(folder_ / "run.st");
    const auto model = nlohmann::json::parse(file.metadata.at("dyt.model"));
    return model.value("drop_path", 0.0f);
  };
  EXPECT_EQ(drop_path("--recipe plain"), 0);
  EXPECT_FLOAT_EQ(drop_path("--recipe paper"), 0.1f);
  EXPECT_FLOAT_EQ(drop_path("--recipe paper --drop-path 0.2"), 0.2f);
}

// What a recipe does to the images, where all else is the same.
TEST_F(TrainCli, TheRecipeAugments) {
  const auto losses = [&](const std::string& options) {
    expect_fine(small_vit + options + " --label-smoothing 0.1 --save run.st");
    const TensorFile file = read_safetensors(folder_ / "run.st");
    return nlohmann::json::parse(file.metadata.at("dyt.state")).at("curve");
  };
  EXPECT_EQ(losses("--recipe plain"), losses("--recipe plain"));
  EXPECT_NE(losses("--recipe plain"), losses("--recipe cifar"));
}

TEST_F(TrainCli, ThePapersRecipeDoesNotClip) {
  const auto clip = [&](const std::string& options) {
    expect_fine(small_vit + options + " --save run.st");
    const TensorFile file = read_safetensors(folder_ / "run.st");
    return nlohmann::json::parse(file.metadata.at("dyt.run"))["clip"].get<std::string>();
  };
  EXPECT_EQ(clip("--recipe paper"), "0");
  EXPECT_EQ(clip("--recipe paper --clip 2"), "2");
  EXPECT_EQ(clip("--recipe plain"), "1");
}

// Loops and oneDNN divide their work by the threads that they were told of.
TEST_F(TrainCli, FewerThreadsThanAskedForGiveTheSameNumbers) {
  const std::string gpt = small_gpt;
  expect_fine(gpt + "--device cpu --precision f32 --save plain.st");
  for (const char* settings : {"OMP_THREAD_LIMIT=1", "OMP_NUM_THREADS=4 OMP_THREAD_LIMIT=2",
                               "OMP_NUM_THREADS=4 OMP_DYNAMIC=true"}) {
    const Ran ran = dyt(gpt + "--device cpu --precision f32 --save limited.st", settings);
    EXPECT_EQ(ran.status, 0) << ran.error;
    expect_same_checkpoint(folder_ / "plain.st", folder_ / "limited.st");
  }
}

// Whoever goes on after it, a person or a script, has to notice.
TEST_F(TrainCli, ADivergedRunFailsAndLeavesNoMetricsOfAnother) {
  const std::string gpt = std::string(small_gpt) + "--out out --plot --save a.st ";
  expect_fine(gpt);
  EXPECT_NE(slurp(folder_ / "out/metrics.jsonl"), "");
  const Ran ran = dyt(gpt + "--lr 1000 --clip 0");
  EXPECT_EQ(ran.status, 1);
  EXPECT_NE(ran.error.find("diverged at step"), std::string::npos) << ran.error;
  EXPECT_NE(ran.error.find("--save"), std::string::npos) << ran.error;
  EXPECT_EQ(slurp(folder_ / "out/metrics.jsonl"), "");
  EXPECT_FALSE(fs::exists(folder_ / "out/loss.svg"));
}

TEST_F(TrainCli, TakesNamesThatAreNoUtf8) {
  std::ofstream(folder_ / "caf\xe9.txt") << std::string(4000, 'a');
  const std::string gpt =
      "train gpt --width 16 --depth 1 --heads 1 --context 16 --data text:$(ls caf*) --batch 4 "
      "--steps 8 --evaluate-every 4 --save run.st ";
  expect_fine(gpt);
  expect_fine(gpt + "--resume run.st");
}

TEST_F(TrainCli, GoesOnWithTheSameDataOnly) {
  const auto write = [&](char letter) {
    std::ofstream(folder_ / "a.txt") << std::string(4000, letter);
  };
  const std::string gpt =
      "train gpt --width 16 --depth 1 --heads 1 --context 16 --data text:a.txt --batch 4 --steps "
      "8 ";
  write('a');
  expect_fine(gpt + "--save run.st");
  kept_ = {"a.txt", "run.st"};
  write('b');
  expect_refusal(gpt + "--resume run.st", 1, "fingerprint");
  write('a');
  expect_fine(gpt + "--resume run.st");
}

TEST_F(TrainCli, ResumedAtItsEndARunIsStillSaved) {
  expect_fine(std::string(small_vit) + "--save a.st");
  expect_fine(std::string(small_vit) + "--resume a.st --save b.st");
  expect_same_checkpoint(folder_ / "a.st", folder_ / "b.st");
}

TEST_F(TrainCli, BertReadsTokenShards) {
  std::string shard(1024 + 2 * 400, 0);
  const uint32_t header[3] = {20240520, 1, 400};
  std::copy_n(reinterpret_cast<const char*>(header), sizeof header, shard.begin());
  for (size_t i = 0; i < 400; ++i) shard[1024 + 2 * i] = char(i % 50);
  std::ofstream(folder_ / "shard.bin", std::ios::binary) << shard;
  const std::string bert =
      "train bert --width 16 --depth 1 --heads 1 --context 16 --data tokens:shard.bin --batch 4 "
      "--steps 2 ";
  expect_fine(bert + "--vocab 51");
  kept_ = {"shard.bin"};
  expect_refusal(bert + "--vocab 50", 1, "token 49 (counted from 0) is 49");
  expect_refusal(bert + "--vocab 1", 1, "beside the mask");
}

TEST_F(TrainCli, RefusesOptionsThatWouldDoNothing) {
  const std::string vit = small_vit, gpt = small_gpt;
  for (const char* option : {"--label-smoothing 0.5", "--strict", "--train-images 10",
                             "--test-images 10", "--workers 2", "--only norms"}) {
    expect_refusal(gpt + option, 1, "for models that read images");
  }
  expect_refusal(vit + "--image-size 64", 1, "--image-size 64: synthetic has 32");
  expect_refusal(vit + "--classes 3", 1, "--classes 3: synthetic has 10");
  expect_refusal(vit + "--channels 1", 1, "--channels 1: synthetic has 3");
  expect_refusal(vit + "--epochs 2", 2, "--epochs");
  expect_refusal(vit + "--save-every 2", 2, "--save");
  expect_refusal(vit + "--init a.st --resume b.st", 2, "--init");
  expect_refusal(vit + "--norm dyt --no-learn-alpha --alpha0 0.3", 1, "alpha0 has no meaning");
  expect_refusal(vit + "--frozen", 1, "--frozen takes running statistics");
  for (const char* option : {"--lr", "--clip", "--weight-decay", "--ema", "--drop-path"}) {
    expect_refusal(vit + option + " nan", 2, "nan is not a");
  }
  expect_refusal(vit + "--norm dyt --alpha0 1e-50", 2, "1e-50");
  expect_fine(
      "train bert --width 16 --depth 1 --heads 1 --context 16 --data grammar:4000 "
      "--batch 4 --steps 2 --save bert.st");
  kept_ = {"bert.st"};
  expect_refusal("sample bert.st --no-cache", 1, "sees the whole text");
  expect_refusal("sample bert.st --tokens 72,73 --prompt x", 2, "--tokens");
  expect_refusal("export bert.st ./bert.st", 1, "two files at once");
}

TEST_F(TrainCli, RefusesADeepTree) {
  expect_fine(std::string(small_gpt) + "--save gpt.st");
  TensorFile file = read_safetensors(folder_ / "gpt.st");
  file.metadata["dyt.model"] = std::string(1000000, '[') + std::string(1000000, ']');
  write_safetensors(folder_ / "deep.st", file);
  kept_ = {"gpt.st", "deep.st"};
  expect_refusal("sample deep.st", 1, "nested too deeply");
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
