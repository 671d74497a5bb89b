#include <gtest/gtest.h>

#include "core/philox.h"
#include "layers/layers.h"
#include "tests/op_check.h"

namespace dyt::test {
namespace {

// Reading a text in pieces with a cache gives what attention to all of it gives.
void check_cache(Device device, DType dtype, const AttentionOptions& heads, int64_t width,
                 const std::vector<int64_t>& pieces, double tolerance) {
  const int64_t B = 2, KV = heads.kv_heads ? heads.kv_heads : heads.heads;
  const int64_t C = (heads.heads + 2 * KV) * width, out = heads.heads * width, capacity = 40;
  int64_t tokens = 0;
  for (int64_t n : pieces) tokens += n;
  RandomSequence random(2, 2);
  std::vector<float> qkv(size_t(B * tokens * C));
  for (float& v : qkv) v = float(bf16(float(random.normal())));
  const auto upload = [&](Tape& tape, int64_t first,
                          int64_t count) {  // tokens first .. of all texts
    std::vector<float> part;
    for (int64_t b = 0; b < B; ++b) {
      const auto begin = qkv.begin() + (b * tokens + first) * C;
      part.insert(part.end(), begin, begin + count * C);
    }
    if (dtype == DType::f32) return tape.upload({B, count, C}, dtype, part.data());
    std::vector<bf16> narrow(part.size());
    for (size_t i = 0; i < part.size(); ++i) narrow[i] = bf16(part[i]);
    return tape.upload({B, count, C}, dtype, narrow.data());
  };
  Tape tape(device, dtype);
  tape.training = false;
  AttentionOptions causal = heads;
  causal.causal = true;
  const std::vector<double> whole = to_host(tape, attention(tape, upload(tape, 0, tokens), causal));

  const size_t bytes = size_t(B * capacity * KV * width) * size_of(dtype);
  const Buffer keys(device, bytes), values(device, bytes);
  int64_t past = 0;
  for (int64_t count : pieces) {
    const KeyValueCache cache{keys.data(), values.data(), capacity, past};
    const Tensor y = attention_with_cache(tape, upload(tape, past, count), heads, cache);
    std::vector<double> expected;
    for (int64_t b = 0; b < B; ++b) {
      const auto begin = whole.begin() + (b * tokens + past) * out;
      expected.insert(expected.end(), begin, begin + count * out);
    }
    expect_close(to_host(tape, y), expected, tolerance, "tokens from " + std::to_string(past));
    past += count;
  }
}

const std::vector<int64_t> pieces = {7, 1, 1, 20, 4};

TEST(AttentionCache, GivesWhatAttentionToTheWholeTextGives) {
  check_cache(Device::cpu, DType::f32, {3, 0}, 16, pieces, 1e-6);
  check_cache(Device::cpu, DType::f32, {4, 2}, 24, pieces, 1e-6);
}

TEST(AttentionCacheKernels, GiveWhatAttentionToTheWholeTextGives) {
  SKIP_WITHOUT_KERNELS();
  check_cache(kernel_device, DType::f32, {4, 2}, 24, pieces, 1e-6);
  check_cache(kernel_device, DType::bf16, {3, 0}, 16, pieces, 1e-3);
}

TEST(AttentionCache, RefusesMoreThanItHolds) {
  Tape tape(Device::cpu, DType::f32);
  std::vector<float> memory(2 * 4 * 16);
  const KeyValueCache cache{memory.data(), memory.data() + 64, 4, 3};
  const Tensor qkv = tape.empty({1, 2, 48});
  const KeyValueCache empty{memory.data(), memory.data() + 64, 4, 0};
  EXPECT_THROW(attention_with_cache(tape, qkv, {.heads = 1}, empty), Error);  // training
  tape.training = false;
  try {
    attention_with_cache(tape, qkv, {.heads = 1}, cache);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(
        std::string(e.what()).find("a cache for 4 tokens, 3 of them known, has no room for 2"),
        std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace dyt::test
