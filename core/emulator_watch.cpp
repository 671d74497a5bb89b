#include "core/emulator_watch.h"

#if defined(DYT_WATCHED)

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <bitset>
#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "core/emulator_async.h"
#include "core/emulator_memory.h"
#include "core/error.h"
#include "core/traffic.h"

namespace dyt::emulator {
namespace {

// --- Where an access stands in the source --------------------------------------------------------

// An instruction, or a line that a wrapper knows.
struct Site {
  const void* instruction = nullptr;
  Where where;
  bool operator<(const Site& other) const {
    return std::tie(instruction, where.file, where.line) <
           std::tie(other.instruction, other.where.file, other.where.line);
  }
};
std::vector<Site> sites;  // all that were met; accesses name them by their number

uint32_t number_of(const Site& site) {
  static std::map<Site, uint32_t> numbers;
  const auto [found, is_new] = numbers.try_emplace(site, uint32_t(sites.size()));
  if (is_new) sites.push_back(site);
  return found->second;
}
uint32_t number_of(const void* instruction) {
  struct Known {
    const void* instruction = nullptr;
    uint32_t number = 0;
  };
  static std::array<Known, 4096> recent;
  Known& known = recent[reinterpret_cast<uintptr_t>(instruction) / 2 % recent.size()];
  if (known.instruction != instruction) known = {instruction, number_of(Site{instruction, {}})};
  return known.number;
}

std::string without_dots(std::string file) {
  while (file.starts_with("./")) file = file.substr(2);
  return file;
}
std::string text_of(const char* file, int line) {
  return without_dots(file) + ":" + std::to_string(line);
}

// The lines, as "file:line", of sites whose text isn't known yet. An instruction may be part of
// several functions, one inlined in the other; of these counts the innermost one beyond the
// vocabulary of kernels.
std::map<uint32_t, std::string> texts;

void find_texts(const std::set<uint32_t>& wanted) {
  std::vector<uint32_t> unknown;
  std::string command = "addr2line -i -a -e /proc/" + std::to_string(getpid()) + "/exe";
  for (const uint32_t site : wanted) {
    const Site& s = sites[site];
    if (s.where.file) {
      texts.try_emplace(site, text_of(s.where.file, s.where.line));
    } else if (!texts.count(site)) {
      unknown.push_back(site);
      char address[32];  // of the call, before the instruction that it returns to
      std::snprintf(address, sizeof address, " %p",
                    static_cast<const void*>(static_cast<const char*>(s.instruction) - 1));
      command += address;
    }
  }
  if (unknown.empty()) return;
  for (const uint32_t site : unknown) texts[site] = "an unknown line (is addr2line installed?)";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> out(popen(command.c_str(), "r"), pclose);
  if (!out) return;
  size_t next = 0;
  char text[4096];
  bool is_word = false;  // of the vocabulary, so far
  while (std::fgets(text, sizeof text, out.get())) {
    std::string line(text);
    line = line.substr(0, line.find_first_of(" \n"));
    if (line.starts_with("0x")) {
      ++next, is_word = true;
      continue;
    }
    if (next == 0 || next > unknown.size() || !is_word) continue;
    line = without_dots(line);
    texts[unknown[next - 1]] = line;
    is_word = line.starts_with("core/kernel.h:") || line.starts_with("core/emulator");
  }
}

std::string text(uint32_t site) {
  find_texts({site});
  return texts.at(site);
}

// --- Clocks: what a thread can know of the others ------------------------------------------------

// Every thread counts its barriers. Thread t knows all that u did up to u's time known(t, u): the
// greatest of what the last barrier of the block told everyone, what barriers of some warps told
// t's warp, and what __syncwarp() told its lanes.
struct Clocks {
  int n = 0;
  std::vector<uint32_t> now, by_block, by_lanes;
  std::vector<std::vector<uint32_t>> by_warps;  // of each warp, all threads; empty: nothing yet

  void begin(int threads) {
    n = threads;
    now.assign(size_t(n), 1);
    by_block.assign(size_t(n), 0);
    by_lanes.assign(size_t(n), 0);
    by_warps.assign(size_t(n + 31) / 32, {});
  }
  uint32_t known(int t, int u) const {
    if (t == u) return now[size_t(t)];
    uint32_t time = by_block[size_t(u)];
    if (t / 32 == u / 32) time = std::max(time, by_lanes[size_t(u)]);
    const std::vector<uint32_t>& of_warp = by_warps[size_t(t / 32)];
    return of_warp.empty() ? time : std::max(time, of_warp[size_t(u)]);
  }
  void meet(int first, int count) {
    if (count == n) {
      by_block = now;
    } else if (count == 32) {
      std::copy_n(now.begin() + first, 32, by_lanes.begin() + first);
    } else {
      std::vector<uint32_t> all(static_cast<size_t>(n));
      for (int u = 0; u < n; ++u) {
        const bool here = u >= first && u < first + count;
        for (int w = first / 32; w < (first + count) / 32 && !here; ++w) {
          all[size_t(u)] = std::max(all[size_t(u)], known(32 * w, u));
        }
        if (here) all[size_t(u)] = now[size_t(u)];
      }
      for (int w = first / 32; w < (first + count) / 32; ++w) by_warps[size_t(w)] = all;
    }
    for (int t = first; t < first + count; ++t) ++now[size_t(t)];
  }
};

// What one block has made known to others, by an atomic operation after a fence: up to when each of
// its threads had come, as its thread knew; and what a thread has learnt so.
using Times = std::shared_ptr<const std::vector<uint32_t>>;
using Released = std::map<int64_t, Times>;  // by block

struct Learnt {
  int thread;
  uint32_t time;
  Released what;
};

// --- Who accessed a byte last --------------------------------------------------------------------

struct Access {
  uint32_t block = 0, time = 0, site = 0;
  uint16_t thread = 0;
  bool exists = false, atomic = false;
};

// The last write, and of the reads since then the last one, and the last one by another thread (of
// another warp, if there was any).
struct Byte {
  uint32_t epoch = 0;  // the kernel, or for shared memory the block, that the rest is of
  Access write, read, other_read;
};

struct Page {
  static constexpr uintptr_t size = 4096;
  uint32_t epoch = 0;
  std::bitset<size / sector_bytes> read, written;  // sectors
  std::array<Byte, size> bytes;
};

// --- How a warp's lanes access memory together ---------------------------------------------------

// The n-th time that lanes come by a site is taken for one instruction of theirs.
struct Request {
  uintptr_t at[32];
  uint32_t lanes = 0;
};
// (An asynchronous copy reads and writes at one site.)
struct Way {
  uint32_t site;
  bool shared, writes;
  auto operator<=>(const Way&) const = default;
};
struct WarpAtSite {
  uint8_t bytes;
  uint32_t times[32] = {};
  std::vector<Request> requests;
};

int64_t sectors_of(const Request& r, unsigned bytes, int64_t& needed) {
  std::vector<uintptr_t> starts;
  for (unsigned l = 0; l < 32; ++l) {
    if (r.lanes >> l & 1) starts.push_back(r.at[l]);
  }
  std::sort(starts.begin(), starts.end());
  uintptr_t distinct = 0, end = 0, last_sector = 0;
  int64_t sectors = 0;
  for (const uintptr_t at : starts) {
    distinct += std::min<uintptr_t>(bytes, std::max(at + bytes, end) - std::max(at, end));
    end = std::max(end, at + bytes);
    for (uintptr_t s = at / sector_bytes; s <= (at + bytes - 1) / sector_bytes; ++s) {
      if (s > last_sector) ++sectors, last_sector = s;
    }
  }
  needed += int64_t(distinct + sector_bytes - 1) / sector_bytes;
  return sectors;
}

// Shared memory has 32 banks of 4 bytes; 8 and 16 bytes a lane are served by halves and quarters of
// a warp.
int64_t turns_of(const Request& r, unsigned bytes, int64_t& needed) {
  const unsigned lanes_at_once = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  int64_t turns = 0;
  for (unsigned first = 0; first < 32; first += lanes_at_once) {
    std::set<uintptr_t> words[32];
    for (unsigned l = first; l < first + lanes_at_once; ++l) {
      if (!(r.lanes >> l & 1)) continue;
      for (uintptr_t w = r.at[l] / 4; w <= (r.at[l] + bytes - 1) / 4; ++w) words[w % 32].insert(w);
    }
    size_t most = 0;
    for (const auto& bank : words) most = std::max(most, bank.size());
    turns += int64_t(most);
    needed += most > 0;
  }
  return turns;
}

// --- The watch -----------------------------------------------------------------------------------

struct Watch {
  bool on = false;                                      // a block runs
  std::vector<std::pair<uintptr_t, uintptr_t>> device;  // ranges, sorted
  std::pair<uintptr_t, uintptr_t> recent{};
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
  std::vector<Byte> shared;
  uintptr_t shared_at = 0, shared_end = 0;
  uint32_t kernel_epoch = 0, block_epoch = 0;
  int64_t block = 0;
  int threads = 0;
  Clocks clocks;
  std::vector<Times> fenced;              // of each thread, what its last fence covers
  std::map<uintptr_t, Released> atomics;  // by address
  std::vector<Released> seen;             // of each thread, by atomics since its last fence
  std::vector<Learnt> learnt;             // in this block
  std::vector<std::map<Way, WarpAtSite>> warps;
  KernelTraffic traffic;
  std::map<Way, size_t> traffic_of;  // index into traffic.sites
  std::vector<std::string> races;
  std::set<std::string> reported;
  std::vector<KernelTraffic>* log = nullptr;
};
Watch watch;
bool busy = false;  // in here: what this file itself accesses is of no interest

struct Busy {
  Busy() { busy = true; }
  ~Busy() { busy = false; }
};

bool on_device(uintptr_t at) {
  if (at >= watch.recent.first && at < watch.recent.second) return true;
  auto after =
      std::upper_bound(watch.device.begin(), watch.device.end(), std::pair(at, ~uintptr_t(0)));
  if (after == watch.device.begin() || at >= std::prev(after)->second) return false;
  watch.recent = *std::prev(after);
  return true;
}

// Whether what the thread that runs now does must come after it.
bool comes_before(const Access& earlier) {
  const int self = current_thread();
  if (earlier.block == uint32_t(watch.block)) {
    return watch.clocks.known(self, earlier.thread) >= earlier.time;
  }
  for (const Learnt& l : watch.learnt) {
    if (watch.clocks.known(self, l.thread) < l.time) continue;
    const auto found = l.what.find(earlier.block);
    if (found == l.what.end()) continue;
    if (earlier.atomic || (*found->second)[earlier.thread] >= earlier.time) return true;
  }
  return false;
}

std::string triple(unsigned i, dim3 of) {
  return "(" + std::to_string(i % of.x) + "," + std::to_string(i / of.x % of.y) + "," +
         std::to_string(i / (of.x * of.y)) + ")";
}
std::string text_of_thread(unsigned thread) { return triple(thread, blockDim); }
std::string text_of_block(uint32_t block) { return triple(block, gridDim); }

// Notes what is wrong with an access, once for each two lines; `then`: what comes after its place.
void report(const Access& now, bool writes, bool shared, const std::string& before,
            const std::string& then) {
  if (watch.races.size() >= 8) return;
  const std::string at = std::string(writes ? " writes" : " reads") +
                         (shared ? " shared memory at " : " device memory at ") + text(now.site);
  if (!watch.reported.insert(at + before).second) return;
  watch.races.push_back("block " + text_of_block(now.block) + ": thread " +
                        text_of_thread(now.thread) + at + " that " + then);
}

void report_race(const Access& earlier, bool wrote, const Access& now, bool writes, bool shared) {
  const std::string before = (wrote ? " writes at " : " reads at ") + text(earlier.site);
  const bool same_block = earlier.block == now.block;
  report(now, writes, shared, before,
         "thread " + text_of_thread(earlier.thread) +
             (same_block ? before + ", with no barrier between"
                         : " of block " + text_of_block(earlier.block) + before));
}

void note(Byte& byte, uint32_t epoch, const Access& now, bool writes, bool shared) {
  if (byte.epoch != epoch) byte = {epoch, {}, {}, {}};
  if (shared && !writes && !byte.write.exists) {  // on a GPU, whatever was there
    report(now, writes, shared, "", "nobody has written yet");
  }
  const auto check = [&](const Access& earlier, bool wrote) {
    if (!earlier.exists || (earlier.thread == now.thread && earlier.block == now.block)) return;
    if (earlier.atomic && now.atomic) return;
    if (!comes_before(earlier)) report_race(earlier, wrote, now, writes, shared);
  };
  check(byte.write, true);
  if (writes) {
    check(byte.read, false);
    check(byte.other_read, false);
    byte.write = now;
    byte.read.exists = byte.other_read.exists = false;
    return;
  }
  if (byte.read.exists) {
    const bool other_block = byte.read.block != now.block;
    const bool other_warp = other_block || byte.read.thread / 32 != now.thread / 32;
    const bool has_other_warp =
        byte.other_read.exists &&
        (byte.other_read.block != now.block || byte.other_read.thread / 32 != now.thread / 32);
    if (other_warp || (byte.read.thread != now.thread && !has_other_warp)) {
      byte.other_read = byte.read;
    }
  }
  byte.read = now;
}

void count_request(uint32_t site, uintptr_t at, unsigned bytes, bool writes, bool shared) {
  const int self = current_thread();
  const Way way{site, shared, writes};
  WarpAtSite& w = watch.warps[size_t(self / 32)]
                      .try_emplace(way, WarpAtSite{uint8_t(bytes), {}, {}})
                      .first->second;
  const uint32_t time = w.times[self % 32]++;
  if (time == w.requests.size()) w.requests.emplace_back();
  Request& r = w.requests[time];
  r.at[self % 32] = at;
  r.lanes |= 1u << self % 32;
  if (watch.traffic_of.try_emplace(way, watch.traffic.sites.size()).second) {
    watch.traffic.sites.push_back({"", shared, writes});
  }
}

void access(uintptr_t at, unsigned bytes, bool writes, uint32_t site, bool atomic = false,
            bool counted = true) {
  const bool shared = at >= watch.shared_at && at < watch.shared_end;
  if (!shared && !on_device(at)) return;
  const Access now{uint32_t(watch.block),
                   watch.clocks.now[size_t(current_thread())],
                   site,
                   uint16_t(current_thread()),
                   true,
                   atomic};
  if (shared) {
    for (uintptr_t b = at; b < std::min(at + bytes, watch.shared_end); ++b) {
      note(watch.shared[b - watch.shared_at], watch.block_epoch, now, writes, true);
    }
  } else {
    for (uintptr_t b = at; b < at + bytes;) {
      std::unique_ptr<Page>& page = watch.pages[b / Page::size];
      if (!page) page = std::make_unique<Page>();
      if (page->epoch != watch.kernel_epoch) {
        page->epoch = watch.kernel_epoch;
        page->read.reset();
        page->written.reset();
      }
      const uintptr_t end = std::min(at + bytes, (b / Page::size + 1) * Page::size);
      for (; b < end; ++b) {
        const uintptr_t sector = b % Page::size / sector_bytes;
        if (writes) {
          page->written.set(sector);
        } else if (!page->written[sector]) {
          page->read.set(sector);
        }
        note(page->bytes[b % Page::size], watch.kernel_epoch, now, writes, false);
      }
    }
  }
  if (counted) count_request(site, at, bytes, writes, shared);
}

// An access that g++ has put a call in front of; longer ones are cut.
void instrumented(const void* place, size_t bytes, bool writes, const void* instruction) {
  if (!watch.on || busy) return;
  const Busy here;
  const uint32_t site = number_of(instruction);
  uintptr_t at = reinterpret_cast<uintptr_t>(place);
  while (bytes > 0) {
    size_t piece = 16;
    while (piece > bytes || at % piece) piece /= 2;
    access(at, unsigned(piece), writes, site);
    at += piece, bytes -= piece;
  }
}

void atomic(const volatile void* place, unsigned bytes, const void* instruction) {
  if (!watch.on || busy) return;
  const Busy here;
  const uintptr_t at = reinterpret_cast<uintptr_t>(place);
  if (at >= watch.shared_at && at < watch.shared_end) {
    return access(at, bytes, true, number_of(instruction), true);
  }
  if (!on_device(at)) return;
  const size_t self = size_t(current_thread());
  access(at, bytes, true, number_of(instruction), true);
  Released& released = watch.atomics[at];
  for (const auto& [block, times] : released) watch.seen[self].insert_or_assign(block, times);
  // What it has learnt it hands on.
  for (const Learnt& l : watch.learnt) {
    if (watch.clocks.known(int(self), l.thread) < l.time) continue;
    for (const auto& [block, times] : l.what) released.try_emplace(block, times);
  }
  if (watch.fenced[self]) released.insert_or_assign(watch.block, watch.fenced[self]);
}

}  // namespace

void watch_kernel(const LaunchSite& site, int64_t blocks, int threads) {
  const Busy here;
  watch.device = device_ranges();
  watch.recent = {};
  ++watch.kernel_epoch;
  if (watch.pages.size() > 4096) watch.pages.clear();  // 200 KiB each
  watch.threads = threads;
  watch.atomics.clear();
  watch.races.clear();
  watch.reported.clear();
  watch.traffic_of.clear();
  watch.traffic = {std::string(site.function) + " (" + text_of(site.file, site.line) + ")", blocks,
                   threads};
}

void watch_block(int64_t block, const void* shared, size_t shared_bytes) {
  const Busy here;
  watch.block = block;
  watch.shared_at = reinterpret_cast<uintptr_t>(shared);
  watch.shared_end = watch.shared_at + shared_bytes;
  watch.shared.resize(shared_bytes);
  ++watch.block_epoch;
  watch.clocks.begin(watch.threads);
  watch.fenced.assign(size_t(watch.threads), nullptr);
  watch.seen.assign(size_t(watch.threads), {});
  watch.learnt.clear();
  watch.warps.clear();
  watch.warps.resize(size_t(watch.threads + 31) / 32);
  watch.on = true;
}

void end_of_watched_block() {
  const Busy here;
  watch.on = false;
  for (const auto& warp : watch.warps) {
    for (const auto& [way, w] : warp) {
      SiteTraffic& total = watch.traffic.sites[watch.traffic_of.at(way)];
      for (const Request& r : w.requests) {
        ++total.requests;
        total.bytes += std::popcount(r.lanes) * int64_t(w.bytes);
        total.moved +=
            way.shared ? turns_of(r, w.bytes, total.needed) : sectors_of(r, w.bytes, total.needed);
      }
    }
  }
}

void end_of_watched_kernel() {
  const Busy here;
  if (!watch.races.empty()) {
    std::string all =
        std::string("emulator: kernel launched by ") + watch.traffic.launched_by + ": race";
    for (const std::string& race : watch.races) all += "\n  " + race;
    throw Error(all);
  }
  if (!watch.log) return;
  for (const auto& [number, page] : watch.pages) {
    if (page->epoch != watch.kernel_epoch) continue;
    watch.traffic.bytes_read += sector_bytes * int64_t(page->read.count());
    watch.traffic.bytes_written += sector_bytes * int64_t(page->written.count());
  }
  std::set<uint32_t> all;
  for (const auto& [way, index] : watch.traffic_of) all.insert(way.site);
  find_texts(all);
  for (const auto& [way, index] : watch.traffic_of) {
    watch.traffic.sites[index].where = texts.at(way.site);
  }
  watch.log->push_back(watch.traffic);
}

void print_races() {
  for (const std::string& race : watch.races) std::fprintf(stderr, "race: %s\n", race.c_str());
}

void watch_barrier(int first, int n) {
  if (!watch.on) return;
  const Busy here;
  watch.clocks.meet(first, n);
}

void watch_fence() {
  if (!watch.on || busy) return;
  const Busy here;
  const int self = current_thread();
  Clocks& clocks = watch.clocks;
  if (!watch.seen[size_t(self)].empty()) {
    watch.learnt.push_back({self, clocks.now[size_t(self)], std::move(watch.seen[size_t(self)])});
    watch.seen[size_t(self)].clear();
  }
  auto times = std::make_shared<std::vector<uint32_t>>(static_cast<size_t>(watch.threads));
  for (int u = 0; u < watch.threads; ++u) (*times)[size_t(u)] = clocks.known(self, u);
  watch.fenced[size_t(self)] = times;
  ++clocks.now[size_t(self)];
}

void watch_access(const void* at, size_t bytes, bool writes, Where where, bool counted) {
  if (!watch.on || busy) return;
  const Busy here;
  access(reinterpret_cast<uintptr_t>(at), unsigned(bytes), writes, number_of(Site{nullptr, where}),
         false, counted);
}
void watch_access(const void* at, size_t bytes, bool writes, const void* instruction) {
  instrumented(at, bytes, writes, instruction);
}

}  // namespace dyt::emulator

namespace dyt {

bool can_watch_traffic() { return true; }

std::vector<KernelTraffic> watch_traffic(const std::function<void()>& work) {
  std::vector<KernelTraffic> log;
  emulator::watch.log = &log;
  try {
    work();
  } catch (...) {
    emulator::watch.log = nullptr;
    throw;
  }
  emulator::watch.log = nullptr;
  return log;
}

}  // namespace dyt

// --- What g++ -fsanitize=thread calls ------------------------------------------------------------

#define HERE __builtin_return_address(0)
#define WATCH_SIZE(n)                                                                          \
  void __tsan_read##n(void* at) { dyt::emulator::instrumented(at, n, false, HERE); }           \
  void __tsan_write##n(void* at) { dyt::emulator::instrumented(at, n, true, HERE); }           \
  void __tsan_unaligned_read##n(void* at) { dyt::emulator::instrumented(at, n, false, HERE); } \
  void __tsan_unaligned_write##n(void* at) { dyt::emulator::instrumented(at, n, true, HERE); } \
  void __tsan_volatile_read##n(void* at) { dyt::emulator::instrumented(at, n, false, HERE); }  \
  void __tsan_volatile_write##n(void* at) { dyt::emulator::instrumented(at, n, true, HERE); }
// The operations themselves are sequentially consistent, whatever was asked for.
#define WATCH_ATOMIC(bits, T, operation)                              \
  T __tsan_atomic##bits##_##operation(volatile T* at, T value, int) { \
    dyt::emulator::atomic(at, sizeof(T), HERE);                       \
    return __atomic_##operation(at, value, __ATOMIC_SEQ_CST);         \
  }
extern "C" {
WATCH_SIZE(1)
WATCH_SIZE(2)
WATCH_SIZE(4)
WATCH_SIZE(8)
WATCH_SIZE(16)
void __tsan_read_range(void* at, size_t n) { dyt::emulator::instrumented(at, n, false, HERE); }
void __tsan_write_range(void* at, size_t n) { dyt::emulator::instrumented(at, n, true, HERE); }
void __tsan_vptr_read(void*) {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
WATCH_ATOMIC(32, unsigned, fetch_add)
WATCH_ATOMIC(64, unsigned long, fetch_add)
WATCH_ATOMIC(32, unsigned, fetch_sub)
// Of static variables, whether they are made.
char __tsan_atomic8_load(const volatile char* at, int) {
  return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}
}

#endif
