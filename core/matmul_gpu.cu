// Matrix products on the GPU, by cuBLASLt; the emulated device has host loops in its place.
//
// Every product goes through a plan: its description, and the algorithm that cuBLASLt's heuristic
// puts first. A plan is made when a product is first met, and kept. What else there is to know:
//
//   - Bits. cuBLASLt gives the same bits again on the same kind of GPU if the same algorithm runs.
//     The heuristic's choice depends on the description only, so it is the same in every run. Sums
//     that are split among blocks are kept in f32 and added up in a separate step, never in the
//     output's type. With DYT_AUTOTUNE=1 in the environment, the first few candidates are timed
//     when a product is first met, and the fastest is kept: sometimes faster, but two runs may then
//     choose differently and differ in their last bits. So it is off unless asked for.
//   - Alignment. Some algorithms want 16-byte rows, which a matrix of odd width doesn't have; the
//     widths are part of the description, and how far the addresses are aligned is told as well.
//   - GELU. cuBLASLt's is the tanh formula, Gelu::tanh. Before Hopper the kernels that end in it
//     are slower than a product and a pass of our own (measured in llm.c, pull request 653), so
//     there they are not used.
#include <cmath>
#include <vector>

#include "core/launch.h"
#include "core/matmul_gpu.h"
#include "core/product.h"

#if !defined(DYT_EMULATED)
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#endif

namespace dyt {
namespace {

// GELU follows only in bf16, beside whose rounding the library's tanh, if it is the hardware's
// approximate one (2^-11), doesn't show. Rows of h must be whole 16-byte packs (cublasLt.h,
// CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD).
template <class T>
bool may_follow(After after, int64_t n) {
  return after == After::nothing || (std::is_same_v<T, bf16> && n % 8 == 0);
}

}  // namespace

#if defined(DYT_EMULATED)

namespace {

// Of a matrix (rows, columns), rows `row` apart.
template <class T>
std::vector<float> to_floats(const T* data, int64_t rows, int64_t columns, int64_t row) {
  std::vector<float> result(static_cast<size_t>(rows * columns));
  for (int64_t i = 0; i < rows * columns; ++i) {
    result[size_t(i)] = float(data[i / columns * row + i % columns]);
  }
  return result;
}

// C = op(A) op(B) + beta C in f32, whatever products of the cpu are set to.
void multiply(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const std::vector<float>& a,
              const std::vector<float>& b, float beta, std::vector<float>& c) {
  const CpuProductsIn f32(DType::f32);
  matmul(Device::cpu, op_a, op_b, m, n, k, a.data(), b.data(), beta, c.data());
}

// GELU's tanh formula (layers/gelu.cu), as the library has it.
float gelu_value(float x) {
  return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
}
float gelu_slope(float x) {
  const float t = std::tanh(0.79788456f * (x + 0.044715f * x * x * x));
  return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * 0.79788456f * (1 + 0.134145f * x * x);
}

}  // namespace

template <class T, class TC>
void matmul_with_rows(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row,
                      const T* b, float beta, TC* c, int64_t c_row) {
  emulator::submit([=] {
    const emulator::DeviceAccess access;
    const std::vector<float> fa =
        to_floats(a, op_a == Op::none ? m : k, op_a == Op::none ? k : m, a_row);
    const std::vector<float> fb = to_floats(b, k, n, n);
    std::vector<float> fc =
        beta == 0 ? std::vector<float>(size_t(m * n)) : to_floats(c, m, n, c_row);
    multiply(op_a, op_b, m, n, k, fa, fb, beta, fc);
    for (int64_t i = 0; i < m * n; ++i) c[i / n * c_row + i % n] = TC(fc[size_t(i)]);
  });
}

template <class T>
bool matmul_with_epilogue(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a, const T* b,
                          T* d, const Epilogue<T>& e) {
  // As a library might that wants aligned rows: so separate passes are tested as well.
  if (n % 2 != 0 || !may_follow<T>(e.after, n)) return false;
  emulator::submit([=] {
    const emulator::DeviceAccess access;
    const std::vector<float> fa = to_floats(a, m, k, k), fb = to_floats(b, k, n, n);
    std::vector<float> product(size_t(m * n));
    multiply(op_a, op_b, m, n, k, fa, fb, 0.0f, product);
    for (int64_t i = 0; i < m * n; ++i) {
      float v = product[size_t(i)];
      if (e.bias) v += float(e.bias[i % n]);
      if (e.add) v += float(e.add[i]);
      if (e.after == After::gelu) {
        e.h[i] = T(v);
        v = gelu_value(v);
      }
      if (e.after == After::gelu_slope) v *= gelu_slope(float(e.h[i]));
      d[i] = T(v);
    }
  });
  return true;
}

std::string matmul_gpu_library() { return "host loops standing in for cuBLASLt"; }

#else

namespace {

void check_cublas(cublasStatus_t status, const char* what) {
  require(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt ", what, ": ",
          cublasLtGetStatusString(status));
}

cublasLtHandle_t cublas_handle() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t created;
    check_cublas(cublasLtCreate(&created), "create");
    return created;
  }();
  return handle;
}

constexpr size_t workspace_bytes = size_t(32) << 20;

void* workspace() {
  static const Buffer memory(Device::cuda, workspace_bytes);
  return memory.data();
}

template <class T>
constexpr cudaDataType_t cuda_type = CUDA_R_32F;
template <>
constexpr cudaDataType_t cuda_type<bf16> = CUDA_R_16BF;

// One product with everything that belongs to it. C is what is added (D itself or another matrix),
// and beta its factor; TD is the type of both.
template <class T, class TD>
struct Call {
  Op op_a, op_b;
  int64_t m, n, k, a_row, c_row;  // rows of A, and of C and D, lie so far apart
  const T *a, *b;
  TD* d;
  const TD* c;
  float beta;
  const TD* bias = nullptr;
  After after = After::nothing;
  TD* h = nullptr;
};

struct Algorithm {
  cublasLtMatmulAlgo_t opaque;
};

struct Plan {
  cublasLtMatmulDesc_t op{};
  cublasLtMatrixLayout_t a{}, b{}, c{};
  std::vector<Algorithm> algorithms;  // the best first; none: there is no such product
};

template <class V>
void set(const Plan& plan, cublasLtMatmulDescAttributes_t attribute, V value) {
  check_cublas(cublasLtMatmulDescSetAttribute(plan.op, attribute, &value, sizeof value),
               "describe");
}

cublasLtEpilogue_t epilogue_of(bool bias, After after) {
  switch (after) {
    case After::gelu:
      return bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    case After::gelu_slope:
      return CUBLASLT_EPILOGUE_DGELU;
    default:
      return bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  }
}

// The addresses that are part of the description; the heuristic looks at how they are aligned.
template <class T, class TD>
void set_addresses(const Plan& plan, const Call<T, TD>& call) {
  if (call.bias) set(plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(call.bias));
  if (call.h) {
    set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<const void*>(call.h));
  }
}

template <class T, class TD>
cublasStatus_t run(const Plan& plan, const Algorithm& algorithm, const Call<T, TD>& call, TD* d) {
  const float one = 1;
  return cublasLtMatmul(cublas_handle(), plan.op, &one, call.b, plan.a, call.a, plan.b, &call.beta,
                        call.c, plan.c, d, plan.c, &algorithm.opaque, workspace(), workspace_bytes,
                        stream());
}

// cuBLASLt counts columns first, so it is told of the transposes: D' (n, m) = op(B)' op(A)'. Our
// bias, along n, is then one number for each of its rows, as it wants it.
template <class T, class TD>
Plan describe(const Call<T, TD>& call) {
  Plan plan;
  const auto transposed = [](Op op) { return op == Op::none ? CUBLAS_OP_N : CUBLAS_OP_T; };
  const auto layout = [](cublasLtMatrixLayout_t* l, cudaDataType_t type, int64_t r, int64_t cols,
                         int64_t apart) {
    check_cublas(cublasLtMatrixLayoutCreate(l, type, uint64_t(r), uint64_t(cols), apart), "layout");
  };
  const int64_t m = call.m, n = call.n, k = call.k;
  check_cublas(cublasLtMatmulDescCreate(&plan.op, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe");
  set(plan, CUBLASLT_MATMUL_DESC_TRANSA, transposed(call.op_b));
  set(plan, CUBLASLT_MATMUL_DESC_TRANSB, transposed(call.op_a));
  set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(call.bias, call.after));
  if (call.h) set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, n);
  set_addresses(plan, call);
  const int64_t b_row = call.op_b == Op::none ? n : k, a_columns = call.op_a == Op::none ? k : m;
  layout(&plan.a, cuda_type<T>, b_row, call.op_b == Op::none ? k : n, b_row);
  layout(&plan.b, cuda_type<T>, a_columns, call.op_a == Op::none ? m : k, call.a_row);
  layout(&plan.c, cuda_type<TD>, n, m, call.c_row);
  return plan;
}

uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<uintptr_t>(address);
  return uint32_t(bits == 0 ? 16 : std::min<uintptr_t>(16, bits & (~bits + 1)));
}

// The heuristic's candidates, the best first; none if it knows of none.
constexpr int most_candidates = 8;
template <class T, class TD>
std::vector<Algorithm> candidates_for(const Plan& plan, const Call<T, TD>& call) {
  cublasLtMatmulPreference_t preference;
  check_cublas(cublasLtMatmulPreferenceCreate(&preference), "preference");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check_cublas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
                 "preference");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(workspace_bytes));
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(call.b));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(call.a));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(call.c));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(call.d));
  cublasLtMatmulHeuristicResult_t results[most_candidates] = {};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(cublas_handle(), plan.op, plan.a, plan.b, plan.c, plan.c,
                                     preference, most_candidates, results, &found);
  cublasLtMatmulPreferenceDestroy(preference);
  std::vector<Algorithm> candidates;
  if (status != CUBLAS_STATUS_SUCCESS) return candidates;
  for (int i = 0; i < found; ++i) {
    int32_t apart = 1;  // can it write elsewhere than where it reads C?
    size_t written = 0;
    cublasLtMatmulAlgoCapGetAttribute(&results[i].algo,
                                      CUBLASLT_ALGO_CAP_OUT_OF_PLACE_RESULT_SUPPORT, &apart,
                                      sizeof apart, &written);
    if (results[i].state == CUBLAS_STATUS_SUCCESS && (apart || call.c == call.d)) {
      candidates.push_back({results[i].algo});
    }
  }
  return candidates;
}

bool autotunes() {
  static const bool asked = [] {
    const char* value = std::getenv("DYT_AUTOTUNE");
    return value && std::string(value) == "1";
  }();
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  return asked && cudaStreamIsCapturing(stream(), &capturing) == cudaSuccess &&
         capturing == cudaStreamCaptureStatusNone;
}

// The milliseconds of five runs into memory of its own; huge for an algorithm that doesn't run.
template <class T, class TD>
float time_of(const Plan& plan, const Algorithm& algorithm, const Call<T, TD>& call, TD* d,
              const std::array<cudaEvent_t, 2>& events) {
  constexpr float never = 1e30f;
  if (run(plan, algorithm, call, d) != CUBLAS_STATUS_SUCCESS) return never;  // warms up
  check_cuda(cudaEventRecord(events[0], stream()));
  for (int i = 0; i < 5; ++i) {
    if (run(plan, algorithm, call, d) != CUBLAS_STATUS_SUCCESS) return never;
  }
  check_cuda(cudaEventRecord(events[1], stream()));
  check_cuda(cudaEventSynchronize(events[1]));
  float milliseconds = never;
  check_cuda(cudaEventElapsedTime(&milliseconds, events[0], events[1]));
  return milliseconds;
}

// Puts the fastest first.
template <class T, class TD>
void tune(Plan& plan, const Call<T, TD>& call) {
  const Buffer d(Device::cuda, size_t(call.m * call.c_row) * sizeof(TD));
  std::array<cudaEvent_t, 2> events;
  for (cudaEvent_t& event : events) check_cuda(cudaEventCreate(&event));
  std::vector<float> times;
  for (const Algorithm& algorithm : plan.algorithms) {
    times.push_back(time_of(plan, algorithm, call, static_cast<TD*>(d.data()), events));
  }
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  const auto best = std::min_element(times.begin(), times.end()) - times.begin();
  std::swap(plan.algorithms[0], plan.algorithms[size_t(best)]);
}

template <class T, class TD>
Plan make_plan(const Call<T, TD>& call) {
  Plan plan = describe(call);
  plan.algorithms = candidates_for(plan, call);
  if (plan.algorithms.size() > 1 && autotunes()) tune(plan, call);
  return plan;
}

template <class T, class TD>
Plan& plan_of(const Call<T, TD>& call) {
  using Key = std::array<int64_t, 14>;
  static std::map<Key, Plan> plans;
  const int64_t added = call.beta == 0 ? 0 : call.c == call.d ? 1 : 2;
  const Key key{int64_t(call.op_a),
                int64_t(call.op_b),
                call.m,
                call.n,
                call.k,
                call.a_row,
                call.c_row,
                added,
                call.bias != nullptr,
                int64_t(call.after),
                alignment_of(call.a),
                alignment_of(call.b),
                alignment_of(call.c),
                alignment_of(call.d)};
  auto found = plans.find(key);
  if (found == plans.end()) found = plans.emplace(key, make_plan(call)).first;
  return found->second;
}

// False if cuBLASLt has no such product; nothing has been launched then. A candidate that it
// refuses after all is forgotten, and the next one takes its place.
template <class T, class TD>
bool compute(const Call<T, TD>& call) {
  Plan& plan = plan_of(call);
  set_addresses(plan, call);
  while (!plan.algorithms.empty()) {
    const cublasStatus_t status = run(plan, plan.algorithms[0], call, call.d);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE) {
      check_cublas(status, "matmul");
      return true;
    }
    plan.algorithms.erase(plan.algorithms.begin());
  }
  return false;
}

bool hopper() {
  static const bool is = [] {
    int major = 0;
    check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    return major >= 9;
  }();
  return is;
}

}  // namespace

template <class T, class TC>
void matmul_with_rows(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row,
                      const T* b, float beta, TC* c, int64_t c_row) {
  const Call<T, TC> call{op_a, op_b, m, n, k, a_row, c_row, a, b, c, c, beta};
  require(compute(call), "cuBLASLt has no algorithm for a product (", m, ", ", n, ", ", k, ")");
}

template <class T>
bool matmul_with_epilogue(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a, const T* b,
                          T* d, const Epilogue<T>& e) {
  if (!may_follow<T>(e.after, n) || (e.after != After::nothing && !hopper())) return false;
  const Call<T, T> call{.op_a = op_a,
                        .op_b = op_b,
                        .m = m,
                        .n = n,
                        .k = k,
                        .a_row = op_a == Op::none ? k : m,
                        .c_row = n,
                        .a = a,
                        .b = b,
                        .d = d,
                        .c = e.add ? e.add : d,
                        .beta = e.add ? 1.0f : 0.0f,
                        .bias = e.bias,
                        .after = e.after,
                        .h = e.h};
  return compute(call);
}

std::string matmul_gpu_library() { return "cuBLASLt " + std::to_string(cublasLtGetVersion()); }

#endif

template <class T, class TC>
void matmul_gpu(Op op_a, Op op_b, int64_t m, int64_t n, int64_t k, const T* a, const T* b,
                float beta, TC* c) {
  matmul_with_rows(op_a, op_b, m, n, k, a, op_a == Op::none ? k : m, b, beta, c, n);
}

#define INSTANTIATE(T, TC)                                                                       \
  template void matmul_with_rows(Op, Op, int64_t, int64_t, int64_t, const T*, int64_t, const T*, \
                                 float, TC*, int64_t);                                           \
  template void matmul_gpu(Op, Op, int64_t, int64_t, int64_t, const T*, const T*, float, TC*)
INSTANTIATE(float, float);
INSTANTIATE(bf16, bf16);
INSTANTIATE(bf16, float);
template bool matmul_with_epilogue(Op, Op, int64_t, int64_t, int64_t, const float*, const float*,
                                   float*, const Epilogue<float>&);
template bool matmul_with_epilogue(Op, Op, int64_t, int64_t, int64_t, const bf16*, const bf16*,
                                   bf16*, const Epilogue<bf16>&);
#undef INSTANTIATE

}  // namespace dyt
