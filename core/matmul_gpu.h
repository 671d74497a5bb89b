// For core/matmul.cu: its half that runs on the kernel device.
#pragma once
#include <string>

#include "core/matmul.h"

namespace dyt {

// As matmul, on the kernel device.
template <class T, class TC>
void matmul_gpu(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a, const T* b,
                float beta, TC* c);

std::string matmul_gpu_library();

}  // namespace dyt
