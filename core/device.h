// Devices and their memory. Three ways to compute, one source (see README):
//   cpu       plain C++ loops
//   cuda      the kernels on an NVIDIA GPU            (when built by nvcc)
//   emulated  the same kernels, run by core/emulator.h (when built by g++ alone)
// A binary has the cpu and one of the other two.
#pragma once
#include <cstddef>
#include <cstring>
#include <iosfwd>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace dyt {

enum class Device { cpu, cuda, emulated };

// What a device trains in if nobody says otherwise: bf16 on a GPU, else f32.
constexpr DType default_dtype(Device device) {
  return device == Device::cuda ? DType::bf16 : DType::f32;
}

#if defined(DYT_EMULATED)
inline constexpr Device kernel_device = Device::emulated;  // where this build's kernels run
#else
inline constexpr Device kernel_device = Device::cuda;
#endif

const char* name_of(Device device);

// Whether this build's kernels for warpgroups (core/warpgroup.h) run here: emulated, or on a GPU of
// compute capability 9.0 by code compiled for sm_90a.
bool warpgroups_run_here();

// True if the device can be used here: cpu always, cuda if built in and a GPU answers, emulated if
// built in. `why_not`, if given, gets a sentence.
bool is_available(Device device, std::string* why_not = nullptr);

// "auto", "cpu", "cuda" or "emulated" to a device that is there; Error otherwise.
Device parse_device(const std::string& name);

// "NVIDIA H200, 132 SMs, 139.8 GiB" or the processor's name.
std::string describe(Device device);

// The processor's name in /proc/cpuinfo. On arm64 Linux gives numbers only, of which
// "lscpu" knows the names: "ARM implementer 0x41 part 0xd40" (a Neoverse V1).
std::string processor_name(std::istream& cpuinfo);

// Memory on a device, 256-byte aligned (emulated: 16-byte, so that each buffer ends at a guard
// page) and there filled with NaN.
void* device_allocate(Device device, size_t bytes);
void device_free(Device device, void* data);

void copy_to_device(Device device, void* to, const void* from_host, size_t bytes);
void copy_to_host(Device device, void* to_host, const void* from, size_t bytes);
void copy_on_device(Device device, void* to, const void* from, size_t bytes);
// Up to 64 bytes of the host that travel as the argument of a kernel: unlike copy_to_device, nobody
// waits; and recorded (core/graph.h), they are a constant.
void put_on_device(Device device, void* to, const void* from_host, size_t bytes);
void fill_zero(Device device, void* data, size_t bytes);
void fill_nan(Device device, void* data, size_t bytes);  // all bits set: NaN in f32, f64 and bf16
void synchronize(Device device);                         // waits until the device has finished

// Owns one piece of memory.
template <void* (*allocate)(Device, size_t), void (*release)(Device, void*)>
class OwnedMemory {
 public:
  OwnedMemory() = default;
  OwnedMemory(Device device, size_t bytes)
      : device_(device), bytes_(bytes), data_(allocate(device, bytes)) {}
  OwnedMemory(OwnedMemory&& other) noexcept { swap(other); }
  OwnedMemory& operator=(OwnedMemory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~OwnedMemory() {
    if (data_) release(device_, data_);
  }
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void swap(OwnedMemory& other) {
    std::swap(device_, other.device_);
    std::swap(bytes_, other.bytes_);
    std::swap(data_, other.data_);
  }
  Device device_ = Device::cpu;
  size_t bytes_ = 0;
  void* data_ = nullptr;
};
using Buffer = OwnedMemory<device_allocate, device_free>;  // on a device

// Memory that is handed out piece by piece and taken back all at once, every step. The first step
// may need several chunks; reset() then joins them into one, and from there on a step allocates
// nothing and the same requests get the same addresses.
class Arena {
 public:
  explicit Arena(Device device) : device_(device) {}
  void* allocate(size_t bytes);  // 256-byte aligned, valid until reset()
  void reset();
  void allow_access();  // to all of it, for those who know what it holds (AddressSanitizer)
  // Changes whenever memory is added or given back: what was handed out under another number may
  // not be there any more.
  int64_t generation() const { return generation_; }
  size_t capacity() const { return capacity_; }  // bytes held
  size_t used() const { return used_; }          // bytes handed out since reset()

 private:
  Device device_;
  struct Chunk {
    Buffer memory;
    size_t used = 0;  // bytes, from the first on
  };
  std::vector<Chunk> chunks_;
  size_t used_ = 0, capacity_ = 0;
  int64_t generation_ = 0;
};

}  // namespace dyt
