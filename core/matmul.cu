// Matrix products on the CPU. Those on the GPU are in matmul_gpu.cu.
#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/matmul.h"
#include "core/matmul_gpu.h"
#include "core/product.h"

#if defined(DYT_ONEDNN)
#include <dnnl.h>
#endif

namespace dyt {
namespace {

// Our own product for the CPU: f64, and f32 where there is no oneDNN. C is cut into tiles of
// `tile_rows` x `panel`; the panel of B is copied so that the innermost loop runs over consecutive
// numbers, which the compiler turns into vector instructions, and a tile of C stays in registers.
template <class T>
void matmul_plain(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a, const T* b, T beta,
                  T* c) {
  constexpr int64_t panel = 128 / sizeof(T), tile_rows = 8, block_rows = 128;
  const int64_t panels = (n + panel - 1) / panel, blocks = (m + block_rows - 1) / block_rows;
  const int64_t a_row = op_a == Op::none ? k : 1, a_col = op_a == Op::none ? 1 : m;
  const int64_t b_row = op_b == Op::none ? n : 1, b_col = op_b == Op::none ? 1 : k;
#pragma omp parallel
  {
    std::vector<T> packed(size_t(k * panel));
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t p = 0; p < panels; ++p) {
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t j0 = p * panel, width = std::min(panel, n - j0);
        for (int64_t l = 0; l < k; ++l) {
          for (int64_t j = 0; j < panel; ++j) {
            packed[size_t(l * panel + j)] = j < width ? b[l * b_row + (j0 + j) * b_col] : T(0);
          }
        }
        const int64_t end = std::min(m, (block + 1) * block_rows);
        for (int64_t i0 = block * block_rows; i0 < end; i0 += tile_rows) {
          const int64_t rows = std::min(tile_rows, end - i0);
          T sum[tile_rows][panel] = {};
          for (int64_t l = 0; l < k; ++l) {
            for (int64_t i = 0; i < tile_rows; ++i) {
              const T factor = i < rows ? a[(i0 + i) * a_row + l * a_col] : T(0);
#pragma omp simd
              for (int64_t j = 0; j < panel; ++j) {
                sum[i][j] += factor * packed[size_t(l * panel + j)];
              }
            }
          }
          for (int64_t i = 0; i < rows; ++i) {
            T* out = c + (i0 + i) * n + j0;
            for (int64_t j = 0; j < width; ++j) {
              out[j] = beta == T(0) ? sum[i][j] : sum[i][j] + beta * out[j];
            }
          }
        }
      }
    }
  }
}

void matmul_cpu(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const double* a, const double* b,
                float beta, double* c) {
  matmul_plain<double>(op_a, op_b, m, n, k, a, b, double(beta), c);
}

void matmul_cpu(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const float* a, const float* b,
                float beta, float* c) {
  const Product p{.op_a = op_a, .op_b = op_b, .m = m, .n = n, .k = k, .add = beta == 1};
  if ((beta == 0 || beta == 1) && product_in_one_pass(p, a, b, c)) return;
#if defined(DYT_ONEDNN)
  const int64_t lda = op_a == Op::none ? k : m, ldb = op_b == Op::none ? n : k;
  const dnnl_status_t status =
      dnnl_sgemm(op_a == Op::none ? 'N' : 'T', op_b == Op::none ? 'N' : 'T', m, n, k, 1.0f, a, lda,
                 b, ldb, beta, c, n);
  require(status == dnnl_success, "oneDNN sgemm (", m, ", ", n, ", ", k, ") failed: status ",
          int(status));
#else
  matmul_plain<float>(op_a, op_b, m, n, k, a, b, beta, c);
#endif
}

template <class TC>
void matmul_cpu(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const bf16* a, const bf16* b,
                float beta, TC* c) {
  require(beta == 0 || beta == 1, "a bf16 product on the cpu overwrites or adds; beta is ", beta);
  const DType narrow = DType::bf16, result = dtype_of<TC>::value;
  product_in_bf16({op_a, op_b, m, n, k, beta == 1, nullptr, nullptr, narrow, narrow, result}, a, b,
                  c);
}

}  // namespace

template <class T, class TC>
void matmul(Device device, Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a,
            const T* b, float beta, TC* c) {
  if constexpr (std::is_same_v<T, double>) {
    matmul_cpu(op_a, op_b, m, n, k, a, b, beta, c);
  } else if constexpr (std::is_same_v<T, float>) {
    if (device == Device::cpu && cpu_products() == DType::bf16) {
      return product_rounded_to_bf16(op_a, op_b, m, n, k, a, b, beta, c);
    }
    if (device == Device::cpu) return matmul_cpu(op_a, op_b, m, n, k, a, b, beta, c);
    matmul_gpu<T, TC>(op_a, op_b, m, n, k, a, b, beta, c);
  } else {
    if (device == Device::cpu) return matmul_cpu(op_a, op_b, m, n, k, a, b, beta, c);
    matmul_gpu<T, TC>(op_a, op_b, m, n, k, a, b, beta, c);
  }
}

template void matmul(Device, Op, Op, int64_t, int64_t, int64_t, const float*, const float*, float,
                     float*);
template void matmul(Device, Op, Op, int64_t, int64_t, int64_t, const double*, const double*, float,
                     double*);
template void matmul(Device, Op, Op, int64_t, int64_t, int64_t, const bf16*, const bf16*, float,
                     bf16*);
template void matmul(Device, Op, Op, int64_t, int64_t, int64_t, const bf16*, const bf16*, float,
                     float*);

const char* matmul_library(Device device) {
  static const std::string cpu = [] {
#if defined(DYT_ONEDNN)
    const dnnl_version_t* v = dnnl_version();
    return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." +
           std::to_string(v->patch);
#else
    return std::string("own loops (built with BLAS=none)");
#endif
  }();
  static const std::string gpu = matmul_gpu_library();
  return (device == Device::cpu ? cpu : gpu).c_str();
}

}  // namespace dyt
