#include <vector>

#include "core/launch.h"
#include "core/matmul.h"
#include "core/product.h"

#if defined(DYT_ONEDNN)
#include <dnnl.h>
#endif
#if !defined(DYT_EMULATED)
#include <cublasLt.h>

#include <map>
#include <tuple>
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
#if defined(DYT_ONEDNN)
  if (op_a == Op::none && (beta == 0 || beta == 1)) {
    const Product p{.op_b = op_b, .m = m, .n = n, .k = k, .add = beta == 1};
    if (has_library_product(p)) return library_product(p, a, b, c);
  }
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

#if defined(DYT_EMULATED)

template <class T>
std::vector<float> to_floats(const T* data, int64_t n) {
  std::vector<float> result(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) result[size_t(i)] = float(data[i]);
  return result;
}

// The emulated device has no cuBLASLt: the product is done in f32 on the host.
template <class T, class TC>
void matmul_gpu(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a, const T* b,
                float beta, TC* c) {
  const emulator::DeviceAccess access;
  const std::vector<float> fa = to_floats(a, m * k), fb = to_floats(b, k * n);
  std::vector<float> fc = beta == 0 ? std::vector<float>(size_t(m * n)) : to_floats(c, m * n);
  matmul_cpu(op_a, op_b, m, n, k, fa.data(), fb.data(), beta, fc.data());
  for (int64_t i = 0; i < m * n; ++i) c[i] = TC(fc[size_t(i)]);
}

#else

void check_cublas(cublasStatus_t status, const char* what) {
  require(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt ", what, ": ",
          cublasLtGetStatusString(status));
}

// A product as cuBLASLt wants it described, with the algorithm it chose; kept for the next time.
struct Plan {
  cublasLtMatmulDesc_t op;
  cublasLtMatrixLayout_t a, b, c;
  cublasLtMatmulAlgo_t algorithm;
};

template <class T>
constexpr cudaDataType_t cuda_type = CUDA_R_32F;
template <>
constexpr cudaDataType_t cuda_type<bf16> = CUDA_R_16BF;

constexpr size_t workspace_bytes = size_t(32) << 20;

cublasLtHandle_t cublas_handle() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t created;
    check_cublas(cublasLtCreate(&created), "create");
    return created;
  }();
  return handle;
}

// cuBLASLt counts columns first, so it is told of the transposes: C' (n, m) = op(B)' op(A)'.
template <class T, class TC>
Plan make_plan(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k) {
  Plan plan;
  const auto name = [](Op op) { return op == Op::none ? CUBLAS_OP_N : CUBLAS_OP_T; };
  const cublasOperation_t first = name(op_b), second = name(op_a);
  check_cublas(cublasLtMatmulDescCreate(&plan.op, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe");
  check_cublas(
      cublasLtMatmulDescSetAttribute(plan.op, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first),
      "describe");
  check_cublas(
      cublasLtMatmulDescSetAttribute(plan.op, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second),
      "describe");
  const auto layout = [](cublasLtMatrixLayout_t* l, cudaDataType_t type, int64_t r, int64_t cols) {
    check_cublas(cublasLtMatrixLayoutCreate(l, type, uint64_t(r), uint64_t(cols), r), "layout");
  };
  layout(&plan.a, cuda_type<T>, op_b == Op::none ? n : k, op_b == Op::none ? k : n);
  layout(&plan.b, cuda_type<T>, op_a == Op::none ? k : m, op_a == Op::none ? m : k);
  layout(&plan.c, cuda_type<TC>, n, m);
  cublasLtMatmulPreference_t preference;
  check_cublas(cublasLtMatmulPreferenceCreate(&preference), "preference");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check_cublas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
                 "preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(workspace_bytes));
  for (auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    prefer(attribute, uint32_t(16));
  }
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  check_cublas(cublasLtMatmulAlgoGetHeuristic(cublas_handle(), plan.op, plan.a, plan.b, plan.c,
                                              plan.c, preference, 1, &result, &found),
               "heuristic");
  cublasLtMatmulPreferenceDestroy(preference);
  require(found > 0, "cuBLASLt has no algorithm for a product (", m, ", ", n, ", ", k, ")");
  plan.algorithm = result.algo;
  return plan;
}

template <class T, class TC>
void matmul_gpu(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a, const T* b,
                float beta, TC* c) {
  static std::map<std::tuple<Op, Op, int64_t, int64_t, int64_t>, Plan> plans;
  static const Buffer workspace(Device::cuda, workspace_bytes);
  const auto key = std::make_tuple(op_a, op_b, m, n, k);
  auto found = plans.find(key);
  if (found == plans.end()) found = plans.emplace(key, make_plan<T, TC>(op_a, op_b, m, n, k)).first;
  const Plan& plan = found->second;
  const float one = 1;
  check_cublas(
      cublasLtMatmul(cublas_handle(), plan.op, &one, b, plan.a, a, plan.b, &beta, c, plan.c, c,
                     plan.c, &plan.algorithm, workspace.data(), workspace_bytes, stream()),
      "matmul");
}

#endif

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
#if defined(DYT_EMULATED)
  static const std::string gpu = "host loops standing in for cuBLASLt";
#else
  static const std::string gpu = "cuBLASLt " + std::to_string(cublasLtGetVersion());
#endif
  return (device == Device::cpu ? cpu : gpu).c_str();
}

}  // namespace dyt
