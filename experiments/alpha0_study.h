// Sweeps of alpha0 over LLaMA-style models of several widths, and what is read off them: the parts
// of experiment 11 (11_alpha0_language.cpp says what it is about).
#pragma once
#include <string>
#include <vector>

#include "experiments/gpt_setting.h"

namespace dyt {

// The values of alpha0 that are tried; each twice the one before.
inline constexpr float alpha0_sweep[] = {0.5f, 1, 2, 4, 8, 16, 32};
// Before attention and elsewhere, in the grid: a center times one of the factors each.
inline constexpr float grid_factors[] = {0.25f, 1, 4};
inline constexpr float grid_center = 4;

struct Alpha0Setting {
  GPTSetting base;          // the model's width and depth are each arm's
  std::vector<int> fitted;  // widths
  int held_out, deep;       // width, depth
};
Alpha0Setting alpha0_setting(const Options& options);

// The models whose grids are trained: the larger fitted width and the held-out one, and the deep
// one. (width, depth)
std::vector<std::pair<int, int>> grid_models(const Alpha0Setting& setting);

// Every sweep and every grid, each model once.
std::vector<LanguageArm> sweep_arms(const Alpha0Setting& setting);

struct Sweep {
  int width, depth;
  std::vector<double> mean_losses = {}, low = {}, high = {};  // along the sweep; over the seeds
  std::vector<std::vector<double>> losses = {};               // [alpha0][seed]
  std::vector<double> rmsnorm = {};                           // losses of every seed
  std::vector<double> best_log = {};  // log2 of the best alpha0 of every seed
  double scale = 0;       // std of the norms' inputs at initialisation, calibrated with c = 1: the
                          // geometric mean over norms and seeds
  double best() const;    // geometric mean over the seeds
  size_t lowest() const;  // index of the lowest mean loss
};

// log2 of the best alpha0, given one seed's losses along the sweep: where the parabola through the
// lowest and its neighbours is lowest; at an end of the sweep, the end.
double best_log_alpha0(const std::vector<double>& losses);

// Least squares, also of values that are all the same (which fit_line refuses for want of an R2).
double slope_of(const std::vector<double>& x, const std::vector<double>& y);

struct Predictions {
  double c = 0;                     // fitted: best alpha0 times std
  double power = 0;                 // p of alpha0 = A width^-p
  double by_std = 0, by_power = 0;  // alpha0 at the held-out width
};
Predictions predict_alpha0(const std::vector<Sweep>& fitted, const Sweep& held_out);

// The arms of the predictions.
inline constexpr const char* by_std = "c / std";
inline constexpr const char* by_power = "power law";
inline constexpr const char* by_default_c = "auto (c = 1)";

struct Alpha0Findings {
  std::vector<RunRecord> runs;  // all of them
  std::vector<Sweep> by_width;  // the fitted widths, then the held-out one
  Sweep deep;
  Predictions predictions;
  std::vector<RunRecord> predicted;  // trained at the held-out width

  const Sweep& held_out() const { return by_width.back(); }
  const Sweep& shallow() const { return by_width[by_width.size() - 2]; }  // beside `deep`
};

// Trains all sweeps, fits, and trains what was predicted.
Alpha0Findings sweep_alpha0(const Study& study, const Alpha0Setting& setting);

std::string size_name(int width, int depth);
std::string sweep_arm(int width, int depth, float attention, float elsewhere);
std::string short_number(double value);                                     // "0.25", "3.1", "12"
GPTConfig sweep_model(const Alpha0Setting& setting, int width, int depth);  // with RMSNorm

// --- alpha0_report.cpp ---------------------------------------------------------------------------
std::vector<Table> tables_of_alpha0(const Alpha0Setting& setting, const Alpha0Findings& findings);
std::vector<Plot> plots_of_alpha0(const Alpha0Setting& setting, const Alpha0Findings& findings);

}  // namespace dyt
