// What nvcc's report says of the kernels that take the time (`make resources`): registers that
// don't fit are spilled to memory, and arrays that are not in registers live there. Either costs a
// hot loop more than its arithmetic, and no other test would notice. Nor that ptxas, where it can't
// follow the registers of products under way (core/warpgroup.h), waits for each of them.
#include <cxxabi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

namespace dyt::test {
namespace {

namespace fs = std::filesystem;

struct KernelReport {
  std::string file, name;  // mangled
  int stack = 0, spilled = 0, registers = 0;
  bool serialized = false;  // products of warpgroups
  // Not those instantiated for one number at a time (for widths that are no multiple of 16 bytes),
  // or for f32, four at a time: models train in bf16 on a GPU. Nor rope's angles, a few for each
  // token, by sines of f64, which need local memory.
  bool hot() const {
    const auto has = [&](const char* text) { return name.find(text) != std::string::npos; };
    return !has("Li1E") && !has("Li4EfE") && !has("turns_kernel");
  }
};

std::string readable(const std::string& mangled) {
  int status = 0;
  char* const text = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  const std::string name = status == 0 ? text : mangled;
  std::free(text);
  return name;
}

std::vector<KernelReport> kernels_of(const std::string& file, std::istream& report) {
  static const std::regex entry("Compiling entry function '([^']+)'");
  static const std::regex frame(
      "(\\d+) bytes stack frame, (\\d+) bytes spill stores, (\\d+) bytes spill loads");
  static const std::regex used("Used (\\d+) registers");
  static const std::regex serialized("wgmma.*serialized.* function '([^']+)'");
  std::vector<KernelReport> kernels;
  std::vector<std::string> waiting;
  std::smatch m;
  for (std::string line; std::getline(report, line);) {
    if (std::regex_search(line, m, serialized)) waiting.push_back(m[1]);
    if (std::regex_search(line, m, entry)) kernels.push_back({file, m[1]});
    if (kernels.empty()) continue;
    KernelReport& k = kernels.back();
    // (functions that a kernel calls have frames of their own; the largest counts)
    if (std::regex_search(line, m, frame)) {
      k.stack = std::max(k.stack, std::stoi(m[1]));
      k.spilled = std::max({k.spilled, std::stoi(m[2]), std::stoi(m[3])});
    }
    if (std::regex_search(line, m, used)) k.registers = std::stoi(m[1]);
  }
  for (KernelReport& k : kernels) {
    k.serialized = std::find(waiting.begin(), waiting.end(), k.name) != waiting.end();
  }
  return kernels;
}

TEST(CompilerReport, IsUnderstood) {
  std::istringstream report(
      "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are "
      "serialized due to insufficient register resources for the wgmma pipeline in the function "
      "'_Z1av'\n"
      "ptxas info    : Compiling entry function '_Z1av' for 'sm_80'\n"
      "ptxas info    : Function properties for _Z1av\n"
      "    24 bytes stack frame, 20 bytes spill stores, 16 bytes spill loads\n"
      "ptxas info    : Used 255 registers, used 1 barriers, 400 bytes cmem[0]\n"
      "ptxas info    : Compiling entry function '_Z1bILi1EEvv' for 'sm_80'\n"
      "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n");
  const std::vector<KernelReport> kernels = kernels_of("x", report);
  ASSERT_EQ(kernels.size(), 2u);
  EXPECT_EQ(kernels[0].stack, 24);
  EXPECT_EQ(kernels[0].spilled, 20);
  EXPECT_EQ(kernels[0].registers, 255);
  EXPECT_TRUE(kernels[0].hot());
  EXPECT_TRUE(kernels[0].serialized);
  EXPECT_EQ(kernels[1].stack, 0);
  EXPECT_FALSE(kernels[1].hot());
  EXPECT_FALSE(kernels[1].serialized);
}

class CompilerReports : public testing::TestWithParam<const char*> {};

TEST_P(CompilerReports, NeitherSpillNorUseLocalMemory) {
  const fs::path folder = fs::path("build/resources") / GetParam();
  if (!fs::exists(folder)) GTEST_SKIP() << "no " << folder << ": make resources, with nvcc";
  size_t found = 0;
  for (const auto& file : fs::recursive_directory_iterator(folder)) {
    if (file.path().extension() != ".txt") continue;
    std::ifstream report(file.path());
    const std::vector<KernelReport> kernels = kernels_of(file.path().string(), report);
    EXPECT_FALSE(kernels.empty()) << file.path() << " names no kernel";
    for (const KernelReport& k : kernels) {
      if (!k.hot()) continue;
      ++found;
      EXPECT_EQ(k.spilled, 0) << k.file << ": " << readable(k.name) << " spills";
      EXPECT_EQ(k.stack, 0) << k.file << ": " << readable(k.name) << " has " << k.stack
                            << " bytes of local memory for each thread";
      EXPECT_FALSE(k.serialized) << k.file << ": " << readable(k.name)
                                 << " waits for every product of a warpgroup";
    }
  }
  EXPECT_GT(found, 50u);
}

INSTANTIATE_TEST_SUITE_P(Architectures, CompilerReports, testing::Values("80", "90a"));

}  // namespace
}  // namespace dyt::test
