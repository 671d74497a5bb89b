#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "core/device.h"
#include "core/graph.h"
#include "core/launch.h"
#include "core/poison.h"

namespace dyt {

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::f64:
      return "f64";
    case DType::bf16:
      return "bf16";
    case DType::i32:
      return "i32";
  }
  return "?";
}

const char* name_of(Device device) {
  return device == Device::cpu ? "cpu" : device == Device::cuda ? "cuda" : "emulated";
}

Device parse_device(const std::string& name) {
  if (name == "auto") return is_available(Device::cuda) ? Device::cuda : Device::cpu;
  for (Device device : {Device::cpu, Device::cuda, Device::emulated}) {
    if (name != name_of(device)) continue;
    std::string why_not;
    require(is_available(device, &why_not), "device ", name, " is not available: ", why_not);
    return device;
  }
  fail("unknown device '", name, "'; choose auto, cpu, cuda or emulated");
}

std::string processor_name(std::istream& cpuinfo) {
  std::string implementer, part;
  for (std::string line; std::getline(cpuinfo, line);) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const auto is = [&](const char* key) { return line.rfind(key, 0) == 0; };
    std::string value = line.substr(colon + 2);
    if (is("model name") && !value.empty()) return value;
    if (is("CPU implementer")) implementer = std::move(value);
    if (is("CPU part")) part = std::move(value);
  }
  if (part.empty()) return "unknown processor";
  return "ARM implementer " + implementer + " part " + part;
}

namespace {

std::string processor_text() {
  std::ifstream info("/proc/cpuinfo");
  return processor_name(info) + ", " + std::to_string(std::thread::hardware_concurrency()) +
         " cores";
}

std::string no_memory(size_t bytes, const char* whose) {
  return "the " + std::string(whose) + " has no " + std::to_string(bytes >> 20) +
         " MiB of memory left for this: a smaller batch (--batch), or one in parts "
         "(--accumulate), takes less";
}

constexpr size_t huge_page = size_t(2) << 20;

void* host_allocate(size_t bytes) {
  const size_t alignment = bytes >= 2 * huge_page ? huge_page : 256;
  void* data = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!data) fail(no_memory(bytes, "processor"));
  if (alignment == huge_page) madvise(data, bytes, MADV_HUGEPAGE);  // fewer page faults
  return data;
}

// body(begin, bytes) for all parts, with all cores: one alone doesn't reach the memory's bandwidth.
template <class Body>
void for_each_megabyte(size_t bytes, Body&& body) {
  constexpr size_t part = size_t(1) << 20;
#pragma omp parallel for if (bytes > 4 * part)
  for (size_t begin = 0; begin < bytes; begin += part) body(begin, std::min(part, bytes - begin));
}

void copy_on_host(void* to, const void* from, size_t bytes) {
  for_each_megabyte(bytes, [&](size_t begin, size_t n) {
    std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin, n);
  });
}

void fill_on_host(void* data, int byte, size_t bytes) {
  for_each_megabyte(bytes, [&](size_t begin, size_t n) {
    std::memset(static_cast<char*>(data) + begin, byte, n);
  });
}

}  // namespace

#if defined(DYT_EMULATED)

bool is_available(Device device, std::string* why_not) {
  if (device != Device::cuda) return true;
  if (why_not) *why_not = "this binary was built without CUDA (make, with nvcc on the PATH)";
  return false;
}

std::string describe(Device device) {
  if (device == Device::cpu) return processor_text();
  return "CUDA kernels run thread by thread on the CPU";
}

int multiprocessors() { return 4; }
size_t shared_memory_of_a_block() { return emulator::shared_memory_of_a_block; }

void* device_allocate(Device device, size_t bytes) {
  if (device == Device::cpu) return host_allocate(bytes);
  refuse_while_recording("memory is allocated");
  return emulator::allocate(bytes);
}
void device_free(Device device, void* data) {
  if (device == Device::cpu) {
    std::free(data);
  } else {
    emulator::release(data);
  }
}
void copy_to_device(Device device, void* to, const void* from_host, size_t bytes) {
  if (device != Device::cpu) refuse_while_recording("the host sends numbers");
  const emulator::DeviceAccess access;
  std::memcpy(to, from_host, bytes);
}
void copy_to_host(Device device, void* to_host, const void* from, size_t bytes) {
  if (device != Device::cpu) refuse_while_recording("the host reads numbers");
  const emulator::DeviceAccess access;
  std::memcpy(to_host, from, bytes);
}
void copy_on_device(Device device, void* to, const void* from, size_t bytes) {
  if (device == Device::cpu) return copy_on_host(to, from, bytes);
  emulator::submit([=] {
    const emulator::DeviceAccess access;
    std::memcpy(to, from, bytes);
  });
}
static void fill(Device device, void* data, int byte, size_t bytes) {
  if (device == Device::cpu) return fill_on_host(data, byte, bytes);
  emulator::submit([=] {
    const emulator::DeviceAccess access;
    std::memset(data, byte, bytes);
  });
}
void fill_zero(Device device, void* data, size_t bytes) { fill(device, data, 0, bytes); }
void fill_nan(Device device, void* data, size_t bytes) { fill(device, data, 0xff, bytes); }
void synchronize(Device device) {
  if (device != Device::cpu) refuse_while_recording("the host waits");
}

#else

bool is_available(Device device, std::string* why_not) {
  if (device == Device::cpu) return true;
  if (device == Device::emulated) {
    if (why_not) *why_not = "this binary was built with CUDA; build the emulator: make CUDA=0";
    return false;
  }
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  int generation = 0;  // 8: Ampere; its asynchronous copies and products of bf16 are used
  if (status == cudaSuccess && count > 0) {
    status = cudaDeviceGetAttribute(&generation, cudaDevAttrComputeCapabilityMajor, 0);
  }
  if (status == cudaSuccess && generation >= 8) return true;
  if (why_not) {
    *why_not = generation ? "the GPU has compute capability " + std::to_string(generation) +
                                ".x, and 8.0 is needed; use --device cpu"
                          : std::string("no NVIDIA GPU answers (") + cudaGetErrorString(status) +
                                "); use --device cpu";
  }
  return false;
}

std::string describe(Device device) {
  if (device == Device::cpu) return processor_text();
  cudaDeviceProp p{};
  check_cuda(cudaGetDeviceProperties(&p, 0));
  std::ostringstream text;
  text << p.name << ", compute capability " << p.major << "." << p.minor << ", "
       << p.multiProcessorCount << " SMs, " << p.totalGlobalMem / (1 << 30) << " GiB";
  return text.str();
}

void check_cuda(cudaError_t status, const char* file, int line) {
  if (status != cudaSuccess) static_cast<void>(cudaGetLastError());  // not for the next to find
  require(status == cudaSuccess, "CUDA: ", cudaGetErrorString(status), " (", file, ":", line, ")");
}

cudaStream_t stream() {
  static const cudaStream_t s = [] {
    cudaStream_t created;
    check_cuda(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking));
    return created;
  }();
  return s;
}

namespace {
int attribute(cudaDeviceAttr which) {
  int found = 0;
  check_cuda(cudaDeviceGetAttribute(&found, which, 0));
  return found;
}
}  // namespace

int multiprocessors() {
  static const int count = attribute(cudaDevAttrMultiProcessorCount);
  return count;
}
size_t shared_memory_of_a_block() {
  static const int bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return size_t(bytes);
}

void* device_allocate(Device device, size_t bytes) {
  if (device == Device::cpu) return host_allocate(bytes);
  refuse_while_recording("memory is allocated");
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes ? bytes : 1);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // or the next check would find it
    fail(no_memory(bytes, "GPU"));
  }
  check_cuda(error);
  return data;
}
void device_free(Device device, void* data) {
  if (device == Device::cpu) {
    std::free(data);
  } else {
    cudaFree(data);  // no check: called from destructors
  }
}
void copy_to_device(Device device, void* to, const void* from_host, size_t bytes) {
  if (device == Device::cpu) {
    std::memcpy(to, from_host, bytes);
    return;
  }
  refuse_while_recording("the host sends numbers");
  check_cuda(cudaMemcpyAsync(to, from_host, bytes, cudaMemcpyHostToDevice, stream()));
  synchronize(device);  // the caller may reuse its memory at once
}
void copy_to_host(Device device, void* to_host, const void* from, size_t bytes) {
  if (device == Device::cpu) {
    std::memcpy(to_host, from, bytes);
    return;
  }
  refuse_while_recording("the host reads numbers");
  check_cuda(cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDeviceToHost, stream()));
  synchronize(device);
}
void copy_on_device(Device device, void* to, const void* from, size_t bytes) {
  if (device == Device::cpu) {
    copy_on_host(to, from, bytes);
  } else {
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()));
  }
}
void fill_zero(Device device, void* data, size_t bytes) {
  if (device == Device::cpu) {
    fill_on_host(data, 0, bytes);
  } else {
    check_cuda(cudaMemsetAsync(data, 0, bytes, stream()));
  }
}
void fill_nan(Device device, void* data, size_t bytes) {
  if (device == Device::cpu) {
    fill_on_host(data, 0xff, bytes);
  } else {
    check_cuda(cudaMemsetAsync(data, 0xff, bytes, stream()));
  }
}
void synchronize(Device device) {
  if (device != Device::cuda) return;
  refuse_while_recording("the host waits");
  check_cuda(cudaStreamSynchronize(stream()));
}

namespace {
__global__ void probe_kernel() {}
}  // namespace

// Newer GPUs than Hopper could, too, but nobody has tried this on one; on consumer Blackwell others
// could not capture such launches in a graph (sgl-project/sglang, pull request 18596). And the code
// that runs here must have been compiled for it, or nothing in it waits.
bool kernels_may_overlap() {
  static const bool they_may = [] {
    cudaFuncAttributes code{};
    check_cuda(cudaFuncGetAttributes(&code, probe_kernel));
    return attribute(cudaDevAttrComputeCapabilityMajor) == 9 && code.ptxVersion >= 90;
  }();
  return they_may;
}

void allow_shared_memory(const void* kernel, size_t bytes, const char* file, int line) {
  static std::mutex mutex;
  static std::unordered_map<const void*, size_t> allowed;
  const std::lock_guard lock(mutex);
  size_t& known = allowed[kernel];
  if (bytes <= known) return;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
             file, line);
  known = bytes;
}

#endif

namespace {

constexpr size_t argument_bytes = 64;
struct Argument {
  unsigned char bytes[argument_bytes];
};

// One thread per byte.
__global__ void put_kernel(unsigned char* to, Argument from, unsigned bytes) {
  if (threadIdx.x < bytes) to[threadIdx.x] = from.bytes[threadIdx.x];
}

}  // namespace

void put_on_device(Device device, void* to, const void* from_host, size_t bytes) {
  require(bytes <= argument_bytes, "put_on_device: ", bytes, " bytes are more than ",
          argument_bytes);
  if (device == Device::cpu) {
    std::memcpy(to, from_host, bytes);
    return;
  }
  Argument argument{};
  std::memcpy(argument.bytes, from_host, bytes);
  launch(put_kernel, 1, argument_bytes)(static_cast<unsigned char*>(to), argument, unsigned(bytes));
}

void* Arena::allocate(size_t bytes) {
  constexpr size_t alignment = 256;
  const size_t gap = sanitized ? alignment : 0;  // out of bounds, for AddressSanitizer
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment + gap;
  const auto has_room = [&](const Chunk& c) { return c.used + rounded <= c.memory.bytes(); };
  auto chunk = std::find_if(chunks_.begin(), chunks_.end(), has_room);
  if (chunk == chunks_.end()) {
    // A first step takes little more than it needs: on a GPU what all later ones fit into must be
    // enough for it.
    const size_t size = std::max({rounded, capacity_ / 8, size_t(1) << 20});
    chunk = chunks_.insert(chunks_.end(), Chunk{Buffer(device_, size)});
    poison(chunk->memory.data(), size);
    capacity_ += size;
    ++generation_;
  }
  char* place = static_cast<char*>(chunk->memory.data()) + chunk->used;
  chunk->used += rounded;
  used_ += rounded;
  unpoison(place, bytes);
  if (device_ == Device::emulated || sanitized) fill_nan(device_, place, bytes);
  return place;
}

void Arena::reset() {
  if (chunks_.size() > 1) {
    chunks_.clear();
    const size_t alignment = sanitized ? 1 << 20 : 256;
    capacity_ = (used_ + alignment - 1) / alignment * alignment;
    chunks_.push_back({Buffer(device_, capacity_)});
    ++generation_;
  }
  for (Chunk& chunk : chunks_) {
    poison(chunk.memory.data(), chunk.memory.bytes());
    chunk.used = 0;
  }
  used_ = 0;
}

void Arena::allow_access() {
  for (const Chunk& chunk : chunks_) unpoison(chunk.memory.data(), chunk.memory.bytes());
}

}  // namespace dyt
