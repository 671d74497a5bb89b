// The shape of a norm's input-output map over many tokens: of any model with LayerNorm or RMSNorm,
// for experiment 02. What is seen goes into a run's record, and comes back from it as plots.
#pragma once
#include <string>
#include <vector>

#include "experiments/activations.h"
#include "experiments/study.h"

namespace dyt {

// One norm in a trained network: input against output before gamma and beta, over all tokens and
// channels, and how well a line and a tanh fit it.
struct NormShape {
  std::string site;
  double line_r2 = 0, tanh_r2 = 0;
  double input_std = 0;
  // What tanh explains beyond the line, as a share of the output's variance.
  double bend() const { return tanh_r2 - line_r2; }
  // What tanh leaves unexplained, as a share of what the line leaves.
  double left_over() const { return (1 - tanh_r2) / (1 - line_r2); }
};

// Fits every site and notes the fits in the record; of the first, the middle and the last but one
// (the last norm of a block) also points to draw, if `keep_points`. `centred`: LayerNorm, which
// subtracts the mean; false: RMSNorm.
void note_norm_shapes(const std::vector<SiteActivations>& sites, bool keep_points, RunRecord& run,
                      bool centred = true, double epsilon = 1e-6);

// In order of depth.
std::vector<NormShape> norm_shapes_of(const RunRecord& run);

// How much more the deep norms bend than the early ones: the mean bend of the deepest third minus
// that of the first third of a network's block norms (all norms but the last, which ends it).
struct DepthTrend {
  double early = 0, deep = 0;  // mean bend
  double deep_left_over = 0;   // mean left_over of the deepest third
  double difference() const { return deep - early; }
};
DepthTrend depth_trend_of(const RunRecord& run);

// Input against output at the sites of which the record has points. `model` stands in the titles
// and, in lower case, in the plots' names: "ViT".
std::vector<Plot> plots_of_norm_shapes(const RunRecord& run, const std::string& model);
// R2 of both fits from the first norm to the last, over the runs.
Plot plot_of_fits(const std::vector<RunRecord>& runs, const std::string& model);
Table table_of_norm_shapes(const RunRecord& run, const std::string& model);

}  // namespace dyt
