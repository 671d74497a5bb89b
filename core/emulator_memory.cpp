// Device memory of the emulator: one mapping per buffer, its last byte before a guard page, and all
// of them out of reach but while a kernel or a copy runs.
#include "core/emulator_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <map>
#include <mutex>

#include "core/emulator_watch.h"
#include "core/error.h"
#include "core/poison.h"

namespace dyt::emulator {
namespace {

struct Region {
  char* map;
  size_t map_bytes, bytes;
};
std::mutex memory_mutex;
std::map<char*, Region> regions;  // by the address handed out
int accesses = 0;

size_t page_round(size_t bytes) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

// Says which thread of which kernel (or that host code) touched which buffer, then dies of it.
void on_fault(int signal_number, siginfo_t* info, void*) {
  const char* address = static_cast<const char*>(info->si_addr);
  char line[512];
  int n;
  if (const LaunchSite* site = kernel_of_this_thread()) {
    n = std::snprintf(
        line, sizeof line,
        "\nemulator: kernel launched by %s (%s:%d), block (%u,%u,%u), thread "
        "(%u,%u,%u): %s access at %p",
        site->function, site->file, site->line, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x,
        threadIdx.y, threadIdx.z,
        kernel_has_yet_to_wait() ? "before wait_for_kernel_before(), an" : "out-of-bounds",
        info->si_addr);
  } else {
    n = std::snprintf(line, sizeof line, "\nfault: access at %p", info->si_addr);
  }
  for (const auto& [data, region] : regions) {
    if (address < region.map || address >= region.map + region.map_bytes) continue;
    const bool past = address >= data + region.bytes;
    const char* what = past                       ? "past the end of"
                       : address < data           ? "before"
                       : kernel_has_yet_to_wait() ? "into"
                                                  : "by host code, in";
    const long bytes = past ? address - (data + region.bytes) : data - address;
    n += std::snprintf(line + n, sizeof line - size_t(n), ", %ld bytes %s a device buffer of %zu",
                       bytes < 0 ? -bytes : bytes, what, region.bytes);
  }
  line[n++] = '\n';
  [[maybe_unused]] const auto written = write(2, line, size_t(n));
  if constexpr (watched) print_races();
  std::signal(signal_number, SIG_DFL);
}

void install_fault_handler() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
}

void protect_all(int protection) {
  for (const auto& [data, region] : regions) {
    mprotect(region.map, region.map_bytes - page_round(1), protection);
  }
}

}  // namespace

void* allocate(size_t bytes) {
  const std::lock_guard lock(memory_mutex);
  if (regions.empty()) install_fault_handler();
  const size_t data_bytes = (std::max<size_t>(bytes, 1) + 15) / 16 * 16;
  const size_t map_bytes = page_round((data_bytes + 255) / 256 * 256) + page_round(1);
  void* map = mmap(nullptr, map_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(map != MAP_FAILED, "emulator: no memory for a device buffer of ", bytes, " bytes");
  char* guard = static_cast<char*>(map) + map_bytes - page_round(1);
  mprotect(guard, page_round(1), PROT_NONE);
  char* data = guard - data_bytes;
  std::memset(data, 0xff, data_bytes);
  if (!accesses) mprotect(map, map_bytes - page_round(1), PROT_NONE);
  regions[data] = {static_cast<char*>(map), map_bytes, bytes};
  return data;
}

void release(void* data) {
  const std::lock_guard lock(memory_mutex);
  const auto found = regions.find(static_cast<char*>(data));
  if (found == regions.end()) return;
  unpoison(found->second.map, found->second.map_bytes);
  munmap(found->second.map, found->second.map_bytes);
  regions.erase(found);
}

std::vector<std::pair<uintptr_t, uintptr_t>> device_ranges() {
  const std::lock_guard lock(memory_mutex);
  std::vector<std::pair<uintptr_t, uintptr_t>> ranges;
  for (const auto& [data, region] : regions) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
    ranges.emplace_back(begin, begin + region.bytes);
  }
  return ranges;
}

DeviceAccess::DeviceAccess() {
  const std::lock_guard lock(memory_mutex);
  if (accesses++ == 0) protect_all(PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
  const std::lock_guard lock(memory_mutex);
  if (--accesses == 0) protect_all(PROT_NONE);
}

}  // namespace dyt::emulator
