// Experiment 05: language models. GPT-2 with LayerNorm, DyT and Derf; LLaMA with RMSNorm and DyT.
//
// THE CLAIM (DyT, Table 4). A LLaMA with DyT in place of every RMSNorm ends at the same training
// loss, to a hundredth: 7B 1.59 / 1.60, 13B 1.53 / 1.54, 34B 1.50 / 1.50, 70B 1.45 / 1.45 (RMSNorm
// / DyT, nats per token). Derf's paper (arXiv 2512.10938) adds GPT-2, where DyT is a little behind
// and Derf is not: validation loss 2.94 (LayerNorm), 2.97 (DyT), 2.94 (Derf).
//
// WHAT WE MEASURE. The lowest validation loss that small models come to which read a text byte by
// byte. The text is an invented language whose entropy is known, so one sees how far from the
// optimum everybody is. There is so much of it that hardly a sentence is read twice: training and
// validation loss are one, and the lowest loss is the last. On a real text of a megabyte that is
// read again and again it isn't, and who ends where is a question of who overfits (experiment 17).
//
// THE ARMS. GPT-2's style: LN, DyT, Derf (gamma * erf(alpha x + s) + beta). LLaMA's style: RMSNorm,
// DyT without beta. All have the same seeds, a head of their own (as LLaMA's; tied to the
// embedding, a model this narrow doesn't learn with DyT), and the same two learning rates, of which
// each is judged at its better one, as in 13 and 25. DyT and Derf have, as in the paper's LLaMA, a
// learned factor on the embeddings that starts at sqrt(width). Language models are the one place
// where the paper tunes alpha0, by width. Its values end at width 1024, so we take the rule of
// experiment 11: alpha starts at 1 / std of its first input (--alpha0 auto), and nothing is
// searched.
//
// Until the end of 2026-11-28 the heads were tied, in LLaMA's style, too, alpha0 was 1.0 as at
// width 1024, and the learning rate was one, that suits LN (8e-3): DyT then stayed at the loss of
// byte frequencies. 4e-3 was added after trials that had DyT in them. In GPT-2's style it still
// hardly learns, at any rate: with rotary positions in place of the learned ones, which get lost
// where the embeddings that they are added to saturate the tanh, it does (a trial).
// results/README.md says what else was tried, and what came of it.
//
// THE RULE. See `rule`. The papers' differences are at most 1 % of the loss; a difference of 2 %
// would be another result. It was written before the first run. Until 2026-11-28 it took the final
// loss, which on Tiny Shakespeare is that of LN's overfitting, and didn't ask whether anything had
// been learned; with the second learning rate came "each at its better one".
#include <algorithm>

#include "experiments/gpt_setting.h"

namespace dyt {
namespace {

constexpr double margin = 0.02;  // of the baseline's loss
constexpr const char* rule =
    "Each model at the learning rate with the lower mean; differences of each run's lowest "
    "validation loss, in percent of the baseline's, with 95 % intervals over paired seeds. "
    "REPRODUCED if DyT minus RMSNorm (LLaMA) and Derf minus LN (GPT-2) both lie wholly below +2 %, "
    "Derf's mean is not above DyT's, and the baselines' means are at least 10 % below the loss of "
    "byte frequencies. NOT REPRODUCED if one of these two intervals lies wholly above +2 %. "
    "Otherwise INCONCLUSIVE. A run that diverges at once counts as guessing.";

struct Model {
  const char* name;
  NormKind norm;
  GPTStyle style;
};
constexpr Model models[] = {{"LN", NormKind::layernorm, GPTStyle::gpt2},
                            {"DyT", NormKind::dyt, GPTStyle::gpt2},
                            {"Derf", NormKind::derf, GPTStyle::gpt2},
                            {"RMSNorm (LLaMA)", NormKind::rmsnorm, GPTStyle::llama},
                            {"DyT (LLaMA)", NormKind::dyt, GPTStyle::llama}};

struct Setting {
  GPTSetting base;
  std::vector<double> rates;
};

Setting setting_of(const Options& options) {
  Setting s{.base = small_gpt(options), .rates = {4e-3, 8e-3}};
  if (options.size == Size::small) s.base.train.steps = 600;
  if (options.size == Size::full) {
    s.rates = {1e-3, 2e-3};
    s.base.seeds = options.seeds > 0 ? options.seeds : 3;
  }
  s.base.model.tied = false;
  return s;
}

std::string arm_name(const std::string& model, double lr) { return model + ", lr " + fixed(lr, 4); }

GPTConfig config_of(const Setting& s, const Model& model) {
  const GPTConfig base = model.style == GPTStyle::llama ? llama_of(s.base) : s.base.model;
  return has_alpha(model.norm) ? with_calibrated_squashing(base, model.norm) : base;
}

struct Results {
  const Setting& s;
  const std::vector<RunRecord>& runs;

  std::vector<double> lowest(const std::string& model, double lr) const {
    return lowest_losses_of(runs, arm_name(model, lr), s.base.text);
  }
  double best_rate(const std::string& model) const {
    return lowest_mean_at(s.rates, [&](double lr) { return lowest(model, lr); });
  }
  std::string best_arm(const std::string& model) const { return arm_name(model, best_rate(model)); }
  std::vector<double> best(const std::string& model) const {
    return lowest(model, best_rate(model));
  }
};

Verdict judge(const Results& r) {
  Verdict verdict{.rule = rule};
  const std::vector<double> ln = r.best("LN"), dyt = r.best("DyT"), derf = r.best("Derf");
  const std::vector<double> rms = r.best("RMSNorm (LLaMA)"), llama = r.best("DyT (LLaMA)");
  if (ln.size() < 2) {
    verdict.because = "one seed gives no interval";
    return verdict;
  }
  const MeanInterval a = paired_difference_interval(llama, rms);
  const MeanInterval b = paired_difference_interval(derf, ln);
  const double most_a = margin * mean(rms), most_b = margin * mean(ln);
  if (a.low > most_a || b.low > most_b) {
    verdict.outcome = Outcome::not_reproduced;
  } else if (a.high < most_a && b.high < most_b && mean(derf) <= mean(dyt) &&
             std::max(mean(rms), mean(ln)) <= 0.9 * loss_of_frequencies(r.s.base.text)) {
    verdict.outcome = Outcome::reproduced;
  }
  const auto relative = [](const MeanInterval& d, double base) {
    return signed_fixed(100 * d.mean / base) + " % [" + signed_fixed(100 * d.low / base) + ", " +
           signed_fixed(100 * d.high / base) + "]";
  };
  verdict.because = "LLaMA: DyT minus RMSNorm " + relative(a, mean(rms)) +
                    "; GPT-2: Derf minus LN " + relative(b, mean(ln)) + ", DyT minus LN " +
                    relative(paired_difference_interval(dyt, ln), mean(ln)) + "; " +
                    std::to_string(ln.size()) + " seeds";
  return verdict;
}

Table comparison(const Results& r) {
  const auto ours = [&](const char* model) { return fixed(mean(r.best(model)), 3); };
  const std::string& text = r.s.base.text.name;
  return {
      .title = "Loss, ours at its lowest and the papers' (nats per token)",
      .header = {"model and data", "LN or RMSNorm", "DyT", "Derf"},
      .rows = {{"ours: GPT-2 style, " + text, ours("LN"), ours("DyT"), ours("Derf")},
               {"paper (Derf): GPT-2, validation", "2.94", "2.97", "2.94"},
               {"ours: LLaMA style, " + text, ours("RMSNorm (LLaMA)"), ours("DyT (LLaMA)"), "-"},
               {"paper (DyT): LLaMA 7B, the Pile", "1.59", "1.60", "-"},
               {"paper (DyT): LLaMA 70B, the Pile", "1.45", "1.45", "-"}},
      .note =
          "Each at its better learning rate. The vocabularies differ: ours are bytes, the papers' "
          "are words and pieces of words, so only the differences within a row can be compared."};
}

Table table_of_rates(const Results& r) {
  Table table{.title = "Lowest validation loss at each learning rate (nats per token)",
              .header = {"model"},
              .note = "Mean ± standard deviation over the seeds."};
  for (const double lr : r.s.rates) table.header.push_back("lr " + fixed(lr, 4));
  for (const Model& model : models) {
    std::vector<std::string> row = {model.name};
    for (const double lr : r.s.rates) {
      const std::vector<double> losses = r.lowest(model.name, lr);
      row.push_back(losses.size() > 1 ? plus_minus(losses, 3) : fixed(losses[0], 3));
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace

Report run_05_gpt(const Options& options) {
  const Setting s = setting_of(options);
  std::vector<LanguageArm> arms;
  for (const Model& model : models) {
    for (const double lr : s.rates) {
      arms.push_back({arm_name(model.name, lr), config_of(s, model), lr});
    }
  }
  const Study study{.number = 5, .options = options};
  const std::vector<RunRecord> runs =
      run_language_models(study, arms, s.base.seeds, s.base.text, s.base.train);
  const Results results{s, runs};
  Report report;
  report.verdict = judge(results);
  report.paper = "LLaMA 7B 1.59 (RMSNorm), 1.60 (DyT); GPT-2 2.94 (LN), 2.97 (DyT), 2.94 (Derf)";
  report.tables = {comparison(results), table_of_rates(results)};
  for (const GPTStyle style : {GPTStyle::gpt2, GPTStyle::llama}) {
    const bool is_llama = style == GPTStyle::llama;
    std::vector<std::string> shown;
    for (const Model& model : models) {
      if (model.style != style) continue;
      shown.push_back(results.best_arm(model.name));
      report.ours += (report.ours.empty() ? "" : ", ") + std::string(model.name) + " " +
                     fixed(mean(results.best(model.name)), 3);
    }
    for (Plot& plot :
         plot_of_losses(runs, shown, s.base.text, s.base.train, is_llama ? "llama" : "gpt2")) {
      plot.title = is_llama ? "LLaMA style: RMSNorm and DyT" : "GPT-2 style: LN, DyT and Derf";
      report.plots.push_back(std::move(plot));
    }
    report.tables.push_back(table_of_losses(runs, shown, shown[0], s.base.text));
    report.tables.back().title += is_llama ? ", LLaMA style" : ", GPT-2 style";
  }
  report.tables.push_back(table_of_loss_by_seed(runs));
  report.tables.push_back(table_of_lowest_loss_by_seed(runs));
  report.notes = {
      "alpha starts at 1 / std of its first input (--alpha0 auto): the paper tunes alpha0 in "
      "language models, but not for models as narrow as these, and experiment 11 gives this rule.",
      "The head is a matrix of its own in all arms, as in LLaMA. Tied to the embedding, as in "
      "GPT-2, a model this narrow does not learn with DyT."};
  report.settings = settings_for_report(s.base.text, s.base.train);
  report.settings[1].second = "AdamW, weight decay " + fixed(s.base.train.adamw.weight_decay, 2) +
                              ", cosine, " + std::to_string(s.base.train.warmup) +
                              " warm-up steps; learning rates as in the table";
  report.settings.insert(report.settings.begin(),
                         {{"models", describe(s.base.model) + "; and the same in LLaMA's style"},
                          {"alpha0", "1 / std of its first input"}});
  add_runs(report, study, runs);
  return report;
}

}  // namespace dyt
