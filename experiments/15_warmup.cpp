// Experiment 15: who needs warm-up?
//
// THE CLAIM (On Layer Normalization in the Transformer Architecture, sections 3 and 4). A Post-LN
// Transformer trained without learning-rate warm-up, or with too short a one, trains badly or
// diverges, with Adam and with SGD too (IWSLT14 De-En, Adam at 1e-3 and 5e-4). A Pre-LN one needs
// no warm-up: it trains as well without as a Post-LN one does with it.
//
// WHAT WE MEASURE. Final validation loss of a small language model in GPT-2's style, and of a small
// encoder-decoder that translates (as the paper's; experiment 24 has its BLEU), after runs with no
// warm-up, a short and a long one. No gradient is clipped: clipping is another remedy against the
// same evil.
//
// THE ARMS. Of both networks: Post-LN and Pre-LN, and the same with DyT in LN's place (in the
// language model with a learned factor on the embeddings and alpha0 = 1; and with the head tied to
// the embedding, as in all arms there, DyT does not learn in so narrow a model: experiment 05), x
// warm-up x two learning rates x Adam and SGD with momentum. The larger of each two learning rates
// is near the best for Post-LN with the long warm-up, the paper's baseline. A first `small` did
// without DyT and SGD in the encoder-decoder, and without DyT with SGD; the rule is about none of
// these.
//
// THE RULE. See `rule`: Adam, at the larger learning rate, decides, in both networks. Settled
// before the first run of this size.
#include <algorithm>
#include <cmath>

#include "experiments/gpt_setting.h"
#include "experiments/translation_study.h"

namespace dyt {
namespace {

constexpr double margin = 0.05;  // nats per token
constexpr const char* rule =
    "With Adam at the larger learning rate, in nats per token: a is Post-LN without warm-up minus "
    "Post-LN with the long one, b is Pre-LN without warm-up minus Post-LN with the long one, each "
    "with a 95 % interval over paired seeds. In one network the claim holds if a's interval lies "
    "above 0 and b's below +0.05, and fails if a's lies below +0.05, or b's above it. REPRODUCED "
    "if it holds in both networks, the language model and the encoder-decoder; NOT REPRODUCED if "
    "it fails in both; otherwise INCONCLUSIVE. A run that diverges counts as guessing.";

// Models x learning rates x warm-ups of one network with one optimizer.
struct Grid {
  std::string name;              // in the names of its arms: "Adam"
  std::string title;             // of its table and plot
  std::string plot;              // its file
  double rates[2];               // smaller, larger
  std::vector<int64_t> warmups;  // none, short, long
  int vocabulary = 0;

  static std::string rate_name(double lr) { return fixed(lr, lr < 0.01 ? 4 : lr < 0.1 ? 2 : 1); }
  std::string arm(const std::string& model, double lr, int64_t warmup) const {
    return model + ", " + name + " " + rate_name(lr) + ", " + warmup_name(warmup);
  }
  static std::string warmup_name(int64_t steps) {
    return steps ? "warm-up " + std::to_string(steps) : std::string("no warm-up");
  }
  int64_t longest() const { return warmups.back(); }
};

struct Setting {
  GPTSetting base;
  TranslationSetting translation;
  Grid adam, sgd, encoder_decoder, encoder_decoder_sgd;

  std::vector<const Grid*> language_grids() const { return {&adam, &sgd}; }
  std::vector<const Grid*> translation_grids() const {
    return {&encoder_decoder, &encoder_decoder_sgd};
  }
};

const std::vector<std::string> with_ln = {"Post-LN", "Pre-LN"};
const std::vector<std::string> models = {"Post-LN", "Pre-LN", "Post-DyT", "Pre-DyT"};

Setting setting_of(const Options& options) {
  Setting s{
      .base = small_gpt(options, 600000),
      .translation = small_translation(options, true),
      .adam = {"Adam", "language model, Adam", "adam", {2e-3, 4e-3}, {0, 20, 100}},
      .sgd = {"SGD", "language model, SGD with momentum 0.9", "sgd", {0.1, 0.3}, {0, 20, 100}},
      .encoder_decoder = {"encoder-decoder, Adam",
                          "encoder-decoder, Adam",
                          "encoder-decoder",
                          {2e-3, 4e-3},
                          {0, 20, 100}},
      // Post-LN with the long warm-up, in a trial: 1.72 at 0.1, 4.00 at 0.3.
      .encoder_decoder_sgd = {"encoder-decoder, SGD",
                              "encoder-decoder, SGD with momentum 0.9",
                              "encoder-decoder-sgd",
                              {0.03, 0.1},
                              {0, 20, 100}}};
  TrainOptions &train = s.base.train, &translation = s.translation.train;
  GPTConfig& model = s.base.model;
  switch (options.size) {
    case Size::smoke:
      train.steps = 10, train.evaluate_every = 5;
      s.adam.warmups = s.sgd.warmups = s.encoder_decoder.warmups = {0, 2, 6};
      s.encoder_decoder_sgd.warmups = s.encoder_decoder.warmups;
      break;
    case Size::small:
      // With Adam, a Post-LN of 6 layers learns nothing here within 400 steps, warm-up or not.
      model.width = 32, model.depth = 3, model.heads = 2, model.context = 64;
      train.steps = 600, train.batch = 16, train.evaluate_every = 50;
      break;
    case Size::full:
      model.depth = 12;
      s.adam.warmups = s.sgd.warmups = {0, 100, 1000};
      s.encoder_decoder.warmups = s.encoder_decoder_sgd.warmups = {0, 20, 200};
      s.adam.rates[0] = s.encoder_decoder.rates[0] = 5e-4;
      s.adam.rates[1] = s.encoder_decoder.rates[1] = 1e-3;
      break;
  }
  s.translation.seeds = s.base.seeds;
  train.adamw.max_norm = 0;
  s.translation.task.test.clear();  // the loss is enough here
  translation.inverse_sqrt_from = s.encoder_decoder.longest();
  s.adam.vocabulary = s.sgd.vocabulary = model.vocabulary;
  s.encoder_decoder.vocabulary = s.encoder_decoder_sgd.vocabulary = s.translation.model.vocabulary;
  return s;
}

Placement placement_of(const std::string& model) {
  return model.starts_with("Post") ? Placement::post : Placement::pre;
}

// The arms of the language model with one optimizer and one warm-up: one study.
std::vector<RunRecord> run_part(const Setting& s, const Options& options, const Grid& grid,
                                int64_t warmup) {
  TrainOptions train = s.base.train;
  train.warmup = warmup;
  if (grid.name == "SGD") train.sgd = SgdOptions{};
  train.lr = grid.rates[1], train.lr_floor = grid.rates[1] / 100;
  std::vector<LanguageArm> arms;
  for (const std::string& model : models) {
    GPTConfig config = s.base.model;
    if (model.find("DyT") != model.npos) config = with_squashing(config, NormKind::dyt);
    config.norm.placement = placement_of(model);
    for (const double lr : grid.rates) arms.push_back({grid.arm(model, lr, warmup), config, lr});
  }
  const Study study{
      .number = 15, .options = options, .part = grid.name + ", " + Grid::warmup_name(warmup)};
  return run_language_models(study, arms, s.base.seeds, s.base.text, train);
}

std::vector<RunRecord> run_encoder_decoder(const Setting& s, const Options& options,
                                           const Grid& grid) {
  TranslationSetting setting = s.translation;
  setting.train.lr = grid.rates[1];
  if (&grid == &s.encoder_decoder_sgd) setting.train.sgd = SgdOptions{};
  std::vector<TranslationArm> arms;
  for (const int64_t warmup : grid.warmups) {
    for (const std::string& model : models) {
      TransformerConfig config = s.translation.model;
      if (model.find("DyT") != model.npos) config.norm.kind = NormKind::dyt;
      config.norm.placement = placement_of(model);
      for (const double lr : grid.rates) {
        arms.push_back({grid.arm(model, lr, warmup), config, warmup, lr});
      }
    }
  }
  const Study study{.number = 15, .options = options, .part = grid.name};
  return run_translation(study, arms, setting);
}

std::vector<RunRecord> run_all(const Setting& s, const Options& options) {
  std::vector<RunRecord> runs;
  const auto add = [&](const std::vector<RunRecord>& part) {
    runs.insert(runs.end(), part.begin(), part.end());
  };
  for (const Grid* grid : s.language_grids()) {
    for (const int64_t warmup : grid->warmups) add(run_part(s, options, *grid, warmup));
  }
  for (const Grid* grid : s.translation_grids()) add(run_encoder_decoder(s, options, *grid));
  return runs;
}

// The losses of an arm's runs; a run that diverged counts as guessing.
std::vector<double> losses_of(const std::vector<RunRecord>& runs, const Grid& grid,
                              const std::string& model, double lr, int64_t warmup) {
  return losses_of(runs, grid.arm(model, lr, warmup), grid.vocabulary);
}

// What the rule says of one network: +1 the claim holds, -1 it fails, 0 neither.
int judge(const std::vector<RunRecord>& runs, const Grid& grid, std::string& because) {
  const double lr = grid.rates[1];
  const std::vector<double> base = losses_of(runs, grid, "Post-LN", lr, grid.longest());
  const MeanInterval a = paired_difference_interval(losses_of(runs, grid, "Post-LN", lr, 0), base);
  const MeanInterval b = paired_difference_interval(losses_of(runs, grid, "Pre-LN", lr, 0), base);
  because += (because.empty() ? "" : "; ") + grid.title + ": a = " + signed_fixed(a.mean, 3) + " " +
             interval_text(a, 3) + ", b = " + signed_fixed(b.mean, 3) + " " + interval_text(b, 3);
  if (a.high < margin || b.low > margin) return -1;
  return a.low > 0 && b.high < margin;
}

Verdict judge(const std::vector<RunRecord>& runs, const Setting& s) {
  Verdict verdict{.rule = rule};
  if (s.base.seeds < 2) {
    verdict.because = "one seed gives no interval";
    return verdict;
  }
  const int language = judge(runs, s.adam, verdict.because);
  const int translation = judge(runs, s.encoder_decoder, verdict.because);
  if (language + translation == 2) verdict.outcome = Outcome::reproduced;
  if (language + translation == -2) verdict.outcome = Outcome::not_reproduced;
  verdict.because += "; nats per token, " + counted(s.base.seeds, "seed");
  return verdict;
}

// Rows: model and learning rate; columns: the warm-ups.
Table table_of(const std::vector<RunRecord>& runs, const Grid& grid) {
  Table table{.title = "Validation loss (nats per token), " + grid.title,
              .header = {"model", "learning rate"},
              .note = "Mean over the seeds; in brackets, where it is not 0, how many diverged."};
  for (const int64_t warmup : grid.warmups) table.header.push_back(Grid::warmup_name(warmup));
  for (const std::string& model : models) {
    for (const double lr : grid.rates) {
      std::vector<std::string> row = {model, Grid::rate_name(lr)};
      for (const int64_t warmup : grid.warmups) {
        const auto of_arm = runs_of(runs, grid.arm(model, lr, warmup));
        const auto diverged = std::count_if(of_arm.begin(), of_arm.end(),
                                            [](const RunRecord* run) { return run->diverged(); });
        row.push_back(fixed(mean(losses_of(runs, grid, model, lr, warmup)), 3) +
                      (diverged ? " (" + std::to_string(diverged) + ")" : ""));
      }
      table.rows.push_back(std::move(row));
    }
  }
  return table;
}

// Final loss against the warm-up, at the larger learning rate.
Plot plot_of(const std::vector<RunRecord>& runs, const Grid& grid) {
  Plot plot{.name = grid.plot,
            .title = "Loss against warm-up: " + grid.title + ", larger learning rate",
            .x_label = "warm-up (steps)",
            .y_label = "final loss (nats per token)",
            .caption =
                "Mean over the seeds; the bands reach from the lowest to the highest. A run "
                "that diverged counts as guessing."};
  for (size_t m = 0; m < models.size(); ++m) {
    Series series{.name = models[m], .style = SeriesStyle::line_points, .color = int(m)};
    for (size_t w = 0; w < grid.warmups.size(); ++w) {
      const std::vector<double> losses =
          losses_of(runs, grid, models[m], grid.rates[1], grid.warmups[w]);
      series.x.push_back(double(w)), series.y.push_back(mean(losses));
      series.low.push_back(*std::min_element(losses.begin(), losses.end()));
      series.high.push_back(*std::max_element(losses.begin(), losses.end()));
    }
    plot.series.push_back(std::move(series));
  }
  for (size_t w = 0; w < grid.warmups.size(); ++w) {
    plot.x_tics.push_back({double(w), std::to_string(grid.warmups[w])});
  }
  plot.x_range = Range{-0.2, double(grid.warmups.size()) - 0.8};
  return plot;
}

// The arms with LN, without and with the longest warm-up, at the larger learning rate.
std::vector<std::string> main_arms(const Grid& grid) {
  std::vector<std::string> arms;
  for (const std::string& model : with_ln) {
    for (const int64_t warmup : {int64_t(0), grid.longest()}) {
      arms.push_back(grid.arm(model, grid.rates[1], warmup));
    }
  }
  return arms;
}

void add_courses(Report& report, const Setting& s, const std::vector<RunRecord>& runs) {
  for (Plot& plot :
       plot_of_losses(runs, main_arms(s.adam), s.base.text, s.base.train, "training")) {
    plot.title = "Validation loss while training: language model";
    report.plots.push_back(std::move(plot));
  }
  for (Plot& plot : plot_of_translation(runs, main_arms(s.encoder_decoder), s.translation,
                                        "training-encoder-decoder")) {
    plot.title = "Validation loss while training: encoder-decoder";
    report.plots.push_back(std::move(plot));
  }
}

}  // namespace

Report run_15_warmup(const Options& options) {
  const Setting s = setting_of(options);
  const std::vector<RunRecord> runs = run_all(s, options);
  Report report;
  report.verdict = judge(runs, s);
  report.paper = "Post-LN without warm-up trains badly or diverges; Pre-LN trains as well without";
  for (const Grid* grid : {&s.adam, &s.encoder_decoder}) {
    report.ours += (report.ours.empty() ? "" : "; ") + grid->title + ": ";
    for (const std::string& model : with_ln) {
      for (const int64_t warmup : {int64_t(0), grid->longest()}) {
        report.ours += (model == "Post-LN" && warmup == 0 ? "" : ", ") + model + ", " +
                       Grid::warmup_name(warmup) + " " +
                       fixed(mean(losses_of(runs, *grid, model, grid->rates[1], warmup)), 3);
      }
    }
  }
  for (const Grid* grid : {&s.adam, &s.encoder_decoder, &s.sgd, &s.encoder_decoder_sgd}) {
    report.plots.push_back(plot_of(runs, *grid));
    report.tables.push_back(table_of(runs, *grid));
  }
  add_courses(report, s, runs);
  report.notes = {
      "No gradient is clipped. AdamW's beta2 is " + fixed(s.base.train.adamw.beta2, 2) +
          " in the language model, which forgets the first steps sooner than 0.999 and so is kind "
          "to runs without warm-up; in the encoder-decoder it is " +
          fixed(s.translation.train.adamw.beta2, 2) + ", as in the paper.",
      "The language model's learning rate falls along a cosine, the encoder-decoder's as the "
      "inverse square root of the step, from the step on at which the long warm-up ends, whatever "
      "the warm-up."};
  report.settings = settings_for_report(s.base.text, s.base.train);
  report.settings[1].second = "Adam and SGD; learning rates and warm-ups as in the tables";
  report.settings.insert(report.settings.begin(), {"language model", describe(s.base.model)});
  for (const auto& setting : settings_for_report(s.translation)) report.settings.push_back(setting);
  add_runs(report, Study{.number = 15, .options = options}, runs);
  return report;
}

}  // namespace dyt
