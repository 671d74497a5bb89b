#include "core/device.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <sstream>

#include "core/error.h"

namespace dyt {
namespace {

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

std::vector<Device> available_devices() {
  std::vector<Device> devices;
  for (Device device : {Device::cpu, Device::cuda, Device::emulated}) {
    if (is_available(device)) devices.push_back(device);
  }
  return devices;
}

TEST(Device, NamesAreParsed) {
  EXPECT_EQ(parse_device("cpu"), Device::cpu);
  EXPECT_TRUE(is_available(parse_device("auto")));
  for (Device device : available_devices()) EXPECT_EQ(parse_device(name_of(device)), device);
}

TEST(Device, AnUnknownNameIsAnsweredWithTheKnownOnes) {
  for (const std::string name : {"gpu", "CPU", "", "cuda:0", "cpu "}) {
    EXPECT_EQ(message_of([&] { parse_device(name); }),
              "unknown device '" + name + "'; choose auto, cpu, cuda or emulated");
  }
}

// What is asked for and not there is refused with a way out; never replaced in silence.
TEST(Device, AMissingDeviceIsRefusedWithAWayOut) {
  int missing = 0;
  for (Device device : {Device::cuda, Device::emulated}) {
    std::string why_not;
    if (is_available(device, &why_not)) {
      EXPECT_EQ(why_not, "");
      continue;
    }
    ++missing;
    const std::string message = message_of([&] { parse_device(name_of(device)); });
    EXPECT_EQ(message, "device " + std::string(name_of(device)) + " is not available: " + why_not);
    EXPECT_TRUE(why_not.find("make") != std::string::npos ||
                why_not.find("--device cpu") != std::string::npos)
        << why_not;
  }
  EXPECT_GE(missing, 1);  // no build has both
  if (!is_available(Device::cuda)) {
    EXPECT_EQ(parse_device("auto"), Device::cpu);
  }
}

TEST(Device, DescribesItself) {
  for (Device device : available_devices()) EXPECT_GT(describe(device).size(), 5u);
}

TEST(Device, TheProcessorsNameIsFound) {
  const auto name = [](const char* text) {
    std::istringstream cpuinfo(text);
    return processor_name(cpuinfo);
  };
  EXPECT_EQ(name("processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC 9B14: 2\nstepping\t: 1\n"),
            "AMD EPYC 9B14: 2");
  EXPECT_EQ(name("processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n"
                 "CPU variant\t: 0x1\nCPU part\t: 0xd40\n\n"),
            "ARM implementer 0x41 part 0xd40");
  EXPECT_EQ(name("model name\t:\nmodel name\t: \n"), "unknown processor");
  EXPECT_EQ(name(""), "unknown processor");
}

TEST(Device, CopiesFillsAndZeros) {
  for (Device device : available_devices()) {
    SCOPED_TRACE(name_of(device));
    std::vector<float> values(1001), back(1001);
    for (size_t i = 0; i < values.size(); ++i) values[i] = float(i) - 500;
    const Buffer first(device, 1001 * sizeof(float)), second(device, 1001 * sizeof(float));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first.data()) % 16, 0u);  // the widest access
    copy_to_device(device, first.data(), values.data(), first.bytes());
    copy_on_device(device, second.data(), first.data(), first.bytes());
    fill_zero(device, first.data(), first.bytes());
    copy_to_host(device, back.data(), second.data(), second.bytes());
    EXPECT_EQ(back, values);
    copy_to_host(device, back.data(), first.data(), first.bytes());
    EXPECT_EQ(back, std::vector<float>(1001, 0.0f));
    fill_nan(device, first.data(), first.bytes());
    copy_to_host(device, back.data(), first.data(), first.bytes());
    for (float v : back) EXPECT_TRUE(std::isnan(v));
    synchronize(device);
  }
}

TEST(Device, ABufferHasOneOwner) {
  Buffer a(Device::cpu, 100);
  void* const data = a.data();
  Buffer b = std::move(a);
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(a.data(), nullptr);
  Buffer c(Device::cpu, 50);
  c = std::move(b);
  EXPECT_EQ(c.data(), data);
  EXPECT_EQ(c.bytes(), 100u);
}

// --- Number types --------------------------------------------------------------------------------

TEST(Bf16, RoundsToTheNearestTiesToEven) {
  const auto round = [](float v) { return float(bf16(v)); };
  EXPECT_EQ(round(1.0f), 1.0f);
  EXPECT_EQ(round(-0.15625f), -0.15625f);
  const float step = 0x1p-7f;  // between neighbours from 1 to 2
  EXPECT_EQ(round(1 + 0.49f * step), 1.0f);
  EXPECT_EQ(round(1 + 0.51f * step), 1 + step);
  EXPECT_EQ(round(1 + 0.5f * step), 1.0f);          // a tie: to the even 1
  EXPECT_EQ(round(1 + 1.5f * step), 1 + 2 * step);  // a tie: up to the even one
  EXPECT_EQ(round(-(1 + 1.5f * step)), -(1 + 2 * step));
  EXPECT_EQ(round(2 - 0.25f * step), 2.0f);  // carries into the exponent
  EXPECT_TRUE(std::signbit(round(-0.0f)));
}

TEST(Bf16, KeepsInfinityAndNan) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(float(bf16(infinity)), infinity);
  EXPECT_EQ(float(bf16(-infinity)), -infinity);
  EXPECT_EQ(float(bf16(std::numeric_limits<float>::max())), infinity);  // the nearest
  EXPECT_TRUE(std::isnan(float(bf16(std::numeric_limits<float>::quiet_NaN()))));
  // A NaN whose upper half alone would read as infinity.
  EXPECT_TRUE(std::isnan(float(bf16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(float(bf16(std::bit_cast<float>(0xffffffffu)))));
}

TEST(Bf16, EveryNumberSurvivesTheWayThroughF32) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    bf16 v;
    v.bits = uint16_t(bits);
    if (std::isnan(float(v))) continue;
    EXPECT_EQ(bf16(float(v)).bits, v.bits);
  }
}

}  // namespace
}  // namespace dyt
