#include "core/graph.h"

#include <gtest/gtest.h>

#include "core/tape.h"
#include "core/transfer.h"
#include "layers/layers.h"
#include "tests/datasets/expect_error.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

float read(const Buffer& buffer, size_t i = 0) {
  std::vector<float> values(buffer.bytes() / sizeof(float));
  copy_to_host(kernel_device, values.data(), buffer.data(), buffer.bytes());
  return values[i];
}

Buffer buffer_of(float value) {
  Buffer buffer(kernel_device, sizeof value);
  copy_to_device(kernel_device, buffer.data(), &value, sizeof value);
  return buffer;
}

// What is recorded is not done; what is repeated finds what lies on the device by then, and its
// arguments as they were.
TEST(GraphKernels, RepeatsCopiesFillsAndConstants) {
  SKIP_WITHOUT_KERNELS();
  const Buffer from = buffer_of(1), to = buffer_of(2), zeroed = buffer_of(3),
               constant = buffer_of(4);
  float number = 7;
  const Graph graph = Graph::record(kernel_device, [&] {
    copy_on_device(kernel_device, to.data(), from.data(), sizeof(float));
    fill_zero(kernel_device, zeroed.data(), sizeof(float));
    put_on_device(kernel_device, constant.data(), &number, sizeof number);
  });
  number = 8;
  EXPECT_EQ(read(to), 2);
  EXPECT_EQ(read(zeroed), 3);
  EXPECT_EQ(read(constant), 4);
  for (float value : {5.0f, 6.0f}) {
    put_on_device(kernel_device, from.data(), &value, sizeof value);
    put_on_device(kernel_device, zeroed.data(), &value, sizeof value);
    graph.launch();
    EXPECT_EQ(read(to), value);
    EXPECT_EQ(read(zeroed), 0);
    EXPECT_EQ(read(constant), 7);
  }
}

// Forward and backward of an op with random numbers: each repetition draws those of its own step.
TEST(GraphKernels, RandomNumbersFollowTheStepOnTheDevice) {
  SKIP_WITHOUT_KERNELS();
  const std::vector<float> ones(1000, 1.0f);
  const Buffer first_stream(kernel_device, sizeof(uint64_t)), x_data(kernel_device, 4000);
  copy_to_device(kernel_device, x_data.data(), ones.data(), 4000);
  const Tensor x{{1000}, DType::f32, x_data.data(), nullptr};
  Tape tape(kernel_device, DType::f32, 5);
  Tensor y;
  const auto forward = [&] {
    tape.begin(3, static_cast<const uint64_t*>(first_stream.data()));
    y = dropout(tape, dropout(tape, x, 0.25f), 0.25f);
  };
  const auto put_step = [&](uint64_t n) {
    const uint64_t stream = Tape::streams_of(n);
    put_on_device(kernel_device, first_stream.data(), &stream, sizeof stream);
  };
  put_step(0);
  forward();
  forward();  // now the arena has settled
  const Graph graph = Graph::record(kernel_device, forward);
  for (uint64_t n : {4, 0, 11}) {
    put_step(n);
    graph.launch();
    Tape cpu(Device::cpu, DType::f32, 5);
    cpu.begin(3 + n);
    const Tensor on_cpu = cpu.upload({1000}, DType::f32, ones.data());
    EXPECT_EQ(host_floats(tape, y),
              host_floats(cpu, dropout(cpu, dropout(cpu, on_cpu, 0.25f), 0.25f)))
        << n;
  }
}

TEST(GraphKernels, WhatTheDeviceCantRepeatAloneIsRefused) {
  SKIP_WITHOUT_KERNELS();
  const Buffer buffer = buffer_of(1);
  float number = 2;
  const auto record = [&](const std::function<void()>& work) {
    return [&, work] { Graph::record(kernel_device, work); };
  };
  expect_error(record([&] { copy_to_host(kernel_device, &number, buffer.data(), 4); }),
               {"host reads", "repeated"});
  expect_error(record([&] { copy_to_device(kernel_device, buffer.data(), &number, 4); }),
               {"host sends", "repeated"});
  expect_error(record([&] { synchronize(kernel_device); }), {"host waits", "repeated"});
  expect_error(record([&] { Buffer(kernel_device, 4); }), {"memory is allocated", "repeated"});
  expect_error([] { Graph().launch(); }, {"recorded before"});
  EXPECT_EQ(number, 2);
  EXPECT_EQ(read(buffer), 1);  // and the device works on
}

TEST(Graph, IsNotForTheCpu) {
  expect_error([] { Graph::record(Device::cpu, [] {}); }, {"cpu has no graphs"});
}

// --- Copies that nobody waits for ----------------------------------------------------------------

TEST(TransferKernels, ArriveBehindTheirEvents) {
  SKIP_WITHOUT_KERNELS();
  PinnedBuffer there(kernel_device, 400), back(kernel_device, 400);
  const Buffer device(kernel_device, 400);
  for (size_t i = 0; i < 100; ++i) static_cast<float*>(there.data())[i] = float(i);
  Event copied(kernel_device), returned(kernel_device);
  copied.wait();  // never recorded: has passed
  send_to_device(kernel_device, device.data(), there.data(), 400);
  copied.record(Queue::copy);
  copied.hold(Queue::compute);
  send_to_host(kernel_device, back.data(), device.data(), 400);
  returned.record(Queue::compute);
  returned.wait();
  for (size_t i = 0; i < 100; ++i) EXPECT_EQ(static_cast<float*>(back.data())[i], float(i));
}

}  // namespace
}  // namespace dyt::test
