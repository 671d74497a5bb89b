// Studies of translation: the machinery under the experiments that compare encoder-decoder
// Transformers, and the small one that they compare.
#pragma once
#include <string>
#include <vector>

#include "experiments/run_settings.h"
#include "experiments/token_study.h"
#include "experiments/training_run.h"

namespace dyt {

struct TranslationSetting {
  TransformerConfig model;  // Pre-LN; its vocabulary is the task's
  TrainOptions train;       // its warm-up is the long one
  TranslationTask task;
  BeamOptions beam;
  int seeds;
};

// The recipe of arXiv 1706.03762 and 2002.04745 at the size of the options: Adam (0.9, 0.98, 1e-9)
// without decay, label smoothing 0.1, inverse square root of the step. `brief`: at the size
// `small`, a narrower model and shorter sentences, for many runs of a few seconds.
TranslationSetting small_translation(const Options& options, bool brief = false);

struct TranslationArm {
  std::string name;
  TransformerConfig config;
  int64_t warmup = 0;  // the decay is the study's whatever the warm-up (training/schedule.h)
  double lr = 0;       // another peak learning rate than the study's; 0: that one
};

// Trains every arm with setting.seeds seeds from --first-seed on; what a seed fixes is as in
// classifier_study.h. A record has what token_study.h says ("train loss" of smoothed labels), and
// if there are test pairs the number "bleu" of them; 0 if the run diverged.
std::vector<RunRecord> run_translation(Study study, const std::vector<TranslationArm>& arms,
                                       const TranslationSetting& setting);

// As in token_study.h, with a title.
std::vector<Plot> plot_of_translation(const std::vector<RunRecord>& runs,
                                      const std::vector<std::string>& arms,
                                      const TranslationSetting& setting, const std::string& name);

// The settings "translation", "its model", "its optimizer" and "its steps", for the report.
std::vector<std::pair<std::string, std::string>> settings_for_report(const TranslationSetting& s);

}  // namespace dyt
