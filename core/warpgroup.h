// Tensor cores of Hopper: products that a warpgroup, 4 warps, starts and waits for (sm_90a). Only
// .cu files include this; as in core/tensor_core.h each wrapper has two bodies, the instruction
// (PTX ISA 9.0, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Operation"; its sections
// are named) and what it means, for the emulator (core/emulator_async.cpp).
//
// All 128 threads of a warpgroup call all of this together. Warp w of 4 holds the rows from 16 w on
// of A (64, 16) and of the sums D (64, N), in registers as mma.sync has them ("Register Fragments",
// m64nNk16; core/tensor_core.h draws them). With lane = 4 g + t, a thread has of these 16 rows
//
//   A    a[0]: row g,     columns 2t, 2t+1      a[2]: row g,     columns 2t+8, 2t+9
//        a[1]: row g + 8, columns 2t, 2t+1      a[3]: row g + 8, columns 2t+8, 2t+9
//   D    d[j][0], d[j][1]: row g, columns 8j + 2t, 8j + 2t + 1
//        d[j][2], d[j][3]: row g + 8, the same columns
//
// In what order things happen ("Async Proxy", "wgmma.fence"):
//
//   fence_async_proxy()         by whoever wrote the tiles, copy_async included, before the barrier
//   warpgroup_fence(d, a)       the registers are ready: sums and left sides written before
//   wgmma(d, ...), wgmma(d, ...), ...
//   warpgroup_commit()          ends a group
//   warpgroup_wait<n>(d)        all but the n newest groups are done; their d may be read, their
//                               tiles and a overwritten
//
// The fence and the wait are given the registers, because to nvcc's optimiser a product is an
// instruction like any other, done when it is issued: arithmetic on d would move before the wait.
// (Triton, CUTLASS and others tie them in the same way.)
//
// Tiles. What comes from shared memory is cut into rows of 128 bytes, 64 bf16; 8 rows, 1024 bytes,
// are an atom, which begins at a multiple of 1024. In the atom the 16-byte chunk c of row r lies at
// chunk c ^ r: bits 4 to 6 of an address ^= its bits 7 to 9 ("Shared Memory Matrix Layout", 128B
// swizzling; CUTLASS: Swizzle<3,4,3>). A product meets such a tile in one of two ways ("Major-ness
// supported by Strides"; CUTLASS: make_gmma_desc(), layout type B128; ThunderKittens' descriptors
// have the same numbers):
//
//   K-major    what is multiplied runs along the rows: a tile (rows, 64) as A, or as B with a row
//              per column of the product. Byte of (row, k):
//                row / 8 * stride + row % 8 * 128 + 2 k            (leading is not used)
//              The next 16 of k begin 32 bytes further on in the same atom: what is swizzled is the
//              whole address, so that this may be added to the start.
//   MN-major   what is multiplied runs across the rows: a tile (k, 64) as B, a column of the tile
//              per column of the product ("imm-trans-b"). Byte of (k, n):
//                n / 64 * leading + k / 8 * stride + k % 8 * 128 + 2 (n % 64)
//              The next 16 of k are two atoms further on.
//
// Here atoms follow each other down the rows, so stride is 1024 bytes; a matrix with 128 columns is
// two tiles, one behind the other, so leading is the size of one.
#pragma once
#include "core/tensor_core.h"

#if defined(DYT_EMULATED)
#define EMULATED_WHERE , emulator::Where where = emulator::Where::current()
#else
#define EMULATED_WHERE
#endif

// Defined where the instructions exist, and where nvcc reads a file for the host; in code for other
// GPUs kernels that use them are left empty.
#if defined(DYT_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define WARPGROUPS
#endif

// DYNAMIC_SHARED at a multiple of 1024 bytes, for tiles.
#if defined(DYT_EMULATED)
#define DYNAMIC_SHARED_TILES(T, name) DYNAMIC_SHARED(T, name)
#else
#define DYNAMIC_SHARED_TILES(T, name)                          \
  extern __shared__ __align__(1024) uint4 dyt_dynamic_tiles[]; \
  T* name = reinterpret_cast<T*>(dyt_dynamic_tiles)
#endif

namespace dyt {

// Where a matrix lies, for wgmma: "Matrix Descriptor Format". Bits 0-13 start address, 16-29
// leading dimension byte offset, 32-45 stride dimension byte offset, each without its last 4 bits;
// 49-51 base offset, 0 for atoms at multiples of 1024 bytes; 62-63 swizzle, 1 for 128 bytes.
__device__ inline uint64_t matrix_descriptor(const bf16* start, unsigned leading_bytes,
                                             unsigned stride_bytes = 1024) {
#if defined(DYT_EMULATED)
  const uint32_t address = emulator::shared_address(start);
#else
  const uint32_t address = uint32_t(__cvta_generic_to_shared(start));
#endif
  return uint64_t(1) << 62 | uint64_t(stride_bytes >> 4) << 32 |
         uint64_t(leading_bytes >> 4) << 16 | (address & 0x3ffff) >> 4;
}
// The matrix that begins so many bytes further on.
__device__ inline uint64_t advance(uint64_t descriptor, unsigned bytes) {
  return descriptor + (bytes >> 4);
}

// What this thread has written to shared memory, by copies it has waited for or otherwise, will be
// seen by products: before the barrier that tells the others. "Async Proxy", "membar/fence".
__device__ inline void fence_async_proxy() {
#if defined(DYT_EMULATED)
  emulator::fence_async_proxy();
#elif defined(WARPGROUPS)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#if defined(WARPGROUPS) && !defined(DYT_EMULATED)
// Pins a value: what computes it stays before, what uses it stays behind.
__device__ inline void pin(float& r) { asm volatile("" : "+f"(r)::"memory"); }
__device__ inline void pin(uint32_t& r) { asm volatile("" : "+r"(r)::"memory"); }
template <class T, int N>
__device__ inline void pin(T (&r)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) pin(r[i]);
}
#endif

// Before the first product and after registers of sums or left sides, given here, were read or
// written. "wgmma.fence".
template <class... R>
__device__ inline void warpgroup_fence(R&... registers) {
#if defined(DYT_EMULATED)
  emulator::warpgroup_fence({{reinterpret_cast<const char*>(&registers), sizeof registers}...});
#elif defined(WARPGROUPS)
  (pin(registers), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Ends a group: the products since the last one. "wgmma.commit_group".
__device__ inline void warpgroup_commit() {
#if defined(DYT_EMULATED)
  emulator::warpgroup_commit();
#elif defined(WARPGROUPS)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Waits until of the groups at most the NEWEST ones are still under way; d (and more): the sums of
// those that are not. "wgmma.wait_group".
template <int NEWEST, class D>
__device__ inline void warpgroup_wait(D& d EMULATED_WHERE) {
#if defined(DYT_EMULATED)
  emulator::warpgroup_wait(NEWEST, {{reinterpret_cast<const char*>(&d), sizeof d}}, where);
#elif defined(WARPGROUPS)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(NEWEST) : "memory");
  pin(d);
#endif
}
template <int NEWEST, class D>
__device__ inline void warpgroup_wait(D& d, D& more EMULATED_WHERE) {
#if defined(DYT_EMULATED)
  const auto registers = [](D& x) {
    return emulator::Registers{reinterpret_cast<const char*>(&x), sizeof x};
  };
  emulator::warpgroup_wait(NEWEST, {registers(d), registers(more)}, where);
#elif defined(WARPGROUPS)
  warpgroup_wait<NEWEST>(d);
  pin(more);
#endif
}

// The text of a product: N columns, the names of D's registers, whether it adds (else D's old
// numbers don't matter and are not read), A, B, and further operands.
#if defined(WARPGROUPS) && !defined(DYT_EMULATED)
#define WGMMA_TEXT(N, D, ADDS, OPERANDS)         \
  "{\n.reg .pred adds;\nsetp.ne.b32 adds, " ADDS \
  ", 0;\n"                                       \
  "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" D "}, " OPERANDS ";\n}\n"
#define WGMMA_32                                                                          \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_64                                                                            \
  WGMMA_32                                                                                  \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, " \
  "%49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_D(C, J) C(d[J][0]), C(d[J][1]), C(d[J][2]), C(d[J][3])
#define WGMMA_D4(C, J) WGMMA_D(C, J), WGMMA_D(C, J + 1), WGMMA_D(C, J + 2), WGMMA_D(C, J + 3)
#define WGMMA_D8(C) WGMMA_D4(C, 0), WGMMA_D4(C, 4)
#define WGMMA_D16(C) WGMMA_D8(C), WGMMA_D4(C, 8), WGMMA_D4(C, 12)
#endif

// d = a b, or d += a b with ADD: (64, 8 J) = (64, 16) (16, 8 J), J = 8 or 16. a and b are
// descriptors, a K-major, b MN-major if B_MN_MAJOR. "wgmma.mma_async".
template <bool ADD, bool B_MN_MAJOR, int J>
__device__ inline void wgmma(float (&d)[J][4], uint64_t a, uint64_t b EMULATED_WHERE) {
  static_assert(J == 8 || J == 16);
#if defined(DYT_EMULATED)
  emulator::warpgroup_multiply({&d[0][0], nullptr, a, b, 8 * J, ADD, B_MN_MAJOR}, where);
#elif defined(WARPGROUPS)
  constexpr int transposed = B_MN_MAJOR;
  if constexpr (J == 8 && ADD) {
    asm volatile(WGMMA_TEXT(64, WGMMA_32, "1", "%32, %33, adds, 1, 1, 0, %34")
                 : WGMMA_D8("+f")
                 : "l"(a), "l"(b), "n"(transposed)
                 : "memory");
  } else if constexpr (J == 8) {
    asm volatile(WGMMA_TEXT(64, WGMMA_32, "0", "%32, %33, adds, 1, 1, 0, %34")
                 : WGMMA_D8("=f")
                 : "l"(a), "l"(b), "n"(transposed)
                 : "memory");
  } else if constexpr (ADD) {
    asm volatile(WGMMA_TEXT(128, WGMMA_64, "1", "%64, %65, adds, 1, 1, 0, %66")
                 : WGMMA_D16("+f")
                 : "l"(a), "l"(b), "n"(transposed)
                 : "memory");
  } else {
    asm volatile(WGMMA_TEXT(128, WGMMA_64, "0", "%64, %65, adds, 1, 1, 0, %66")
                 : WGMMA_D16("=f")
                 : "l"(a), "l"(b), "n"(transposed)
                 : "memory");
  }
#endif
}

// The same with a from registers, and always added.
template <bool B_MN_MAJOR, int J>
__device__ inline void wgmma(float (&d)[J][4], const uint32_t (&a)[4], uint64_t b EMULATED_WHERE) {
  static_assert(J == 8 || J == 16);
#if defined(DYT_EMULATED)
  emulator::warpgroup_multiply({&d[0][0], a, 0, b, 8 * J, true, B_MN_MAJOR}, where);
#elif defined(WARPGROUPS)
  constexpr int transposed = B_MN_MAJOR;
  if constexpr (J == 8) {
    asm volatile(WGMMA_TEXT(64, WGMMA_32, "1", "{%32, %33, %34, %35}, %36, adds, 1, 1, %37")
                 : WGMMA_D8("+f")
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(transposed)
                 : "memory");
  } else {
    asm volatile(WGMMA_TEXT(128, WGMMA_64, "1", "{%64, %65, %66, %67}, %68, adds, 1, 1, %69")
                 : WGMMA_D16("+f")
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(transposed)
                 : "memory");
  }
#endif
}

#undef WGMMA_TEXT
#undef WGMMA_32
#undef WGMMA_64
#undef WGMMA_D
#undef WGMMA_D4
#undef WGMMA_D8
#undef WGMMA_D16
#undef EMULATED_WHERE

}  // namespace dyt
