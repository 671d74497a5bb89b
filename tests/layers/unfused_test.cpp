#include "layers/unfused.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

constexpr NormKind kinds[] = {NormKind::layernorm, NormKind::rmsnorm, NormKind::dyt};

OpCase unfused(NormKind kind, Shape shape, bool twice = false) {
  const int64_t C = shape[-1];
  OpCase op{.name = std::string("unfused ") + name_of(kind) + " " + shape.text(),
            .inputs = {shape},
            .run = {}};
  op.declare = [=](Parameters& p) {
    p.add("gamma", {C}, Init::gaussian(1));
    if (kind != NormKind::rmsnorm) p.add("beta", {C}, Init::gaussian(1));
    if (kind == NormKind::dyt) p.add("alpha", {1}, Init::fill(0.7));
  };
  op.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    UnfusedParameters u{.gamma = &p.find("gamma")};
    if (kind != NormKind::rmsnorm) u.beta = &p.find("beta");
    if (kind == NormKind::dyt) u.alpha = &p.find("alpha");
    const Tensor y = unfused_norm(tape, x[0], kind, u, 1e-5f);
    return twice ? residual_add(tape, y, x[0]) : y;  // dx is then added to
  };
  return op;
}

OpCase fused(NormKind kind, Shape shape) {
  OpCase op = unfused(kind, shape);
  op.run = [=](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    const Parameter* gamma = &p.find("gamma");
    if (kind == NormKind::rmsnorm) return rmsnorm(tape, x[0], gamma, 1e-5f);
    const Parameter* beta = &p.find("beta");
    if (kind == NormKind::layernorm) return layernorm(tape, x[0], gamma, beta, 1e-5f);
    return dyt(tape, x[0], {.alpha = &p.find("alpha"), .gamma = gamma, .beta = beta});
  };
  return op;
}

TEST(Unfused, Gradients) {
  for (const NormKind kind : kinds) {
    check_gradients(unfused(kind, {3, 7, 5}));
    check_gradients(unfused(kind, {33, 8}, true));
    check_gradients(unfused(kind, {1, 1, 16}));
  }
}

// Not a pass is missing: value and all gradients are the fused op's.
TEST(Unfused, AgreesWithTheFusedOps) {
  for (const NormKind kind : kinds) {
    const OpCase a = unfused(kind, {197, 33}), b = fused(kind, {197, 33});
    const Values values = draw_values(a, 1);
    const Outcome ours = run_op(a, Device::cpu, DType::f32, values);
    const Outcome theirs = run_op(b, Device::cpu, DType::f32, values);
    expect_close(ours.y, theirs.y, 1e-6, a.name);
    expect_close(ours.input_gradients[0], theirs.input_gradients[0], 5e-6, a.name + " dx");
    for (const auto& [name, gradient] : theirs.parameter_gradients) {
      // dalpha is a sum of thousands of f32 numbers of both signs, here in another order.
      expect_close(ours.parameter_gradients.at(name), gradient, name == "alpha" ? 2e-5 : 5e-6,
                   a.name + " d" + name);
    }
  }
}

TEST(UnfusedKernels, AgreeWithTheCpu) {
  SKIP_WITHOUT_KERNELS();
  for (const NormKind kind : kinds) {
    check_kernels(unfused(kind, {7, 33, 40}));
    check_kernels(unfused(kind, {197, 19}, true));
    check_kernels(unfused(kind, {1, 1, 70}));
  }
}

// The tensors read and written per pass, as unfused.cu lists them: forward, and backward.
TEST(Unfused, CountsWhatItMoves) {
  const struct {
    NormKind kind;
    double forward, both;
  } expected[] = {
      {NormKind::layernorm, 12, 33}, {NormKind::rmsnorm, 7, 24}, {NormKind::dyt, 8, 24}};
  for (const auto& e : expected) {
    double moved = 0, forward = 0;
    OpCase op = unfused(e.kind, {6, 4});
    const auto with_count = [&](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
      UnfusedParameters u{.gamma = &p.find("gamma")};
      if (e.kind != NormKind::rmsnorm) u.beta = &p.find("beta");
      if (e.kind == NormKind::dyt) u.alpha = &p.find("alpha");
      const Tensor y = unfused_norm(tape, x[0], e.kind, u, 1e-5f, &moved);
      forward = moved;
      return y;
    };
    op.run = with_count;
    run_op(op, Device::cpu, DType::f32, draw_values(op, 1));
    EXPECT_EQ(forward / (6 * 4 * 4), e.forward) << op.name;
    EXPECT_EQ(moved / (6 * 4 * 4), e.both) << op.name;
  }
}

// In bf16 statistics take a detour by f32: 36 bytes a number instead of 7 x 2. DyT does not.
TEST(UnfusedKernels, CountTheDetourByF32) {
  SKIP_WITHOUT_KERNELS();
  Parameters parameters;
  const Parameter& gamma = parameters.add("gamma", {8}, Init::ones());
  const Parameter& alpha = parameters.add("alpha", {1}, Init::ones());
  parameters.allocate(kernel_device, DType::bf16, 1);
  Tape tape(kernel_device, DType::bf16);
  const Tensor x = tape.empty({4, 8});
  fill_zero(kernel_device, x.data, 4 * 8 * sizeof(bf16));
  double rms = 0, dyt = 0;
  unfused_norm(tape, x, NormKind::rmsnorm, {.gamma = &gamma}, 1e-6f, &rms);
  unfused_norm(tape, x, NormKind::dyt, {.gamma = &gamma, .alpha = &alpha}, 0, &dyt);
  EXPECT_EQ(rms / (4 * 8), 36);
  EXPECT_EQ(dyt / (4 * 8), 12);
}

TEST(Unfused, NormOfAModelTakesIt) {
  Parameters parameters;
  const Norm slow(parameters, "slow", 8, {.kind = NormKind::rmsnorm, .unfused = true});
  const Norm fast(parameters, "fast", 8, {.kind = NormKind::rmsnorm});
  parameters.allocate(Device::cpu, DType::f32, 1);
  Tape tape(Device::cpu, DType::f32);
  const std::vector<float> x(16, 3.0f);
  const Tensor in = tape.upload({2, 8}, DType::f32, x.data());
  EXPECT_EQ(to_host(tape, slow(tape, in)), to_host(tape, fast(tape, in)));
}

TEST(Unfused, RefusesWhatItIsNotThereFor) {
  Parameters parameters;
  const Norm none(parameters, "x", 8, {.kind = NormKind::derf, .unfused = true});
  parameters.allocate(Device::cpu, DType::f32, 1);
  Tape tape(Device::cpu, DType::f32);
  EXPECT_THROW(none(tape, tape.empty({2, 8})), Error);
}

}  // namespace
}  // namespace dyt::test
