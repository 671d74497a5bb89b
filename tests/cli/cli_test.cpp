#include "tests/cli/cli.h"

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "experiments/registry.h"

namespace dyt::test {
namespace {

TEST_F(Cli, ListNamesExperimentsDoneAndPlanned) {
  const Ran ran = dyt("list");
  EXPECT_EQ(ran.status, 0);
  EXPECT_NE(ran.out.find("03  ViT: LN vs DyT"), std::string::npos) << ran.out;
  for (const Experiment& e : experiments()) {
    EXPECT_NE(ran.out.find(two_digits(e.number) + "  " + e.title), std::string::npos) << ran.out;
  }
}

TEST_F(Cli, InfoNamesDevicesAndLibraries) {
  const Ran ran = dyt("info");
  EXPECT_EQ(ran.status, 0);
  for (const char* word : {"commit", "cpu ", "cuda", "emulated", "products", "bf16"}) {
    EXPECT_NE(ran.out.find(word), std::string::npos) << word << " in " << ran.out;
  }
}

TEST_F(Cli, HelpIsNoError) {
  EXPECT_EQ(dyt("--help").status, 0);
  EXPECT_EQ(dyt("train --help").status, 0);
}

TEST_F(Cli, RefusesBadUsageWithStatus2) {
  expect_refusal("", 2, "subcommand");
  expect_refusal("frobnicate", 2, "frobnicate");
  expect_refusal("run", 2, "NUMBER");
  expect_refusal("run 03 --device tpu", 2, "tpu");
  expect_refusal("run 03 --size huge", 2, "huge");
  expect_refusal("run 03 --seeds 0", 2, "--seeds");
  expect_refusal("run 03 --seeds -1", 2, "--seeds");
  expect_refusal("train vit --norm batchnormish", 2, "batchnormish");
  expect_refusal("train vit --width 0", 2, "--width");
  expect_refusal("train vit --widths 8", 2, "(see dyt train --help)");
  expect_refusal("bench kernels --second 1", 2, "(see dyt bench kernels --help)");
  expect_refusal("train vit --batch -5", 2, "--batch");
  expect_refusal("train vit --lr abc", 2, "abc");
  expect_refusal("train vit --alpha0 -1", 2, "--alpha0");
  expect_refusal("train vit --alpha0 1,5", 2, "1,5");  // where commas are decimal points
  expect_refusal("sample x.st --seed -1", 2, "--seed");
}

// As of a shell's variable that isn't set: not as if the option weren't there.
TEST_F(Cli, RefusesEmptyValues) {
  for (const char* option : {"--save", "--resume", "--out", "--data", "--init", "--lr"}) {
    expect_refusal(std::string("train vit ") + option + " ''", 2, option);
  }
  expect_refusal("sample x.st --temperature ''", 2, "--temperature");
  expect_refusal("run 03 --out ''", 2, "--out");
  expect_refusal("bench kernels gelu --seconds ''", 2, "--seconds");
  expect_refusal("export '' x.st", 2, "empty");
  expect_refusal("sample x.st --prompt ''", 1, "x.st");  // this one may be empty
}

TEST_F(Cli, TellsThatStandardOutputIsFull) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const std::string command = "'" + binary_.string() + "' list > /dev/full 2> /dev/null";
  EXPECT_EQ(WEXITSTATUS(std::system(command.c_str())), 1);
}

TEST_F(Cli, RefusesWhatIsNotThereWithStatus1) {
  expect_refusal("run 99", 1, "99");
  expect_refusal("run banana", 1, "banana");
  for (const Experiment& e : experiments()) {
    if (!e.run) expect_refusal("run " + two_digits(e.number), 1, "planned");
  }
  expect_refusal("train resnet9000", 1, "resnet9000");
  expect_refusal("report nowhere", 1, "there is no folder 'nowhere'");
  expect_refusal("run 03 --data mnist:x", 1, "mnist");
  expect_refusal("train vit --data cifar10:/nowhere", 1, "/nowhere");
  expect_refusal("train vit --width 100 --heads 3", 1, "heads (3) must divide the width (100)");
  expect_refusal("train vit --patch 5", 1, "patch size (5) must divide the image size (32)");
  expect_refusal("train vit --train-images 10 --batch 20", 1, "a batch of 20");
}

TEST_F(Cli, RefusesDevicesThatAreNotThere) {
  const std::string info = dyt("info").out;
  if (info.find("cuda       not available") != std::string::npos) {
    expect_refusal("run 03 --device cuda", 1, "device cuda is not available");
  }
  if (info.find("emulated   not available") != std::string::npos) {
    expect_refusal("run 03 --device emulated", 1, "device emulated is not available");
  }
}

TEST_F(Cli, RefusesAnOutputFolderThatCannotBeWritten) {
  std::ofstream(folder_ / "file") << "not a folder";
  kept_ = {"file"};
  expect_refusal("run 03 --size smoke --out file/out", 1, "file/out");
  expect_refusal("train vit --out file", 1, "file");
  expect_refusal("run 01 --size smoke --out /proc/nothing", 1, "/proc/nothing");
}

// A whole CIFAR-10 record is a label and 3072 bytes of pixels.
void write_cifar(const fs::path& folder, size_t train_bytes, uint8_t label) {
  fs::create_directories(folder);
  std::string data;
  while (data.size() < train_bytes) data += std::string(1, char(label)) + std::string(3072, 'x');
  data.resize(train_bytes);
  std::ofstream(folder / "data_batch_1.bin", std::ios::binary) << data;
  std::ofstream(folder / "test_batch.bin", std::ios::binary)
      << std::string(1, '\1') + std::string(3072, 'y');
}

TEST_F(Cli, RefusesBadCifarFiles) {
  kept_ = {"truncated", "mislabelled", "empty", "missing"};
  write_cifar(folder_ / "truncated", 3073 * 3 - 100, 1);
  expect_refusal("train vit --data cifar10:truncated", 1, "data_batch_1.bin");
  write_cifar(folder_ / "mislabelled", 3073 * 3, 12);
  expect_refusal("train vit --data cifar10:mislabelled", 1, "12");
  write_cifar(folder_ / "empty", 0, 0);
  expect_refusal("train vit --data cifar10:empty", 1, "data_batch_1.bin");
  fs::create_directories(folder_ / "missing");
  expect_refusal("train vit --data cifar10:missing", 1, "data_batch_1.bin");
}

TEST_F(Cli, RunWritesTheWholeReport) {
  const Ran ran = dyt("run 03 --size smoke --device cpu --out results");
  ASSERT_EQ(ran.status, 0) << ran.error;
  EXPECT_NE(ran.out.find("REPRODUCED") != std::string::npos ||
                ran.out.find("INCONCLUSIVE") != std::string::npos,
            false)
      << ran.out;
  const fs::path folder = folder_ / "results" / "03";
  const auto results = nlohmann::json::parse(slurp(folder / "results.json"));
  EXPECT_FALSE(results.empty());
  const std::string curves = slurp(folder / "curves.csv");
  // 2 arms x 2 seeds x 2 evaluations x 3 metrics, and a heading.
  EXPECT_EQ(std::count(curves.begin(), curves.end(), '\n'), 2 * 2 * 2 * 3 + 1) << curves;
  const std::string page = slurp(folder / "report.html");
  for (const char* word : {"DyT", "82.3", "seed", "commit"}) {
    EXPECT_NE(page.find(word), std::string::npos) << word;
  }
  for (const char* outside : {"src=\"http", "href=\"http", "<script"}) {
    EXPECT_EQ(page.find(outside), std::string::npos) << outside;
  }
  if (std::system("command -v gnuplot > /dev/null") == 0) {
    EXPECT_NE(page.find("<svg"), std::string::npos);
    EXPECT_TRUE(fs::exists(folder / "accuracy.svg"));
  }
}

// The same seed gives the same numbers, to the last digit that is printed.
TEST_F(Cli, RunsCanBeRepeated) {
  ASSERT_EQ(dyt("run 03 --size smoke --device cpu --out a").status, 0);
  ASSERT_EQ(dyt("run 03 --size smoke --device cpu --out b").status, 0);
  const std::string a = slurp(folder_ / "a/03/curves.csv"), b = slurp(folder_ / "b/03/curves.csv");
  EXPECT_GT(a.size(), 100u);
  EXPECT_EQ(a, b);
}

TEST_F(Cli, FinishedRunsAreKeptUnlessForced) {
  const std::string command = "run 03 --size smoke --device cpu --out a";
  ASSERT_EQ(dyt(command).status, 0);
  const std::string first = slurp(folder_ / "a/03/curves.csv");
  const Ran again = dyt(command);
  EXPECT_NE(again.error.find("4 of 4 runs were finished before"), std::string::npos) << again.error;
  EXPECT_EQ(slurp(folder_ / "a/03/curves.csv"), first);
  const Ran forced = dyt(command + " --force");
  EXPECT_EQ(forced.error.find("finished before"), std::string::npos) << forced.error;
  EXPECT_EQ(slurp(folder_ / "a/03/curves.csv"), first);
}

// What an experiment reports is what `dyt train` gives.
TEST_F(Cli, TrainWritesMetricsAsJsonLines) {
  const Ran ran =
      dyt("train vit --width 32 --depth 1 --heads 2 --train-images 200 --test-images 50"
          " --batch 20 --epochs 2 --norm dyt --device cpu --out log");
  ASSERT_EQ(ran.status, 0) << ran.error;
  std::istringstream lines(slurp(folder_ / "log/metrics.jsonl"));
  int n = 0;
  for (std::string line; std::getline(lines, line); ++n) {
    const auto record = nlohmann::json::parse(line);
    EXPECT_EQ(record["step"], 10 * (n + 1));
    EXPECT_GT(record["train_loss"], 0);
    EXPECT_LE(record["test_accuracy"], 1);
  }
  EXPECT_EQ(n, 2);
}

}  // namespace
}  // namespace dyt::test
