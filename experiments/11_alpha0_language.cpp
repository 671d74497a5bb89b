// Experiment 11: alpha0 in language models, and a rule that transfers it.
//
// THE CLAIM (DyT, Tables 11 and 12). Language models are the one place where alpha0 must be tuned:
// the best one falls with the model's width, hardly depends on its depth, and is larger before
// attention than elsewhere (width 1024: 1.0 and 1.0, 2048: 1.0 and 0.5, 4096: 0.8 and 0.2, 8192:
// 0.2 and 0.05). No rule is given that says what a width needs.
//
// THE RULE THAT WE DERIVE. A norm divides by its input's std, whatever that is. tanh(alpha x) does
// so only if alpha is about 1 / std: much less, and DyT is a linear map that shrinks the signal;
// much more, and it saturates. So alpha0 should be c / std of the site's input at initialisation,
// with one c, near 1, for all sites and models. In a LLaMA the std can be computed: all weights
// start at 0.02, the embedding is multiplied by sqrt(width) = sqrt(d), and so the stream starts at
//
//     std_0 = 0.02 sqrt(d).
//
// Whatever its input, a DyT so calibrated hands on rms r = sqrt(E tanh(c z)^2), 0.63 for c = 1. A
// matrix of d inputs then gives p = 0.02^2 d times the variance r^2. What the branches add:
//
//     attention:     p * p r^2 / (number of tokens looked at), a mean over many: next to nothing
//     feed-forward:  0.02^2 hidden * p r^2 * E silu(sqrt(p) r z)^2
//
// As silu(z) is about z / 2 for small z, the second grows like d^3 while the embedding's variance
// grows like d. Hence two regimes. Narrow models (d well below 1000): the stream is the embedding,
// at any depth, so alpha0 ~ d^-1/2 and depth doesn't matter. Wide ones: the feed-forward branches
// win, the stream grows with depth, and 1 / std falls faster, up to d^-3/2, and more so deep in the
// network. `predicted_scales` in initial_scale.cpp has the recursion; nothing in it is fitted.
// `dyt train MODEL --norm dyt --alpha0 auto` needs no theory: it measures std in the first forward
// pass, at one norm after the other, and sets alpha there to c / std.
//
// WHAT WE MEASURE. Final validation loss of short runs of LLaMA-style models, their head a matrix
// of its own as in LLaMA, over alpha0, at two widths, for the fit, and at a third, held out. The
// best alpha0 of a seed is where a parabola through the lowest loss of its sweep and its neighbours
// has its minimum, in log alpha0. From the two small widths we fit c = best alpha0 * std, and the
// power law alpha0 = A width^-p; both predict for the third width. There the predictions are
// trained and set against the sweep, against the paper's value for the nearest width (1.0) and
// against the default (0.5). At the larger fitted width: also a deeper model. And grids of alpha0
// before attention x elsewhere, at two widths and two depths.
//
// THE ARMS. They differ in alpha0 alone; the recipe is one that RMSNorm learns well with.
//
// THE RULE. See `rule`; settled before the runs that count. Trials before them had one seed of
// widths 32 to 128, to find a recipe with which RMSNorm learns, and to see that DyT learns at all:
// with the head tied to the embedding, as 05 had it then, it doesn't at any alpha0; and with a
// warm-up of 30 steps in place of the 100 that language models have here elsewhere, some alpha0
// between others that learn don't. So all arms have 100. Until the end of 2026-11-28 the means of
// the shift and of c / std were enough for REPRODUCED. That alpha0 is larger before attention is
// not judged: the grids show it. c / std is ours, not the paper's, which gives no rule.
#include <cmath>

#include "experiments/alpha0_study.h"

namespace dyt {
namespace {

constexpr const char* rule =
    "The slope of log(best alpha0) against log(width), the shift of log2(best alpha0) from the "
    "shallow to the deep model, and losses at the held-out width, with 95 % intervals over the "
    "seeds. REPRODUCED if the slope's interval lies below 0, the shift's within -1 and 1, and the "
    "arm 'c / std', c fitted on the other widths, is above the lowest mean loss of the sweep by 2 "
    "% at most in the mean, and by 5 % at most with its interval. NOT REPRODUCED if the slope's "
    "interval lies above 0, or the shift's beyond 1 or -1, or the interval of c / std minus the "
    "sweep's best lies above 5 %. Otherwise INCONCLUSIVE.";

Verdict judge(const Alpha0Findings& f, const TextDataset& text) {
  Verdict verdict{.rule = rule};
  const size_t seeds = f.deep.best_log.size();
  if (seeds < 2) {
    verdict.because = "one seed gives no interval";
    return verdict;
  }
  std::vector<double> slopes, log_width, shifts;
  for (const Sweep& s : f.by_width) log_width.push_back(std::log2(double(s.width)));
  for (size_t seed = 0; seed < seeds; ++seed) {
    std::vector<double> best;
    for (const Sweep& s : f.by_width) best.push_back(s.best_log[seed]);
    slopes.push_back(slope_of(log_width, best));
    shifts.push_back(f.deep.best_log[seed] - f.shallow().best_log[seed]);
  }
  const MeanInterval slope = mean_interval(slopes), shift = mean_interval(shifts);
  const Sweep& held_out = f.held_out();
  const std::vector<double> ours = losses_of(f.predicted, by_std, text);
  const MeanInterval gap = paired_difference_interval(ours, held_out.losses[held_out.lowest()]);
  const double best = held_out.mean_losses[held_out.lowest()];
  if (slope.low > 0 || shift.low > 1 || shift.high < -1 || gap.low > 0.05 * best) {
    verdict.outcome = Outcome::not_reproduced;
  } else if (slope.high < 0 && shift.low > -1 && shift.high < 1 && gap.mean <= 0.02 * best &&
             gap.high <= 0.05 * best) {
    verdict.outcome = Outcome::reproduced;
  }
  verdict.because =
      "slope " + signed_fixed(slope.mean) + " " + interval_text(slope) + ", shift with depth " +
      signed_fixed(shift.mean) + " " + interval_text(shift) + " in log2; at width " +
      std::to_string(held_out.width) + " c / std, c = " + fixed(f.predictions.c, 2) + ", is " +
      signed_fixed(100 * gap.mean / best, 1) + " % [" + signed_fixed(100 * gap.low / best, 1) +
      ", " + signed_fixed(100 * gap.high / best, 1) + "] from the sweep's best; " +
      std::to_string(seeds) + " seeds";
  return verdict;
}

}  // namespace

Report run_11_alpha0_language(const Options& options) {
  const Alpha0Setting s = alpha0_setting(options);
  const Study study{.number = 11, .options = options, .part = "sweeps"};
  const Alpha0Findings f = sweep_alpha0(study, s);
  Report report;
  report.verdict = judge(f, s.base.text);
  report.paper =
      "best alpha0 (attention / elsewhere): width 1024 1.0 / 1.0, 2048 1.0 / 0.5, 4096 0.8 / 0.2, "
      "8192 0.2 / 0.05";
  report.ours = "best alpha0:";
  for (const Sweep& sweep : f.by_width) {
    report.ours += " width " + std::to_string(sweep.width) + " " + short_number(sweep.best()) + ",";
  }
  report.ours += " depth " + std::to_string(s.deep) + " at width " + std::to_string(f.deep.width) +
                 " " + short_number(f.deep.best()) +
                 "; alpha0 x std = " + fixed(f.predictions.c, 2);
  report.plots = plots_of_alpha0(s, f);
  report.tables = tables_of_alpha0(s, f);
  report.notes = {
      "All models have a head of their own, as LLaMA has. With the head tied to the embedding, DyT "
      "does not leave the loss of byte frequencies: the head moves all embeddings in one common "
      "direction at the start, the factor sqrt(width) enlarges that, and tanh saturates.",
      "By theory the two norms of a layer have inputs of almost the same size. So 1 / std does not "
      "say why the paper's alpha0 is larger before attention than elsewhere; it gives one value "
      "for both, which is to be compared with their geometric mean."};
  report.settings = settings_for_report(s.base.text, s.base.train);
  report.settings.insert(report.settings.begin(),
                         {"models", describe(sweep_model(s, s.fitted.back(), s.base.model.depth)) +
                                        "; and other widths and depths"});
  add_runs(report, study, f.runs);
  return report;
}

}  // namespace dyt