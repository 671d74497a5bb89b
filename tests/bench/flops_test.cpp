// Against what others count: https://github.com/huggingface/pytorch-image-models (results/), which
// gives multiply-adds per image, in 10^9 to one decimal.
#include "bench/flops.h"

#include <gtest/gtest.h>

namespace dyt::test {
namespace {

double giga_multiply_adds(const ModelSpec& spec) {
  Parameters parameters;
  const Model model(spec, parameters);
  return forward_flops(model) / 2e9;
}

TEST(Flops, OfImageModelsAreWhatTimmCounts) {
  EXPECT_NEAR(giga_multiply_adds({.preset = "vit_ti16"}), 1.3, 0.05);
  EXPECT_NEAR(giga_multiply_adds({.preset = "vit_s16"}), 4.6, 0.05);
  EXPECT_NEAR(giga_multiply_adds({.preset = "vit_b16"}), 17.6, 0.05);
  EXPECT_NEAR(giga_multiply_adds({.preset = "convnext_tiny"}), 4.5, 0.05);
  EXPECT_NEAR(giga_multiply_adds({.preset = "convnext_base"}), 15.4, 0.05);
}

// 6 per parameter and token, as the rule of thumb has it (arXiv 2001.08361), plus attention.
TEST(Flops, OfLanguageModelsFollowTheRuleOfThumb) {
  for (const char* preset : {"gpt2_124m", "llama_130m"}) {
    Parameters parameters;
    const Model model({.preset = preset}, parameters);
    const GPTConfig& c = model.language()->config();
    double matrices = 0;  // what every token is multiplied by
    for (const Parameter& p : parameters.all()) {
      const bool looked_up = p.name.find("wpe") != std::string::npos ||
                             p.name.find("embed_tokens") != std::string::npos;
      if (p.shape.rank() == 2 && !looked_up) matrices += double(p.size());
    }
    const double T = c.context;
    const double causal_attention = 6 * T * T * double(c.width) * double(c.depth);
    EXPECT_NEAR(step_flops(model, 2) / (2 * (6 * matrices * T + causal_attention)), 1, 1e-9)
        << preset;
  }
}

TEST(Flops, AreNotMadeUpForModelsNobodyCounted) {
  EXPECT_EQ(giga_multiply_adds({.preset = "resnet20"}), 0);
}

}  // namespace
}  // namespace dyt::test
