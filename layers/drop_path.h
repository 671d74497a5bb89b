// What residual.cu shares with the norms that add a residual branch on their way (the ops
// with a ResidualBranch, below).
#pragma once
#include "core/philox.h"
#include "core/tape.h"
#include "layers/layers.h"

namespace dyt {

// Stochastic depth: which samples keep f, and how much the kept ones are scaled up.
struct DropPath {
  RandomStream random;
  float drop = 0;
  HOST_DEVICE bool keeps(int64_t b) const {
    return drop == 0 || random.uniform(uint64_t(b)) >= drop;
  }
  template <class A>
  HOST_DEVICE A scale() const {
    return 1 / (1 - A(drop));
  }
};

// The next draw of a tape: none if it isn't training. Error if drop is not in [0, 1).
DropPath draw_drop_path(Tape& tape, float drop);

// To be added to x (rows, C) by a kernel that goes on with the sum: f, and where the sum is
// written.
template <class T>
struct Branch {
  const T* f = nullptr;  // null: nothing is added
  T* sum = nullptr;
  DropPath path;
  int64_t rows_per_sample = 1;
  // The factor of f in row r: 0 if its sample is dropped.
  HOST_DEVICE float scale_of(int64_t r) const {
    return path.keeps(r / rows_per_sample) ? path.scale<float>() : 0.0f;
  }
};

// branch.sum = x + f keep / (1 - drop), where it is a pass of its own.
template <class T>
void add_branch(const Tape& tape, const T* x, const Branch<T>& branch, int64_t rows, int64_t C);
template <class T>
void add_branch_gpu(const T* x, const Branch<T>& branch, int64_t rows, int64_t C);

// A residual branch given to a norm: y = x + f keep / (1 - drop). The norm's op makes `y`, and it
// is to be used in place of x from there on.
struct ResidualBranch {
  Tensor f;
  float drop = 0;
  Tensor y = {};
};

// The norms of layers.h; `branch` may be null.
Tensor layernorm(Tape& tape, const Tensor& x, const Parameter* gamma, const Parameter* beta,
                 float epsilon, ResidualBranch* branch);
Tensor rmsnorm(Tape& tape, const Tensor& x, const Parameter* gamma, float epsilon,
               ResidualBranch* branch);
Tensor dyt(Tape& tape, const Tensor& x, const DytParameters& p, Squash squash,
           ResidualBranch* branch);

// Draws, makes branch.y, and has the tape remember how df and dx come from dy.
DropPath begin_residual(Tape& tape, const Tensor& x, ResidualBranch& branch);

// What a kernel needs of it.
template <class T>
Branch<T> branch_of(const ResidualBranch* r, const DropPath& path) {
  if (!r) return {};
  return {r->f.as<T>(), r->y.as<T>(), path, r->y.rows() / r->y.shape[0]};
}

}  // namespace dyt
