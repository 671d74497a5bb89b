#include "experiments/vit_setting.h"

#include "core/error.h"

namespace dyt {

ViTSetting small_vit(const Options& options) {
  ViTSetting setting{.model = {.patch_size = 8, .width = 64, .depth = 3, .heads = 2},
                     .train = {.batch = 100, .lr = 2e-3, .lr_floor = 2e-5},
                     .train_images = 10000,
                     .test_images = 2000,
                     .seeds = 3};
  TrainOptions& train = setting.train;
  train.adamw.weight_decay = 0.05f;
  train.adamw.max_norm = 1;
  switch (options.size) {
    case Size::smoke:
      setting.model.width = 32;
      setting.model.depth = 2;
      train.batch = 20;
      train.steps = 10, train.warmup = 2, train.evaluate_every = 5;
      setting.train_images = 200, setting.test_images = 100;
      setting.seeds = 2;
      break;
    case Size::small:
      train.steps = 800, train.warmup = 100, train.evaluate_every = 100;
      break;
    case Size::full:
      setting.model = vit_preset("vit_micro");
      train.batch = 256;
      train.lr = 1e-3, train.lr_floor = 1e-5;
      train.steps = 8000, train.warmup = 500, train.evaluate_every = 500;
      train.label_smoothing = 0.1f;
      setting.train_images = setting.test_images = 0;
      setting.seeds = 5;
      break;
  }
  if (options.seeds > 0) setting.seeds = options.seeds;
  return setting;
}

ImageSplits load_for(ViTSetting& setting, const Options& options) {
  ImageSplits data = load_images(options.data, setting.train_images, setting.test_images);
  setting.model.image_size = data.train.height;
  setting.model.classes = data.train.classes();
  return data;
}

ClassifierArm vit_arm(const std::string& name, const ViTSetting& setting, const NormSpec& norm) {
  ViTConfig config = setting.model;
  config.norm = norm;
  return classifier_arm<ViT>(name, config);
}

Plot plot_of_arms(const std::vector<RunRecord>& runs, const std::vector<std::string>& arms) {
  Plot plot{.name = "arms",
            .title = "Test accuracy of the arms",
            .x_label = "arm",
            .y_label = "test accuracy (%)",
            .x_range = Range{-0.5, double(arms.size()) - 0.5}};
  Series each{.name = "every run", .style = SeriesStyle::points, .color = 5};
  Series means{.name = "mean ± standard deviation", .style = SeriesStyle::points, .color = 0};
  for (size_t i = 0; i < arms.size(); ++i) {
    std::vector<double> values = accuracies_of(runs, arms[i]);
    for (double& value : values) value *= 100;
    const double sd = values.size() > 1 ? standard_deviation(values) : 0;
    means.x.push_back(double(i) - 0.1), means.y.push_back(mean(values));
    means.low.push_back(mean(values) - sd), means.high.push_back(mean(values) + sd);
    for (const double value : values) each.x.push_back(double(i) + 0.1), each.y.push_back(value);
    plot.x_tics.push_back({double(i), arms[i]});
  }
  plot.series = {means, each};
  plot.caption = "A run that diverged stands at the accuracy of guessing.";
  return plot;
}

}  // namespace dyt
