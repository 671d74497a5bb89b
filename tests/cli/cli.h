// The command line as a person uses it: every test starts ./dyt (the environment variable
// DYT_BINARY names it) in an empty folder of its own, and looks at what it prints, where, and at
// its exit status.
#pragma once
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

namespace dyt::test {

namespace fs = std::filesystem;

struct Ran {
  int status;
  std::string out, error;
};

inline std::string slurp(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class Cli : public testing::Test {
 protected:
  void SetUp() override {
    const char* given = std::getenv("DYT_BINARY");
    binary_ = fs::absolute(given ? given : "./dyt");
    if (!fs::exists(binary_)) GTEST_SKIP() << "no " << binary_ << "; set DYT_BINARY";
    char name[] = "/tmp/dyt_cli_XXXXXX";
    folder_ = mkdtemp(name);
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }
  // Runs `dyt arguments` in the test's own empty folder, where `environment`, such as "A=1 B=2",
  // holds for it.
  Ran dyt(const std::string& arguments, const std::string& environment = "") {
    const std::string command = "cd " + folder_.string() + " && " + environment + " '" +
                                binary_.string() + "' " + arguments +
                                " > stdout.txt 2> stderr.txt < /dev/null";
    const int status = std::system(command.c_str());
    Ran ran{WIFEXITED(status) ? WEXITSTATUS(status) : -1, slurp(folder_ / "stdout.txt"),
            slurp(folder_ / "stderr.txt")};
    fs::remove(folder_ / "stdout.txt");
    fs::remove(folder_ / "stderr.txt");
    return ran;
  }
  // Fails with this status, says one line that contains `words`, and leaves nothing behind.
  void expect_refusal(const std::string& arguments, int status, const std::string& words) {
    const Ran ran = dyt(arguments);
    EXPECT_EQ(ran.status, status) << arguments << "\n" << ran.error;
    EXPECT_NE(ran.error.find(words), std::string::npos) << arguments << ": " << ran.error;
    EXPECT_EQ(std::count(ran.error.begin(), ran.error.end(), '\n'), 1)
        << arguments << ": " << ran.error;
    EXPECT_EQ(ran.out, "") << arguments;
    for (const auto& left : fs::directory_iterator(folder_)) {
      EXPECT_TRUE(kept_.count(left.path().filename().string())) << arguments << " left " << left;
    }
  }

  fs::path binary_, folder_;
  std::set<std::string> kept_;
};

}  // namespace dyt::test
