// Asynchronous copies and the products of warpgroups, in the emulator. Both are done as late as the
// program allows, when a thread waits for them, so that whoever comes too early or overwrites
// something too soon finds NaN or an error.
#include "core/emulator_async.h"

#include <bit>
#include <deque>
#include <string>

#include "core/emulator_watch.h"

namespace dyt::emulator {
namespace {

constexpr int warpgroup = 128;
// On sm_90 the system has the first KiB of shared memory.
constexpr unsigned first_shared_address = 1024;

struct Copy {
  char* to;
  int bytes, group;
  char data[16];
  Where where;
};

struct Range {
  const char* data;
  size_t bytes;
  bool contains(const void* p) const { return p >= data && p < data + bytes; }
};

// A product under way. A thread's registers are arrays of the kernel's, known by their addresses.
struct Product {
  Where where;
  WarpgroupProduct what{};  // (the registers in it are those of the first thread)
  int group = 0;
  int arrived = 0;  // threads that have called
  struct {
    float* d;
    const uint32_t* a;
    uint32_t a_was[4];
    std::vector<float> d_was;  // what is added to, if no earlier product of these gives that
  } of[warpgroup]{};
  std::vector<uint16_t> a, b;  // the matrices in shared memory when the last thread called
};

struct Warpgroup {
  std::deque<Product> in_flight;
  int64_t completed = 0;
};

struct Thread {
  std::vector<Copy> copies;  // under way, in the order in which they were started
  int copy_groups = 0;       // committed
  int proxy_fences = 0;
  int64_t products = 0;  // of warpgroups, called
  int product_groups = 0;
  bool fenced = false;  // since it has last waited
  std::vector<Range> fenced_registers, awaited_registers;
  int newest = 0;  // groups that it doesn't wait for
  Where awaited_at;
};

// Who copied 16 bytes of shared memory to their place, and after how many fences.
struct Copied {
  int thread = -1, fences = 0;
};

thread_local std::vector<Thread> threads;
thread_local std::vector<Warpgroup> warpgroups;
thread_local std::vector<Copied> copied;
thread_local char* shared_memory = nullptr;
thread_local size_t shared_bytes = 0;

Thread& self() { return threads[size_t(current_thread())]; }
Warpgroup& own_warpgroup() { return warpgroups[size_t(current_thread() / warpgroup)]; }
Thread* threads_of_warpgroup() {
  return &threads[size_t(current_thread() / warpgroup * warpgroup)];
}

bool is_nan_pattern(const float* d, int n) {
  const unsigned char* const bytes = reinterpret_cast<const unsigned char*>(d);
  return std::all_of(bytes, bytes + size_t(n) * sizeof(float), [](int b) { return b == 0xff; });
}

// The bf16 number at an address of shared memory.
uint16_t number_at(unsigned address, Where where) {
  const size_t place = address - first_shared_address;
  if (place + 2 > shared_bytes) {
    fail_in_kernel("a matrix of wgmma lies outside dynamic shared memory", where);
  }
  const Copied& by = copied[place / 16];
  if (by.thread >= 0 && threads[size_t(by.thread)].proxy_fences == by.fences) {
    fail_in_kernel(("shared memory that wgmma reads was copied by thread " +
                    std::to_string(by.thread) + ", which has called no fence_async_proxy() since")
                       .c_str(),
                   where);
  }
  uint16_t bits;
  std::memcpy(&bits, shared_memory + place, 2);
  if constexpr (watched) watch_access(shared_memory + place, 2, false, where, false);
  return bits;
}

// The matrix (rows, 16) of a descriptor: rows are those of A or the columns of B, which have to be
// multiplied along the 16. See core/warpgroup.h for the sections of the PTX ISA.
std::vector<uint16_t> matrix_of(uint64_t descriptor, int rows, bool mn_major, Where where) {
  const auto bits = [&](int from, int n) { return unsigned(descriptor >> from & ((1u << n) - 1)); };
  const unsigned start = bits(0, 14) << 4, leading = bits(16, 14) << 4, stride = bits(32, 14) << 4;
  if (bits(14, 2) || bits(30, 2) || bits(46, 3) || bits(52, 10)) {
    fail_in_kernel("reserved bits of a matrix descriptor are set", where);
  }
  if (bits(62, 2) != 1) {
    fail_in_kernel("the emulator knows matrices with the 128-byte swizzle only", where);
  }
  if (bits(49, 3) || start >> 7 & 7) {
    fail_in_kernel("a matrix with the 128-byte swizzle does not begin at a multiple of 1024 bytes",
                   where);
  }
  std::vector<uint16_t> matrix(size_t(rows) * 16);
  for (unsigned r = 0; r < unsigned(rows); ++r) {
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned linear =
          start + (mn_major ? r / 64 * leading + r % 64 * 2 + k / 8 * stride + k % 8 * 128
                            : r / 8 * stride + r % 8 * 128 + k * 2);
      matrix[r * 16 + k] = number_at(linear ^ (linear >> 7 & 7) << 4, where);
    }
  }
  return matrix;
}

float number(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

// d = a b, or d += a b, of one product whose turn it is.
void complete(Warpgroup& w, Product& p) {
  const WarpgroupProduct& what = p.what;
  const int N = what.n;
  if (matrix_of(what.b, N, what.b_mn_major, p.where) != p.b ||
      (!what.a_registers && matrix_of(what.a, 64, false, p.where) != p.a)) {
    fail_in_kernel("shared memory was written while wgmma was reading it", p.where);
  }
  std::vector<float> a(64 * 16), b(size_t(16 * N)), c(size_t(64 * N));
  for (int t = 0; t < warpgroup && what.a_registers; ++t) {
    if (std::memcmp(p.of[t].a, p.of[t].a_was, sizeof p.of[t].a_was) != 0) {
      fail_in_kernel("registers of the left matrix were written while wgmma was reading them",
                     p.where);
    }
    for (int i = 0; i < 8; ++i) {
      const int row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8, k = t % 4 * 2 + i % 2 + i / 4 * 8;
      a[size_t(row * 16 + k)] = number(p.of[t].a_was[i / 2] >> i % 2 * 16 & 0xffffu);
    }
  }
  for (size_t i = 0; i < p.a.size(); ++i) a[i] = number(p.a[i]);
  for (size_t n = 0; n < size_t(N); ++n) {
    for (size_t k = 0; k < 16; ++k) b[k * size_t(N) + n] = number(p.b[n * 16 + k]);
  }
  for (size_t row = 0; row < 64; ++row) {
    for (size_t k = 0; k < 16; ++k) {
      for (size_t n = 0; n < size_t(N); ++n) {
        c[row * size_t(N) + n] += a[row * 16 + k] * b[k * size_t(N) + n];
      }
    }
  }
  for (int t = 0; t < warpgroup; ++t) {
    auto& of = p.of[t];
    if (!is_nan_pattern(of.d, N / 2)) {
      fail_in_kernel("registers of sums were written while wgmma was adding to them", p.where);
    }
    std::vector<float> result(size_t(N / 2));
    for (int i = 0; i < N / 2; ++i) {
      const int row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8, n = i / 4 * 8 + t % 4 * 2 + i % 2;
      result[size_t(i)] = c[size_t(row * N + n)] + (what.accumulate ? of.d_was[size_t(i)] : 0);
    }
    const auto next = std::find_if(w.in_flight.begin() + 1, w.in_flight.end(),
                                   [&](const Product& other) { return other.of[t].d == of.d; });
    if (next != w.in_flight.end()) {
      next->of[t].d_was = result;
    } else {
      std::copy(result.begin(), result.end(), of.d);
    }
  }
}

// For the whole warpgroup, by its thread that was the last to wait.
void complete_awaited() {
  Warpgroup& w = own_warpgroup();
  const Thread& me = self();
  const Thread* const all = threads_of_warpgroup();
  const int lane = current_thread() % warpgroup;
  while (!w.in_flight.empty()) {
    Product& p = w.in_flight.front();
    if (p.group >= me.product_groups - me.newest) break;
    if (p.arrived < warpgroup) {
      fail_in_kernel(("wgmma was called by " + std::to_string(p.arrived) +
                      " of the 128 threads of a warpgroup")
                         .c_str(),
                     p.where);
    }
    const auto& awaited = me.awaited_registers;
    if (std::none_of(awaited.begin(), awaited.end(),
                     [&](const Range& r) { return r.contains(p.of[lane].d); })) {
      fail_in_kernel("warpgroup_wait() was not given the sums of this product", p.where);
    }
    complete(w, p);
    w.in_flight.pop_front();
    ++w.completed;
  }
  for (int t = 0; t < warpgroup; ++t) {
    if (all[t].product_groups != me.product_groups || all[t].products != me.products) {
      fail_in_kernel("the threads of a warpgroup wait for different products", me.awaited_at);
    }
  }
}

}  // namespace

void begin_async(int n, char* shared, size_t bytes) {
  threads.assign(size_t(n), Thread{});
  warpgroups.clear();
  warpgroups.resize(size_t(n + warpgroup - 1) / warpgroup);
  copied.assign((bytes + 15) / 16, Copied{});
  shared_memory = shared;
  shared_bytes = bytes;
}

void copy_async(void* to, const void* from, int bytes, bool exists, Where where) {
  const auto aligned = [&](const void* p) {
    return reinterpret_cast<uintptr_t>(p) % unsigned(bytes) == 0;
  };
  if (!aligned(to) || (exists && !aligned(from))) {
    fail_in_kernel("misaligned asynchronous copy", where);
  }
  Thread& t = self();
  if constexpr (watched) {
    if (exists) watch_access(from, size_t(bytes), false, where);
    watch_access(to, size_t(bytes), true, where);
  }
  Copy& copy = t.copies.emplace_back(Copy{static_cast<char*>(to), bytes, t.copy_groups, {}, where});
  if (exists) std::memcpy(copy.data, from, size_t(bytes));
  std::memset(to, 0xff, size_t(bytes));
}

void commit_copies() { ++self().copy_groups; }

void wait_for_copies(int newest) {
  Thread& t = self();
  auto copy = t.copies.begin();
  for (; copy != t.copies.end() && copy->group < t.copy_groups - newest; ++copy) {
    std::memcpy(copy->to, copy->data, size_t(copy->bytes));
    if constexpr (watched) watch_access(copy->to, size_t(copy->bytes), true, copy->where, false);
    const size_t place = size_t(copy->to - shared_memory);
    if (place < shared_bytes) copied[place / 16] = {current_thread(), t.proxy_fences};
  }
  t.copies.erase(t.copies.begin(), copy);
}

void fence_async_proxy() { ++self().proxy_fences; }

unsigned shared_address(const void* place) {
  return unsigned(static_cast<const char*>(place) - shared_memory) + first_shared_address;
}

void warpgroup_fence(std::initializer_list<Registers> registers) {
  Thread& t = self();
  t.fenced = true;
  for (const Registers& r : registers) t.fenced_registers.push_back({r.data, r.bytes});
}

void warpgroup_multiply(const WarpgroupProduct& what, Where where) {
  if ((current_thread() / warpgroup + 1) * warpgroup > int(threads.size())) {
    fail_in_kernel("wgmma in a block whose size is not a multiple of 128", where);
  }
  Warpgroup& w = own_warpgroup();
  Thread& t = self();
  const auto fenced = [&](const void* p) {
    return std::any_of(t.fenced_registers.begin(), t.fenced_registers.end(),
                       [&](const Range& r) { return r.contains(p); });
  };
  const auto index = size_t(t.products++ - w.completed);
  if (index == w.in_flight.size()) {
    Product& next = w.in_flight.emplace_back();
    next.where = where;
    next.what = what;
    next.group = t.product_groups;
  }
  Product& p = w.in_flight[index];
  const bool chained = std::any_of(
      w.in_flight.begin(), w.in_flight.begin() + long(index),
      [&](const Product& other) { return other.of[current_thread() % warpgroup].d == what.d; });
  if (!t.fenced || (what.accumulate && !chained && !fenced(what.d)) ||
      (what.a_registers && !fenced(what.a_registers))) {
    fail_in_kernel("wgmma without a warpgroup_fence() that is given its registers", where);
  }
  if (p.what.a != what.a || p.what.b != what.b || p.what.n != what.n ||
      p.what.accumulate != what.accumulate || p.what.b_mn_major != what.b_mn_major ||
      !p.what.a_registers != !what.a_registers || p.group != t.product_groups) {
    fail_in_kernel("the threads of a warpgroup call wgmma with different operands", where);
  }
  auto& of = p.of[current_thread() % warpgroup];
  of.d = what.d;
  of.a = what.a_registers;
  if (of.a) std::memcpy(of.a_was, of.a, sizeof of.a_was);
  if (what.accumulate && !chained) of.d_was.assign(what.d, what.d + what.n / 2);
  std::memset(what.d, 0xff, size_t(what.n / 2) * sizeof(float));
  if (++p.arrived < warpgroup) return;
  if (!what.a_registers) p.a = matrix_of(what.a, 64, false, where);
  p.b = matrix_of(what.b, what.n, what.b_mn_major, where);
}

void warpgroup_commit() { ++self().product_groups; }

void warpgroup_wait(int newest, std::initializer_list<Registers> registers, Where where) {
  Thread& t = self();
  t.newest = newest;
  t.awaited_at = where;
  t.awaited_registers.clear();
  for (const Registers& r : registers) t.awaited_registers.push_back({r.data, r.bytes});
  warpgroup_barrier(where, complete_awaited);
  t.fenced = false;
  t.fenced_registers.clear();
}

}  // namespace dyt::emulator
