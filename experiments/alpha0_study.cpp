#include "experiments/alpha0_study.h"

#include <algorithm>
#include <cmath>

#include "experiments/initial_scale.h"

namespace dyt {

Alpha0Setting alpha0_setting(const Options& options) {
  Alpha0Setting s{
      .base = small_gpt(options, 200000), .fitted = {32, 64}, .held_out = 128, .deep = 6};
  s.base.model.depth = 2;
  TrainOptions& train = s.base.train;
  switch (options.size) {
    case Size::smoke:
      s.fitted = {16, 32}, s.held_out = 64, s.deep = 3;
      s.base.model.depth = 1;
      train.batch = 4, train.steps = 4, train.warmup = 1, train.evaluate_every = 2;
      break;
    case Size::small:
      s.base.model.context = 64;
      train.batch = 8;
      train.lr = 4e-3, train.lr_floor = 4e-4;
      train.steps = 300, train.evaluate_every = 100;
      train.evaluate_windows = 32;
      break;
    case Size::full:
      s.fitted = {64, 128}, s.held_out = 256;
      train.batch = 32;
      train.lr = 4e-3, train.lr_floor = 4e-4;
      train.steps = 400, train.warmup = 100, train.evaluate_every = 200;
      s.base.seeds = options.seeds > 0 ? options.seeds : 3;
      break;
  }
  return s;
}

std::string size_name(int width, int depth) {
  return "width " + std::to_string(width) + " x " + std::to_string(depth);
}
std::string short_number(double value) {
  return fixed(value, value < 0.995 ? 2 : value < 9.95 ? 1 : 0);
}

std::string sweep_arm(int width, int depth, float attention, float elsewhere) {
  std::string name = size_name(width, depth) + ", alpha0 " + short_number(attention);
  if (attention != elsewhere) name += " / " + short_number(elsewhere);
  return name;
}

double Sweep::best() const { return std::exp2(mean(best_log)); }

size_t Sweep::lowest() const {
  return size_t(std::min_element(mean_losses.begin(), mean_losses.end()) - mean_losses.begin());
}

GPTConfig sweep_model(const Alpha0Setting& s, int width, int depth) {
  GPTConfig config = llama_of(s.base);
  config.width = width, config.depth = depth, config.hidden = 0;
  config.heads = std::max(1, width / 32);
  return config;
}

namespace {

// --- The arms

// c above 0: alpha starts at c / std, and alpha0 is nothing.
GPTConfig with_dyt(GPTConfig config, float attention, float elsewhere, float c = 0) {
  config.norm = {.kind = NormKind::dyt, .alpha0 = elsewhere, .calibrate = c};
  config.alpha0_attention = attention;
  return config;
}

double work_of(const GPTConfig& config) {
  return double(config.depth) * std::pow(double(config.width), 1.3);
}

class Arms {
 public:
  explicit Arms(const Alpha0Setting& s) : s_(s) {}
  void add(const std::string& name, const GPTConfig& config) {
    const auto named = [&](const LanguageArm& arm) { return arm.name == name; };
    if (std::any_of(list.begin(), list.end(), named)) return;
    list.push_back({.name = name, .config = config, .work = work_of(config)});
  }
  void add_sweep(int width, int depth) {
    add(size_name(width, depth) + ", RMSNorm", sweep_model(s_, width, depth));
    for (const float a : alpha0_sweep) add_pair(width, depth, a, a);
  }
  void add_pair(int width, int depth, float attention, float elsewhere) {
    add(sweep_arm(width, depth, attention, elsewhere),
        with_dyt(sweep_model(s_, width, depth), attention, elsewhere));
  }
  std::vector<LanguageArm> list;

 private:
  const Alpha0Setting& s_;
};

}  // namespace

std::vector<std::pair<int, int>> grid_models(const Alpha0Setting& s) {
  const int depth = s.base.model.depth;
  return {{s.fitted.back(), depth}, {s.held_out, depth}, {s.fitted.back(), s.deep}};
}

std::vector<LanguageArm> sweep_arms(const Alpha0Setting& s) {
  Arms arms(s);
  const int depth = s.base.model.depth, middle = s.fitted.back();
  for (const int width : s.fitted) arms.add_sweep(width, depth);
  arms.add_sweep(s.held_out, depth);
  arms.add_sweep(middle, s.deep);
  for (const auto& [grid_width, grid_depth] : grid_models(s)) {
    for (const float a : grid_factors) {
      for (const float b : grid_factors) {
        arms.add_pair(grid_width, grid_depth, grid_center * a, grid_center * b);
      }
    }
  }
  return std::move(arms.list);
}

// --- What is read off them

double best_log_alpha0(const std::vector<double>& losses) {
  const auto lowest = std::min_element(losses.begin(), losses.end());
  const size_t i = size_t(lowest - losses.begin());
  const double at = std::log2(double(alpha0_sweep[i]));
  if (i == 0 || i + 1 == losses.size()) return at;
  const double left = losses[i - 1] - losses[i], right = losses[i + 1] - losses[i];
  if (left + right <= 0) return at;
  return at + 0.5 * (left - right) / (left + right);  // the sweep's steps are 1 in log2
}

namespace {

Sweep sweep_of(const Alpha0Setting& s, const std::vector<RunRecord>& runs, int width, int depth) {
  Sweep result{.width = width, .depth = depth};
  for (const float a : alpha0_sweep) {
    result.losses.push_back(losses_of(runs, sweep_arm(width, depth, a, a), s.base.text));
    const std::vector<double>& of_seeds = result.losses.back();
    result.mean_losses.push_back(mean(of_seeds));
    result.low.push_back(*std::min_element(of_seeds.begin(), of_seeds.end()));
    result.high.push_back(*std::max_element(of_seeds.begin(), of_seeds.end()));
  }
  const std::string rmsnorm = size_name(width, depth) + ", RMSNorm";
  const std::vector<const RunRecord*> of_rmsnorm = runs_of(runs, rmsnorm);  // which has all seeds
  result.rmsnorm = losses_of(runs, rmsnorm, s.base.text);
  std::vector<double> scales;
  for (size_t seed = 0; seed < result.rmsnorm.size(); ++seed) {
    std::vector<double> along;
    for (const auto& of_seeds : result.losses) along.push_back(of_seeds[seed]);
    result.best_log.push_back(best_log_alpha0(along));
    const GPTConfig config = with_dyt(sweep_model(s, width, depth), 1, 1, auto_calibration);
    const uint64_t its_seed = uint64_t(of_rmsnorm[seed]->seed);
    for (const SiteScale& site : measured_scales(config, s.base.text, its_seed)) {
      scales.push_back(site.std);
    }
  }
  result.scale = geometric_mean(scales);
  return result;
}

}  // namespace

double slope_of(const std::vector<double>& x, const std::vector<double>& y) {
  const double mean_x = mean(x), mean_y = mean(y);
  double xy = 0, xx = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean_x) * (y[i] - mean_y);
    xx += (x[i] - mean_x) * (x[i] - mean_x);
  }
  return xy / xx;
}

Predictions predict_alpha0(const std::vector<Sweep>& fitted, const Sweep& held_out) {
  std::vector<double> c, log_width, log_best;
  for (const Sweep& s : fitted) {
    c.push_back(s.best() * s.scale);
    log_width.push_back(std::log(double(s.width)));
    log_best.push_back(mean(s.best_log) * std::log(2.0));
  }
  Predictions p{.c = geometric_mean(c), .power = -slope_of(log_width, log_best)};
  p.by_std = p.c / held_out.scale;
  p.by_power =
      std::exp(mean(log_best) - p.power * (std::log(double(held_out.width)) - mean(log_width)));
  return p;
}

namespace {

// The predictions, trained at the held-out width.
std::vector<LanguageArm> predicted_arms(const Alpha0Setting& s, const Predictions& p) {
  const GPTConfig base = sweep_model(s, s.held_out, s.base.model.depth);
  const float power = float(p.by_power);
  const double work = work_of(base);
  return {{.name = by_std, .config = with_dyt(base, 1, 1, float(p.c)), .work = work},
          {.name = by_power, .config = with_dyt(base, power, power), .work = work},
          {.name = by_default_c, .config = with_dyt(base, 1, 1, auto_calibration), .work = work}};
}

}  // namespace

Alpha0Findings sweep_alpha0(const Study& study, const Alpha0Setting& s) {
  const int depth = s.base.model.depth;
  Alpha0Findings f;
  f.runs = run_language_models(study, sweep_arms(s), s.base.seeds, s.base.text, s.base.train);
  for (const int width : s.fitted) f.by_width.push_back(sweep_of(s, f.runs, width, depth));
  f.by_width.push_back(sweep_of(s, f.runs, s.held_out, depth));
  f.deep = sweep_of(s, f.runs, s.fitted.back(), s.deep);
  f.predictions = predict_alpha0({f.by_width.begin(), f.by_width.end() - 1}, f.held_out());
  Study predicted = study;
  predicted.part = "prediction";
  f.predicted = run_language_models(predicted, predicted_arms(s, f.predictions), s.base.seeds,
                                    s.base.text, s.base.train);
  f.runs.insert(f.runs.end(), f.predicted.begin(), f.predicted.end());
  return f;
}

}  // namespace dyt
