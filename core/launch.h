// Launching kernels, and the few keywords that differ between nvcc and the emulator. Only .cu files
// include this.
//
//     launch(kernel, grid, block)(arguments...);
//     launch(kernel, grid, block, dynamic_shared_bytes)(arguments...);
//     launch_early(kernel, grid, block, dynamic_shared_bytes)(arguments...);
//
// launch_early: where the GPU can (Hopper), the kernel's blocks are set up while the one before it
// still runs, which saves about a microsecond ("Programmatic Dependent Launch" in the CUDA C++
// Programming Guide). Its first statement, in every thread, must be wait_for_kernel_before(). Then
// it may say let_next_kernel_begin(), or else does so by ending; in this order at most two kernels
// are on the GPU at a time.
//
// Errors of launches are checked here.
#pragma once
#include "core/error.h"

#if defined(DYT_EMULATED)

#include "core/emulator_watch.h"

namespace dyt {

// thread() is what every thread does.
template <class Thread>
void submit_kernel(emulator::LaunchSite site, dim3 grid, dim3 block, size_t shared_bytes,
                   Thread thread) {
  emulator::submit([=] {
    emulator::run(
        site, grid, block, shared_bytes, [](const void* t) { (*static_cast<const Thread*>(t))(); },
        &thread);
  });
}

template <class... P>
auto launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes = 0,
            const char* file = __builtin_FILE(), int line = __builtin_LINE(),
            const char* function = __builtin_FUNCTION()) {
  return [=](std::type_identity_t<P>... arguments) {
    submit_kernel({file, function, line}, grid, block, shared_bytes, [=] { kernel(arguments...); });
  };
}

// The emulator begins a kernel when the one before it is done, and checks that every thread waits
// before it touches memory.
template <class... P>
auto launch_early(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes = 0,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE(),
                  const char* function = __builtin_FUNCTION()) {
  return [=](std::type_identity_t<P>... arguments) {
    submit_kernel({file, function, line, true}, grid, block, shared_bytes, [=] {
      kernel(arguments...);
      emulator::expect_wait_for_kernel_before({file, line});
    });
  };
}

inline void wait_for_kernel_before() { emulator::wait_for_kernel_before(); }
inline void let_next_kernel_begin() {}

}  // namespace dyt

#elif defined(__CUDACC__)

#include <cuda_runtime.h>

#include <type_traits>

#define ONE_ACCESS
// __shared__ T name dims;    The dims are in brackets: SHARED(float, tile, [32][33]);
#define SHARED(T, name, dims) __shared__ T name dims
// extern __shared__ T name[];
#define DYNAMIC_SHARED(T, name)                 \
  extern __shared__ uint4 dyt_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(dyt_dynamic_shared)

namespace dyt {

cudaStream_t stream();  // the one every kernel and copy goes to (device.cu)

// Throws Error naming the place and CUDA's own words if `status` is not success.
void check_cuda(cudaError_t status, const char* file = __builtin_FILE(),
                int line = __builtin_LINE());

// A kernel must be told, once, if static and dynamic shared memory are more than 48 KiB together.
void allow_shared_memory(const void* kernel, size_t bytes, const char* file, int line);

template <class... P>
auto launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes = 0,
            const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return [=](std::type_identity_t<P>... arguments) {
    if (shared_bytes > 0) {
      allow_shared_memory(reinterpret_cast<const void*>(kernel), shared_bytes, file, line);
    }
    // clang-format off
    kernel<<<grid, block, shared_bytes, stream()>>>(arguments...);
    // clang-format on
    check_cuda(cudaGetLastError(), file, line);
  };
}

bool kernels_may_overlap();  // whether this GPU sets up a kernel early

template <class... P>
auto launch_early(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes = 0,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return [=](std::type_identity_t<P>... arguments) {
    if (shared_bytes > 0) {
      allow_shared_memory(reinterpret_cast<const void*>(kernel), shared_bytes, file, line);
    }
    cudaLaunchAttribute early{};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how{};
    how.gridDim = grid, how.blockDim = block, how.dynamicSmemBytes = shared_bytes;
    how.stream = stream();
    how.attrs = &early, how.numAttrs = kernels_may_overlap() ? 1 : 0;
    check_cuda(cudaLaunchKernelEx(&how, kernel, arguments...), file, line);
  };
}

// Waits until the kernel before this one is done and what it wrote can be read.
__device__ inline void wait_for_kernel_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// From here on the next kernel's blocks may take places on the SMs that are free.
__device__ inline void let_next_kernel_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace dyt

#else
#error "core/launch.h is for .cu files: compile them with nvcc, or with g++ -DDYT_EMULATED"
#endif

namespace dyt {

// The SMs of the GPU; 4 in the emulator. Sums over rows are cut into parts by it, so their bits may
// differ between kinds of GPU.
int multiprocessors();

// Bytes of shared memory that a block can have, dynamic and static: 227 KiB on sm_90 and in the
// emulator, 163 on sm_80, 99 on sm_86, sm_89 and sm_120.
size_t shared_memory_of_a_block();

// Blocks needed to give each of n items to one of `per_block` places.
inline unsigned blocks_for(int64_t n, int64_t per_block) {
  return unsigned((n + per_block - 1) / per_block);
}

}  // namespace dyt
