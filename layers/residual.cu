// The residual connection, and stochastic depth: "Deep Networks with Stochastic Depth" (arXiv
// 1603.09382), per sample and with the survivors scaled up, as timm's DropPath does it.
//
// (1) The mathematics. x, f, y (B, ...); drop in [0, 1), and u(b) uniform in [0, 1):
//
//       keep(b) = 1 if u(b) >= drop, else 0         y = x + f keep(b) / (1 - drop)
//
//     The expectation of y is x + f, so nothing has to be scaled when the model is used. Backward:
//
//       df = dy keep(b) / (1 - drop)                dx = dy
//
//     u(b) is a pure function of (seed, step, op, b), see core/philox.h: it is drawn again where it
//     is needed, nothing is stored, and every device drops the same samples. With df = 0 + dy ...,
//     the backward pass is the forward function with other arguments.
#include "core/dispatch.h"
#include "core/gradient.h"
#include "core/kernel.h"
#include "layers/drop_path.h"
#include "layers/layers.h"
#include "layers/residual_cpu.h"

namespace dyt {
namespace {

// (2) The CPU loop is in residual_cpu.h.

// (3) The kernel ----------------------------------------------------------------------------------

// One thread per pack of V consecutive elements of a sample. Reads x and f and writes y, 6 bytes
// per element in bf16, but doesn't read f where it is dropped.
template <int V, class T>
__global__ void residual_kernel(T* y, const T* x, const T* f, DropPath path, unsigned packs,
                                unsigned packs_per_sample) {
  const unsigned p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= packs) return;
  const bool kept = path.keeps(p / packs_per_sample);
  const float scale = path.scale<float>();
  Pack<T, V> out, more;
  if (x) out = load<V>(x + size_t(p) * V);
  if (kept) more = load<V>(f + size_t(p) * V);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    out.v[i] = T((x ? float(out.v[i]) : 0.0f) + (kept ? float(more.v[i]) * scale : 0.0f));
  }
  store<V>(y + size_t(p) * V, out);
}

template <class T>
void residual_gpu(T* y, const T* x, const T* f, DropPath path, int64_t B, int64_t n) {
  constexpr int full = 16 / sizeof(T);
  const int V = vector_width<T>(n);
  const int64_t packs = B * n / V;
  require(packs < (int64_t(1) << 32) - 256, "residual_add: ", packs,
          " packs are more than a kernel can count");
  launch(V == full ? residual_kernel<full, T> : residual_kernel<1, T>, blocks_for(packs, 256), 256)(
      y, x, f, path, unsigned(packs), unsigned(n / V));
}

template <class T>
void residual(const Tape& tape, T* y, const T* x, const T* f, DropPath path, int64_t B, int64_t n) {
  if (tape.on_cpu()) return residual_cpu(y, x, f, path, B, n);
  if constexpr (gpu_computes<T>) residual_gpu(y, x, f, path, B, n);
}

// What y = x + f keep / (1 - drop) leaves to be done: df and dx.
void record_residual(Tape& tape, const Tensor& y, const Tensor& x, const Tensor& f, DropPath path) {
  const int64_t B = x.shape[0], n = x.size() / B;
  tape.record(y, [=, &tape] {
    on_either_with_bf16(tape, x.dtype, [&](auto t) {
      using T = decltype(t);
      const auto df = tape.gradient<T>(f);
      const T* zero_or_df = df.add ? df.data : nullptr;
      if (df) residual(tape, df.data, zero_or_df, tape.gradient_of_output<T>(y), path, B, n);
    });
    add_gradient(tape, y, x);  // last: it may hand dy's memory to x
  });
}

}  // namespace

// (4) The op --------------------------------------------------------------------------------------

DropPath draw_drop_path(Tape& tape, float drop) {
  require(drop >= 0 && drop < 1, "residual_add: drop is a probability in [0, 1), not ", drop);
  if (!tape.training || drop == 0) return {};
  return {tape.random(), drop};
}

DropPath begin_residual(Tape& tape, const Tensor& x, ResidualBranch& branch) {
  require(x.shape == branch.f.shape, "residual_add: x ", x.shape.text(), " and f ",
          branch.f.shape.text(), " differ in shape");
  const DropPath path = draw_drop_path(tape, branch.drop);
  branch.y = tape.empty(x.shape, x.dtype);
  record_residual(tape, branch.y, x, branch.f, path);
  return path;
}

template <class T>
void add_branch(const Tape& tape, const T* x, const Branch<T>& branch, int64_t rows, int64_t C) {
  const int64_t B = rows / branch.rows_per_sample;
  residual(tape, branch.sum, x, branch.f, branch.path, B, branch.rows_per_sample * C);
}
template <class T>
void add_branch_gpu(const T* x, const Branch<T>& branch, int64_t rows, int64_t C) {
  const int64_t B = rows / branch.rows_per_sample;
  residual_gpu(branch.sum, x, branch.f, branch.path, B, branch.rows_per_sample * C);
}
template void add_branch(const Tape&, const float*, const Branch<float>&, int64_t, int64_t);
template void add_branch(const Tape&, const double*, const Branch<double>&, int64_t, int64_t);
template void add_branch(const Tape&, const bf16*, const Branch<bf16>&, int64_t, int64_t);
template void add_branch_gpu(const float*, const Branch<float>&, int64_t, int64_t);
template void add_branch_gpu(const bf16*, const Branch<bf16>&, int64_t, int64_t);

Tensor residual_add(Tape& tape, const Tensor& x, const Tensor& f, float drop) {
  ResidualBranch branch{f, drop};
  const DropPath path = begin_residual(tape, x, branch);
  on_either_with_bf16(tape, x.dtype, [&](auto t) {
    using T = decltype(t);
    add_branch(tape, x.as<T>(), branch_of<T>(&branch, path), x.rows(), x.channels());
  });
  return branch.y;
}

}  // namespace dyt
