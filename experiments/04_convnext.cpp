// Experiment 04: ConvNeXt, LayerNorm against Dynamic Tanh.
//
// THE CLAIM (DyT, Table 1). A ConvNeXt, too, keeps its accuracy when every LayerNorm is replaced by
// DyT and nothing else is changed. ImageNet-1K top-1: ConvNeXt-B 83.7 / 83.7, ConvNeXt-L 84.3 /
// 84.4 (LN / DyT).
//
// WHAT WE MEASURE. Final test accuracy of a small ConvNeXt on small images, both arms with the same
// seeds and with the recipe that suits LN; alpha0 is the paper's 0.5.
//
// THE ARMS. LN: LayerNorm, epsilon 1e-6, over the channels of every pixel. DyT: the same with
// gamma * tanh(alpha x) + beta. The network starts with patches of 4 x 4 pixels and goes from 8 x 8
// places down to 1 x 1, so it is ConvNeXt's shape at a seventh of its image size.
//
// THE RULE. That of experiment 03: REPRODUCED if DyT's accuracy minus LN's lies above -1.0 point by
// its whole 95 % interval, and LN is at least twice as accurate as guessing; NOT REPRODUCED if it
// lies below. It was written before the first run, and made stricter on 2026-11-28.
#include "experiments/classifier_study.h"

namespace dyt {
namespace {

struct Setting {
  ConvNeXtConfig model;
  TrainOptions train;
  size_t train_images, test_images;  // 0: all there are
  int seeds;
};

Setting setting_of(Size size) {
  TrainOptions train{.batch = 100, .lr = 2e-3, .lr_floor = 2e-5};
  train.adamw.weight_decay = 0.05f;
  train.adamw.max_norm = 1;
  ConvNeXtConfig model{.patch_size = 4};
  switch (size) {
    case Size::smoke:
      train.batch = 20;
      train.steps = 8, train.warmup = 2, train.evaluate_every = 4;
      model.depths = {1, 1, 1, 1}, model.widths = {8, 16, 24, 32};
      return {model, train, 200, 100, 2};
    case Size::small:
      train.steps = 1200, train.warmup = 100, train.evaluate_every = 100;
      model.depths = {1, 1, 2, 1}, model.widths = {24, 48, 96, 192};
      return {model, train, 10000, 2000, 3};
    case Size::full:
      train.batch = 256;
      train.steps = 20000, train.warmup = 1000, train.evaluate_every = 1000;
      train.label_smoothing = 0.1f;
      model = convnext_preset("convnext_atto_cifar");
      model.drop_path = 0.1f;
      return {model, train, 0, 0, 5};
  }
  fail("unknown size");
}

template <class T>
std::string list_of(const T& values) {
  std::string text;
  for (const auto value : values) text += (text.empty() ? "" : "-") + std::to_string(value);
  return text;
}

}  // namespace

Report run_04_convnext(const Options& options) {
  Setting setting = setting_of(options.size);
  if (options.seeds > 0) setting.seeds = options.seeds;
  const ImageSplits data = load_images(options.data, setting.train_images, setting.test_images);
  setting.model.image_size = data.train.height;
  setting.model.classes = data.train.classes();
  const auto arm = [&](const char* name, NormSpec norm) {
    ConvNeXtConfig config = setting.model;
    config.norm = norm;
    return classifier_arm<ConvNeXt>(name, config);
  };
  const Study study{.number = 4, .options = options};
  const std::vector<RunRecord> runs =
      run_classifiers(study,
                      {arm("LN", {.kind = NormKind::layernorm}),
                       arm("DyT", {.kind = NormKind::dyt, .alpha0 = 0.5f})},
                      setting.seeds, data, setting.train);
  const std::vector<double> layernorm = accuracies_of(runs, "LN"), dyt = accuracies_of(runs, "DyT");

  Report report;
  report.verdict = judge_as_good(dyt, layernorm, 1.0 / data.train.classes());
  report.paper = "ConvNeXt-B 83.7 % (LN), 83.7 % (DyT)";
  report.ours = percent_plus_minus(layernorm) + " (LN), " + percent_plus_minus(dyt) + " (DyT)";
  report.tables = {
      {.title = "Top-1 accuracy",
       .header = {"model and data", "LN", "DyT", "DyT - LN (points)"},
       .rows = {{"ours: ConvNeXt " + list_of(setting.model.widths) + ", " + data.train.name,
                 percent_plus_minus(layernorm), percent_plus_minus(dyt),
                 signed_fixed(100 * (mean(dyt) - mean(layernorm)))},
                {"paper: ConvNeXt-B, ImageNet-1K", "83.7 %", "83.7 %", "0.0"},
                {"paper: ConvNeXt-L, ImageNet-1K", "84.3 %", "84.4 %", "+0.1"}},
       .note = "Ours: mean ± standard deviation over " + counted(setting.seeds, "seed") + "."},
      table_of_accuracy_by_seed(runs)};
  report.plots = plots_of_training(runs, setting.train, "LN and DyT");
  report.settings = settings_for_report(data, setting.train);
  report.settings.insert(
      report.settings.begin(),
      {{"model", "ConvNeXt, widths " + list_of(setting.model.widths) + ", depths " +
                     list_of(setting.model.depths) + ", patches of " +
                     std::to_string(setting.model.patch_size) + ", layer scale from 1e-6"},
       {"parameters", std::to_string(runs[0].parameters) + " (LN), " +
                          std::to_string(runs[1].parameters) + " (DyT)"}});
  add_runs(report, study, runs);
  return report;
}

}  // namespace dyt
