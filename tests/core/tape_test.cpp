#include "core/tape.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>

#include "core/error.h"

namespace dyt {
namespace {

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

// y = factor * x, element by element, as an op writes it. `runs`, if given, counts the closure's
// runs.
Tensor scaled(Tape& tape, const Tensor& x, float factor, int* runs = nullptr) {
  const Tensor y = tape.empty(x.shape);
  for (int64_t i = 0; i < x.size(); ++i) y.as<float>()[i] = factor * x.as<float>()[i];
  tape.record(y, [=, &tape] {
    if (runs) ++*runs;
    const float* dy = tape.gradient_of_output<float>(y);
    const auto dx = tape.gradient<float>(x);
    if (!dx) return;
    for (int64_t i = 0; i < x.size(); ++i) {
      dx.data[i] = (dx.add ? dx.data[i] : 0.0f) + factor * dy[i];
    }
  });
  return y;
}

// y = a + b
Tensor sum(Tape& tape, const Tensor& a, const Tensor& b) {
  const Tensor y = tape.empty(a.shape);
  for (int64_t i = 0; i < a.size(); ++i) y.as<float>()[i] = a.as<float>()[i] + b.as<float>()[i];
  tape.record(y, [=, &tape] {
    const float* dy = tape.gradient_of_output<float>(y);
    for (const Tensor& x : {a, b}) {
      const auto dx = tape.gradient<float>(x);
      for (int64_t i = 0; i < x.size(); ++i) dx.data[i] = (dx.add ? dx.data[i] : 0.0f) + dy[i];
    }
  });
  return y;
}

Tensor two_numbers(Tape& tape, bool wants_gradient = true) {
  const float values[2] = {1, -3};
  return tape.upload({2}, DType::f32, values, wants_gradient);
}

std::vector<float> gradient_of(const Tensor& x) {
  const float* dx = static_cast<const float*>(x.grad->data);
  return {dx, dx + x.size()};
}

const float ones[2] = {1, 1};

TEST(Tape, BranchesAccumulate) {
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = two_numbers(tape);
  const Tensor a = scaled(tape, x, 2), b = scaled(tape, x, 10);
  const Tensor y = sum(tape, sum(tape, a, b), x);
  tape.backward(y, ones);
  EXPECT_EQ(y.as<float>()[1], -39.0f);
  EXPECT_EQ(gradient_of(x), (std::vector<float>{13, 13}));
}

TEST(Tape, AnInputUsedTwiceByOneOpAccumulates) {
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = two_numbers(tape);
  tape.backward(sum(tape, x, x), ones);
  EXPECT_EQ(gradient_of(x), (std::vector<float>{2, 2}));
}

// Gradients of one size all along, so that the memory of one may become that of another: none may
// be written over while it still waits to be read.
TEST(Tape, GradientsOfManyBranchesDoNotMixUp) {
  Tape tape(Device::cpu, DType::f32);
  for (uint64_t step = 0; step < 3; ++step) {
    tape.begin(step);
    const Tensor x = two_numbers(tape);
    std::vector<Tensor> kept{x};
    Tensor y = x;
    for (int i = 0; i < 8; ++i) kept.push_back(y = scaled(tape, y, 2));
    for (const Tensor& earlier : kept) y = sum(tape, y, earlier);  // from all along the chain
    tape.backward(y, ones);
    EXPECT_EQ(y.as<float>()[0], 256 + 511.0f);  // 2^8 + (1 + 2 + ... + 2^8)
    EXPECT_EQ(gradient_of(x), (std::vector<float>{767, 767})) << "step " << step;
  }
}

TEST(Tape, AViewSharesTheGradient) {
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = two_numbers(tape);
  const Tensor column = x.reshaped({2, 1});
  EXPECT_EQ(column.data, x.data);
  const Tensor y = sum(tape, scaled(tape, x, 2), scaled(tape, column, 3));
  tape.backward(y, ones);
  EXPECT_EQ(gradient_of(x), (std::vector<float>{5, 5}));
  EXPECT_EQ(message_of([&] { x.reshaped({3}); }), "cannot reshape (2) to (3)");
}

TEST(Tape, RunsNoClosureWhoseOutputNobodyUsed) {
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = two_numbers(tape);
  int used = 0, unused = 0, above_unused = 0, after = 0;
  const Tensor y = scaled(tape, x, 2, &used);
  const Tensor dead = scaled(tape, x, 5, &unused);
  scaled(tape, dead, 7, &above_unused);
  scaled(tape, y, 7, &after);  // uses y, but the loss is y itself
  tape.backward(y, ones);
  EXPECT_EQ(used, 1);
  EXPECT_EQ(unused, 0);
  EXPECT_EQ(above_unused, 0);
  EXPECT_EQ(after, 0);
  EXPECT_EQ(gradient_of(x), (std::vector<float>{2, 2}));
}

TEST(Tape, AConstantGetsNoGradient) {
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = two_numbers(tape, false);
  int runs = 0;
  const Tensor y = scaled(tape, x, 2, &runs);
  tape.backward(y, ones);
  EXPECT_EQ(runs, 1);  // it has parameters to see to, perhaps
  EXPECT_EQ(x.grad, nullptr);
  EXPECT_FALSE(tape.gradient<float>(x));
}

TEST(Tape, KeepsNothingInEvaluationMode) {
  Tape tape(Device::cpu, DType::f32);
  tape.training = false;
  const Tensor x = two_numbers(tape);
  EXPECT_EQ(x.grad, nullptr);
  int runs = 0;
  const Tensor y = scaled(tape, x, 2, &runs);
  EXPECT_EQ(y.grad, nullptr);
  EXPECT_EQ(y.as<float>()[0], 2.0f);
  EXPECT_EQ(message_of([&] { tape.backward(y, ones); }), "backward needs a tape in training mode");
  tape.training = true;  // nothing of before comes back
  tape.backward(two_numbers(tape), ones);
  EXPECT_EQ(runs, 0);
}

TEST(Tape, BeginForgetsTheClosuresOfTheStepBefore) {
  Tape tape(Device::cpu, DType::f32);
  int first = 0, second = 0;
  tape.begin(0);
  scaled(tape, two_numbers(tape), 2, &first);
  tape.begin(1);
  tape.backward(scaled(tape, two_numbers(tape), 2, &second), ones);
  EXPECT_EQ(first, 0);
  EXPECT_EQ(second, 1);
}

// Closures lie in blocks of 64 KiB; these need several, in every step.
TEST(Tape, RunsManyClosuresInReverse) {
  struct Padding {
    char bytes[500];
  };
  std::vector<int> order;
  Tape tape(Device::cpu, DType::f32);
  for (uint64_t step = 0; step < 3; ++step) {
    order.clear();
    tape.begin(step);
    const Tensor y = two_numbers(tape);
    for (int i = 0; i < 600; ++i) {
      const Padding padding{{char(i % 100)}};
      tape.record(y, [=, &order] { order.push_back(i * (padding.bytes[0] == i % 100 ? 1 : -1)); });
    }
    tape.backward(y, ones);
    ASSERT_EQ(order.size(), 600u);
    for (int i = 0; i < 600; ++i) ASSERT_EQ(order[size_t(i)], 599 - i) << "step " << step;
  }
}

TEST(Tape, AGradientCanBePassedOnOnlyOnce) {
  Tape tape(Device::cpu, DType::f32);
  const Tensor x = two_numbers(tape), other = two_numbers(tape), y = tape.empty({2});
  bool to_x = false, again = true, to_constant = true;
  void* memory = nullptr;
  const Tensor constant = two_numbers(tape, false);
  bool *a = &to_x, *b = &again, *c = &to_constant;
  void** m = &memory;
  tape.record(y, [=, &tape] {
    *m = y.grad->data;
    *c = tape.pass_gradient(y, constant);
    *a = tape.pass_gradient(y, x);
    *b = tape.pass_gradient(y, x);
  });
  tape.backward(y, ones);
  EXPECT_TRUE(to_x);
  EXPECT_FALSE(again);
  EXPECT_FALSE(to_constant);
  EXPECT_EQ(x.grad->data, memory);
  EXPECT_TRUE(tape.gradient<float>(x).add);  // the next writer adds
  EXPECT_FALSE(tape.gradient<float>(other).add);
}

TEST(Tape, BackwardStartsFromOneNumber) {
  Tape tape(Device::cpu, DType::f64);
  const double value = 4;
  const Tensor loss = tape.upload({1}, DType::f64, &value, true);
  tape.backward(loss);
  EXPECT_EQ(*static_cast<double*>(loss.grad->data), 1.0);
  EXPECT_EQ(message_of([&] {
              tape.backward(tape.empty({2, 3}));
            }),
            "backward starts from one number, not from (2, 3)");
}

TEST(Tape, RefusesNumberTypesADeviceDoesNotHave) {
  EXPECT_EQ(message_of([] { Tape(Device::cpu, DType::bf16); }),
            "device cpu does not compute in bf16");
  EXPECT_NE(message_of([] { Tape(kernel_device, DType::f64); }).find("does not compute in f64"),
            std::string::npos);
  Tape tape(Device::cpu, DType::f32);
  EXPECT_EQ(message_of([&] { tape.empty({4, 0}); }), "a tensor of shape (4, 0) has no elements");
  EXPECT_EQ(message_of([&] { tape.empty({2}).as<double>(); }), "tensor (2) holds f32, not f64");
}

// Every op of a step has random numbers of its own; a step that is repeated has the same ones.
TEST(Tape, RandomStreamsAreTheirOpsAndSteps) {
  Tape tape(Device::cpu, DType::f32, 7);
  std::set<uint32_t> seen;
  std::vector<uint32_t> first, repeated;
  for (uint64_t step : {0, 1, 2, 1000000}) {
    tape.begin(step);
    for (int op = 0; op < 50; ++op) {
      const uint32_t bits = tape.random().bits(0).x[0];
      seen.insert(bits);
      if (step == 2) first.push_back(bits);
    }
  }
  EXPECT_EQ(seen.size(), 200u);
  tape.begin(2);
  for (int op = 0; op < 50; ++op) repeated.push_back(tape.random().bits(0).x[0]);
  EXPECT_EQ(repeated, first);
  Tape other(Device::cpu, DType::f32, 8);
  other.begin(2);
  EXPECT_NE(other.random().bits(0).x[0], first[0]);
}

// --- The arena -----------------------------------------------------------------------------------

// A step with tensors of many sizes, larger together than the arena's first chunk; where they lie.
std::vector<void*> step_of_training(Tape& tape, uint64_t step) {
  tape.begin(step);
  std::vector<void*> places;
  std::vector<Tensor> inputs;
  for (int64_t n : {3, 70000, 64, 900000, 1, 300001, 20000}) {
    inputs.push_back(tape.empty({n}));
    places.push_back(inputs.back().data);
  }
  const Tensor y = two_numbers(tape);
  for (const Tensor& x : inputs) tape.record(y, [=, &tape] { tape.gradient<float>(x); });
  tape.backward(y, ones);
  for (const Tensor& x : inputs) places.push_back(x.grad->data);
  places.push_back(tape.scratch<float>(1234));
  return places;
}

TEST(Tape, CountsForKernelsAreZeroAndOutliveAStep) {
  Tape tape(Device::cpu, DType::f32);
  const unsigned* const few = tape.zeros(10);
  EXPECT_EQ(std::vector<unsigned>(few, few + 10), std::vector<unsigned>(10, 0));
  tape.begin(1);
  tape.empty({1000});
  const int64_t generation = tape.generation();
  EXPECT_EQ(tape.zeros(7), few);
  EXPECT_EQ(tape.generation(), generation);
  const unsigned* const many = tape.zeros(100000);
  EXPECT_EQ(std::count(many, many + 100000, 0u), 100000);
  EXPECT_NE(tape.generation(), generation) << "they are somewhere else";
}

TEST(Arena, AllocatesInTheFirstStepOnlyAndRepeatsItsAddresses) {
  for (Device device : {Device::cpu, kernel_device}) {
    std::string why;
    if (!is_available(device, &why)) continue;
    Tape tape(device, DType::f32);
    step_of_training(tape, 0);
    const size_t used = tape.arena().used();
    EXPECT_GE(used, 2 * 4 * (3 + 70000 + 64 + 900000 + 1 + 300001 + 20000) + 4 * 1234);
    const std::vector<void*> second = step_of_training(tape, 1);
    const size_t capacity = tape.arena().capacity();
    EXPECT_GE(capacity, used);
    EXPECT_LT(capacity, used + (size_t(2) << 20)) << "joined chunks are as large as needed";
    for (uint64_t step = 2; step < 5; ++step) {
      EXPECT_EQ(step_of_training(tape, step), second) << "step " << step;
      EXPECT_EQ(tape.arena().capacity(), capacity) << "step " << step;
      EXPECT_EQ(tape.arena().used(), used) << "step " << step;
    }
    // A smaller step, as the last batch of an evaluation, changes nothing for the next.
    tape.begin(5);
    tape.empty({10});
    EXPECT_EQ(step_of_training(tape, 6), second);
    EXPECT_EQ(tape.arena().capacity(), capacity);
  }
}

TEST(Shape, RefusesMoreElementsThanItCanCount) {
  EXPECT_EQ((Shape{int64_t(1) << 31, int64_t(1) << 31}.size()), int64_t(1) << 62);
  EXPECT_THROW((Shape{int64_t(1) << 32, int64_t(1) << 32}.size()), Error);
}

// What fits into memory in all later steps has to fit in the first.
TEST(Arena, AFirstStepTakesLittleMoreThanItNeeds) {
  Arena arena(Device::cpu);
  for (int i = 0; i < 5000; ++i) {
    arena.allocate(i % 100 ? 30000 : 100000 + 1000 * size_t(i));
    ASSERT_LE(arena.capacity(), arena.used() + arena.used() / 4 + (size_t(2) << 20)) << i;
  }
}

TEST(Arena, PiecesAreAlignedAndDoNotOverlap) {
  Arena arena(Device::cpu);
  std::vector<std::pair<char*, size_t>> pieces;
  for (size_t bytes :
       {size_t(1), size_t(255), size_t(256), size_t(257), size_t(3) << 20, size_t(5)}) {
    char* place = static_cast<char*>(arena.allocate(bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(place) % 256, 0u);
    for (const auto& [other, size] : pieces) {
      EXPECT_TRUE(place + bytes <= other || other + size <= place);
    }
    pieces.push_back({place, bytes});
  }
  arena.reset();
  EXPECT_EQ(arena.used(), 0u);
}

}  // namespace
}  // namespace dyt
