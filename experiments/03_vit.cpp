// Experiment 03: ViT, LayerNorm against Dynamic Tanh.
//
// THE CLAIM (DyT, Table 1). Replace every LayerNorm of a Vision Transformer by DyT and change
// nothing else, neither the recipe nor a hyper-parameter: it trains as stably, and ends as
// accurate or a little more so. ImageNet-1K top-1: ViT-B 82.3 / 82.5, ViT-L 83.1 / 83.6 (LN / DyT).
//
// WHAT WE MEASURE. Final test accuracy of a small ViT on small images, both arms with the same
// seeds: same initial weights wherever the arms share a parameter, same order of the data, same
// crops and flips. The recipe is one that suits LN, and DyT gets it unchanged, as in the paper:
// nothing was searched for DyT, and alpha0 is the paper's 0.5.
//
// THE ARMS. LN: LayerNorm, epsilon 1e-6, at all norm sites (two per block, one before the head).
// DyT: the same with gamma * tanh(alpha x) + beta, alpha0 = 0.5.
//
// THE RULE. d is DyT's accuracy minus LN's, with a 95 % interval over paired seeds. REPRODUCED: the
// whole interval lies above -1.0 point, and LN is at least twice as accurate as guessing. NOT
// REPRODUCED: it lies below -1.0 point. Otherwise INCONCLUSIVE. There is a margin, as the paper's
// few tenths of a point can't be resolved by three seeds of a small model. It was settled before
// the first run; until 2026-11-28 the mean was enough, whatever had been learned. The code is
// judge_as_good (classifier_study.cpp).
#include "experiments/classifier_study.h"
#include "models/vit.h"

namespace dyt {
namespace {

struct Setting {
  ViTConfig model;
  TrainOptions train;
  size_t train_images, test_images;  // 0: all there are
  int seeds;
};

Setting setting_of(Size size) {
  TrainOptions train{.batch = 100, .lr = 2e-3, .lr_floor = 2e-5};
  train.adamw.weight_decay = 0.05f;
  train.adamw.max_norm = 1;
  switch (size) {
    case Size::smoke:
      train.batch = 32;
      train.steps = 12;
      train.warmup = 3;
      train.evaluate_every = 6;
      return {{.width = 32, .depth = 2, .heads = 2}, train, 320, 100, 2};
    case Size::small:
      // Patches of 8 x 8 make 16 tokens: a quarter of the work of 4 x 4, so four times the epochs.
      train.steps = 1100;
      train.warmup = 100;
      train.evaluate_every = 100;
      return {{.patch_size = 8, .width = 96, .depth = 4, .heads = 3}, train, 10000, 2000, 3};
    case Size::full:
      train.batch = 256;
      train.lr = 1e-3;
      train.lr_floor = 1e-5;
      train.steps = 20000;
      train.warmup = 1000;
      train.evaluate_every = 1000;
      train.label_smoothing = 0.1f;
      ViTConfig model = vit_preset("vit_ti4");
      model.drop_path = 0.1f;
      return {model, train, 0, 0, 5};
  }
  fail("unknown size");
}

}  // namespace

Report run_03_vit(const Options& options) {
  Setting setting = setting_of(options.size);
  if (options.seeds > 0) setting.seeds = options.seeds;
  const ImageSplits data = load_images(options.data, setting.train_images, setting.test_images);
  setting.model.image_size = data.train.height;
  setting.model.classes = data.train.classes();

  const auto arm = [&](const char* name, NormSpec norm) {
    ViTConfig config = setting.model;
    config.norm = norm;
    return classifier_arm<ViT>(name, config);
  };
  const Study study{.number = 3, .options = options};
  const std::vector<RunRecord> runs =
      run_classifiers(study,
                      {arm("LN", {.kind = NormKind::layernorm}),
                       arm("DyT", {.kind = NormKind::dyt, .alpha0 = 0.5f})},
                      setting.seeds, data, setting.train);
  const std::vector<double> layernorm = accuracies_of(runs, "LN"), dyt = accuracies_of(runs, "DyT");

  Report report;
  report.verdict = judge_as_good(dyt, layernorm, 1.0 / data.train.classes());
  report.paper = "ViT-B 82.3 % (LN), 82.5 % (DyT)";
  report.ours = percent_plus_minus(layernorm) + " (LN), " + percent_plus_minus(dyt) + " (DyT)";
  report.tables.push_back(
      {.title = "Top-1 accuracy",
       .header = {"model and data", "LN", "DyT", "DyT - LN (points)"},
       .rows = {{"ours: ViT " + std::to_string(setting.model.width) + " x " +
                     std::to_string(setting.model.depth) + ", " + data.train.name,
                 percent_plus_minus(layernorm), percent_plus_minus(dyt),
                 signed_fixed(100 * (mean(dyt) - mean(layernorm)))},
                {"paper: ViT-B, ImageNet-1K", "82.3 %", "82.5 %", "+0.2"},
                {"paper: ViT-L, ImageNet-1K", "83.1 %", "83.6 %", "+0.5"}},
       .note = "Ours: mean ± standard deviation over " + counted(setting.seeds, "seed") + "."});
  report.tables.push_back(table_of_accuracy_by_seed(runs));
  report.plots = plots_of_training(runs, setting.train, "LN and DyT");

  double seconds = 0, images = 0;
  for (const RunRecord& run : runs) seconds += run.seconds, images += double(run.samples);
  report.settings = settings_for_report(data, setting.train);
  report.settings.insert(report.settings.begin(),
                         {{"model", describe(setting.model)},
                          {"parameters", std::to_string(runs[0].parameters) + " (LN), " +
                                             std::to_string(runs[1].parameters) + " (DyT)"}});
  report.settings.emplace_back("images per second",
                               fixed(images / seconds, 0) + " (training and evaluation)");
  add_runs(report, study, runs);
  return report;
}

}  // namespace dyt
