// Tensor cores and asynchronous copies: the instructions that CUDA C++ has no words for. Only .cu
// files include this. Most PTX is here and in core/warpgroup.h; a line or two is in core/dtype.h,
// kernel.h, launch.h and philox.h.
//
// Each wrapper has two bodies: the instruction (PTX ISA 9.0; the sections are named), and what it
// means, for the emulator. All of a warp call mma and ldmatrix together.
//
// A warp holds a matrix in pieces. With lane = 4 g + t (g = lane / 4, t = lane % 4), registers of
// two bf16 each, the first in the lower half ("Matrix Fragments for mma.m16n8k16"):
//
//   A (16, 16)   a[0]: row g,     columns 2t, 2t+1      a[2]: row g,     columns 2t+8, 2t+9
//                a[1]: row g + 8, columns 2t, 2t+1      a[3]: row g + 8, columns 2t+8, 2t+9
//   B (16, 8)    b[0]: rows 2t, 2t+1, column g          b[1]: rows 2t+8, 2t+9, column g
//   C (16, 8)    c[0], c[1]: row g, columns 2t, 2t+1    c[2], c[3]: row g + 8, the same columns
//
// So two neighbouring tiles of C, rounded to bf16 in place, are a tile of A: what one product gives
// goes into the next one without a thread asking another.
#pragma once
#include "core/dtype.h"
#include "core/launch.h"

// In the emulator an error names the line that called.
#if defined(DYT_EMULATED)
#define EMULATED_WHERE , emulator::Where where = emulator::Where::current()
#else
#define EMULATED_WHERE
#endif

namespace dyt {

#if defined(DYT_EMULATED)

namespace emulator {

inline float lower(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
inline float upper(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

// One row of 8 bf16 from every lane's address; lane l's row r of matrix i is lanes[8 i + r].
ONE_ACCESS inline const Words* exchange_rows(const bf16* row, Where where) {
  if (reinterpret_cast<uintptr_t>(row) % 16) fail_in_kernel("misaligned row of ldmatrix", where);
  if constexpr (watched) watch_access(row, 16, false, where);
  Words words{};
  std::memcpy(words.word, row, 16);
  return warp_exchange(0xffffffffu, words, where);
}

}  // namespace emulator

#endif

// c += a b, (16, 8) = (16, 16) (16, 8), bf16 products summed in f32.
// "Multiply-and-Accumulate Instruction: mma".
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b_0,
                           uint32_t b_1 EMULATED_WHERE) {
#if defined(DYT_EMULATED)
  using namespace emulator;
  const Words* const lanes =
      warp_exchange(0xffffffffu, Words{{a[0], a[1], a[2], a[3], b_0, b_1}}, where);
  const unsigned g = lane() / 4, t = lane() % 4;
  for (unsigned e = 0; e < 4; ++e) {
    const unsigned half = e / 2, column = 2 * t + e % 2;  // row g + 8 half
    for (unsigned k = 0; k < 16; k += 2) {
      const unsigned in_group = k % 8 / 2, high = k / 8;
      const uint32_t a_k = lanes[4 * g + in_group].word[half + 2 * high];
      const uint32_t b_k = lanes[4 * column + in_group].word[4 + high];
      c[e] += lower(a_k) * lower(b_k) + upper(a_k) * upper(b_k);
    }
  }
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_0), "r"(b_1));
#endif
}

// Four 8 x 8 matrices from shared memory. Lane l gives the address of row l % 8 of matrix l / 8 (16
// bytes, aligned); r[i] is, of matrix i, row g, columns 2t and 2t + 1.
// "Warp-level matrix load instruction: ldmatrix".
__device__ inline void ldmatrix(uint32_t (&r)[4], const bf16* row EMULATED_WHERE) {
#if defined(DYT_EMULATED)
  using namespace emulator;
  const Words* const lanes = exchange_rows(row, where);
  for (unsigned i = 0; i < 4; ++i) r[i] = lanes[8 * i + lane() / 4].word[lane() % 4];
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

// The same, each matrix turned over: r[i] is, of matrix i, rows 2t and 2t + 1 of column g.
__device__ inline void ldmatrix_transposed(uint32_t (&r)[4], const bf16* row EMULATED_WHERE) {
#if defined(DYT_EMULATED)
  using namespace emulator;
  const Words* const lanes = exchange_rows(row, where);
  const unsigned g = lane() / 4, t = lane() % 4;
  const auto at = [&](unsigned i, unsigned r, unsigned column) {
    return lanes[8 * i + r].word[column / 2] >> 16 * (column % 2) & 0xffffu;
  };
  for (unsigned i = 0; i < 4; ++i) r[i] = at(i, 2 * t, g) | at(i, 2 * t + 1, g) << 16;
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(uint32_t(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

// Starts a copy of BYTES (4, 8 or 16, and aligned to as many) from device to shared memory that
// goes on while the thread computes; with `exists` false, nothing is read and zeros are written.
// The numbers may be read by this thread after wait_for_copies, by others after a barrier beyond
// it; until then what the place holds is undefined. "Non-bulk copy: cp.async".
template <int BYTES>
__device__ inline void copy_async(void* to, const void* from, bool exists EMULATED_WHERE) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
#if defined(DYT_EMULATED)
  emulator::copy_async(to, from, BYTES, exists, where);
#else
  const uint32_t place = uint32_t(__cvta_generic_to_shared(to)), bytes = exists ? BYTES : 0;
  if constexpr (BYTES == 16) {  // past the L1 cache
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(place), "l"(from),
                 "n"(BYTES), "r"(bytes)
                 : "memory");
  }
#endif
}

// Ends a group: the copies that this thread has started since the last one (perhaps none).
__device__ inline void commit_copies() {
#if defined(DYT_EMULATED)
  emulator::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the NEWEST last groups of this thread are under way.
template <int NEWEST>
__device__ inline void wait_for_copies() {
#if defined(DYT_EMULATED)
  emulator::wait_for_copies(NEWEST);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(NEWEST) : "memory");
#endif
}

// 2^x, 0 for -infinity; relative error 2^-22 ("ex2").
__device__ inline float exp2_approx(float x) {
#if defined(DYT_EMULATED)
  return std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// 1 / x, 0 for infinity; relative error 2^-23 ("rcp").
__device__ inline float reciprocal_approx(float x) {
#if defined(DYT_EMULATED)
  return 1 / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// 1 / sqrt(x), 0 for infinity; relative error 2^-22 ("rsqrt").
__device__ inline float reciprocal_sqrt_approx(float x) {
#if defined(DYT_EMULATED)
  return 1 / std::sqrt(x);
#else
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// log2(x); absolute error 2^-22 around 1, relative error 2^-22 elsewhere ("lg2").
__device__ inline float log2_approx(float x) {
#if defined(DYT_EMULATED)
  return std::log2(x);
#else
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// Two numbers rounded to bf16, the first in the lower half ("cvt").
__device__ inline uint32_t pack_bf16(float first, float second) {
#if defined(DYT_EMULATED)
  return uint32_t(bf16(first).bits) | uint32_t(bf16(second).bits) << 16;
#else
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#endif
}

#undef EMULATED_WHERE

}  // namespace dyt
