// The small ViT on which the experiments about Dynamic Tanh's parts are made, and its recipe:
// chosen so that LayerNorm learns well in the time there is, and never for one of the arms.
#pragma once
#include "experiments/classifier_study.h"
#include "models/vit.h"

namespace dyt {

struct ViTSetting {
  ViTConfig model;
  TrainOptions train;
  size_t train_images, test_images;  // 0: all there are
  int seeds;
};

ViTSetting small_vit(const Options& options);

// The setting's images; sets the model's image size and number of classes to theirs.
ImageSplits load_for(ViTSetting& setting, const Options& options);

// The small ViT with this norm: an arm.
ClassifierArm vit_arm(const std::string& name, const ViTSetting& setting, const NormSpec& norm);

// Mean and standard deviation of each arm's test accuracy, with every run as a point.
Plot plot_of_arms(const std::vector<RunRecord>& runs, const std::vector<std::string>& arms);

}  // namespace dyt
