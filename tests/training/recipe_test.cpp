#include "training/recipe.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace dyt {
namespace {

TEST(Recipe, ThePapersHasItsNumbers) {
  const Recipe r = parse_recipe("paper", 224);
  ASSERT_TRUE(r.augment);
  EXPECT_TRUE(r.augment->resized_crop);
  EXPECT_TRUE(r.augment->flip);
  EXPECT_EQ(r.augment->rand_augment, 2);
  EXPECT_EQ(r.augment->magnitude, 9);
  EXPECT_EQ(r.augment->magnitude_std, 0.5f);
  EXPECT_EQ(r.augment->color_jitter, 0.4f);
  EXPECT_EQ(r.augment->erase, 0.25f);
  EXPECT_EQ(r.mix.mixup, 0.8f);
  EXPECT_EQ(r.mix.cutmix, 1.0f);
  EXPECT_EQ(r.mix.switch_probability, 0.5f);
  EXPECT_EQ(r.label_smoothing, 0.1f);
  EXPECT_EQ(r.ema_decay, 0.9999);
  EXPECT_EQ(r.lr, 4e-3);
  EXPECT_EQ(r.lr_batch, 4096);
  EXPECT_EQ(r.weight_decay, 0.05f);
  EXPECT_EQ(
      describe(r),
      "random resized crop, flip, RandAugment 2 x m9-mstd0.5, random erasing 0.25, mixup 0.8, "
      "cutmix 1, label smoothing 0.1, drop path 0.1, weight average 0.9999");
  EXPECT_FALSE(parse_recipe("paper", 32).augment->resized_crop);
}

TEST(Recipe, TheOthersAreModest) {
  const Recipe cifar = parse_recipe("cifar", 32), plain = parse_recipe("plain", 32);
  EXPECT_EQ(describe(cifar), "crop padded by 4, flip, label smoothing 0.1");
  EXPECT_FALSE(cifar.mix.on());
  EXPECT_FALSE(plain.augment);
  EXPECT_EQ(describe(plain), "images as they are");
}

TEST(Recipe, EveryOneIsValid) {
  for (const char* name : {"paper", "cifar", "plain"}) {
    for (const int size : {28, 224}) {
      const Recipe r = parse_recipe(name, size);
      EXPECT_EQ(r.name, name);
      if (r.augment) check(*r.augment);
      check(r.mix);
    }
  }
}

TEST(Recipe, AnUnknownOneIsRefused) {
  try {
    parse_recipe("secret", 32);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "unknown recipe \"secret\": expected paper, cifar or plain");
  }
}

}  // namespace
}  // namespace dyt
