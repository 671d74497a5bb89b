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
// DyT without beta. DyT and Derf have, as in the paper's LLaMA, a learned factor on the embeddings
// that starts at sqrt(width). All have the same seeds, and the learning rate and schedule that suit
// LN. Language models are the one place where the paper tunes alpha0, by width, larger before
// attention; we take what it has for the nearest width (1024: 1.0 everywhere), for Derf too, and
// search nothing.
//
// THE RULE. See `rule`. The papers' differences are at most 1 % of the loss; a difference of 2 %
// would be another result. It was written before the first run. Until 2026-11-28 it took the final
// loss, which on Tiny Shakespeare is that of LN's overfitting, and didn't ask whether anything had
// been learned.
#include <algorithm>

#include "experiments/gpt_setting.h"

namespace dyt {
namespace {

constexpr double margin = 0.02;  // of the baseline's loss
constexpr const char* rule =
    "Differences of each run's lowest validation loss, in percent of the baseline's, with 95 % "
    "intervals over paired seeds. REPRODUCED if DyT minus RMSNorm (LLaMA) and Derf minus LN "
    "(GPT-2) both lie wholly below +2 %, Derf's mean is not above DyT's, and the baselines' means "
    "are at least 10 % below the loss of byte frequencies. NOT REPRODUCED if one of these two "
    "intervals lies wholly above +2 %. Otherwise INCONCLUSIVE. A run that diverges at once counts "
    "as guessing.";

const std::vector<std::string> gpt2_arms = {"LN", "DyT", "Derf"};
const std::vector<std::string> llama_arms = {"RMSNorm (LLaMA)", "DyT (LLaMA)"};

Verdict judge(const std::vector<RunRecord>& runs, const TextDataset& text) {
  Verdict verdict{.rule = rule};
  const auto losses = [&](const char* arm) { return lowest_losses_of(runs, arm, text); };
  const std::vector<double> ln = losses("LN"), dyt = losses("DyT"), derf = losses("Derf");
  const std::vector<double> rms = losses("RMSNorm (LLaMA)"), llama = losses("DyT (LLaMA)");
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
             std::max(mean(rms), mean(ln)) <= 0.9 * loss_of_frequencies(text)) {
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

Table comparison(const std::vector<RunRecord>& runs, const GPTSetting& setting) {
  const auto ours = [&](const char* arm) {
    return fixed(mean(lowest_losses_of(runs, arm, setting.text)), 3);
  };
  return {
      .title = "Loss, ours at its lowest and the papers' (nats per token)",
      .header = {"model and data", "LN or RMSNorm", "DyT", "Derf"},
      .rows = {{"ours: GPT-2 style, " + setting.text.name, ours("LN"), ours("DyT"), ours("Derf")},
               {"paper (Derf): GPT-2, validation", "2.94", "2.97", "2.94"},
               {"ours: LLaMA style, " + setting.text.name, ours("RMSNorm (LLaMA)"),
                ours("DyT (LLaMA)"), "-"},
               {"paper (DyT): LLaMA 7B, the Pile", "1.59", "1.60", "-"},
               {"paper (DyT): LLaMA 70B, the Pile", "1.45", "1.45", "-"}},
      .note =
          "The vocabularies differ: ours are bytes, the papers' are words and pieces of "
          "words, so only the differences within a row can be compared."};
}

}  // namespace

Report run_05_gpt(const Options& options) {
  const GPTSetting setting = small_gpt(options);
  const GPTConfig gpt2 = setting.model, llama = llama_of(setting);
  const Study study{.number = 5, .options = options};
  const std::vector<RunRecord> runs =
      run_language_models(study,
                          {{"LN", gpt2},
                           {"DyT", with_squashing(gpt2, NormKind::dyt)},
                           {"Derf", with_squashing(gpt2, NormKind::derf)},
                           {"RMSNorm (LLaMA)", llama},
                           {"DyT (LLaMA)", with_squashing(llama, NormKind::dyt)}},
                          setting.seeds, setting.text, setting.train);
  Report report;
  report.verdict = judge(runs, setting.text);
  report.paper = "LLaMA 7B 1.59 (RMSNorm), 1.60 (DyT); GPT-2 2.94 (LN), 2.97 (DyT), 2.94 (Derf)";
  for (const auto& arms : {gpt2_arms, llama_arms}) {
    const bool is_llama = arms == llama_arms;
    for (const std::string& arm : arms) {
      report.ours += (report.ours.empty() ? "" : ", ") + arm + " " +
                     fixed(mean(lowest_losses_of(runs, arm, setting.text)), 3);
    }
    for (Plot& plot :
         plot_of_losses(runs, arms, setting.text, setting.train, is_llama ? "llama" : "gpt2")) {
      plot.title = is_llama ? "LLaMA style: RMSNorm and DyT" : "GPT-2 style: LN, DyT and Derf";
      report.plots.push_back(std::move(plot));
    }
    report.tables.push_back(table_of_losses(runs, arms, arms[0], setting.text));
    report.tables.back().title += is_llama ? ", LLaMA style" : ", GPT-2 style";
  }
  report.tables.insert(report.tables.begin(), comparison(runs, setting));
  report.tables.push_back(table_of_loss_by_seed(runs));
  report.tables.push_back(table_of_lowest_loss_by_seed(runs));
  report.notes = {
      "alpha0 is not ours: it is what the paper's authors tuned for language models of the nearest "
      "width (1024), 1.0 before attention and elsewhere. Elsewhere in the paper 0.5 is the rule."};
  if (mean(losses_of(runs, "DyT (LLaMA)", setting.text)) >
      1.5 * mean(losses_of(runs, "RMSNorm (LLaMA)", setting.text))) {
    report.notes.push_back(
        "DyT hardly learns here. We suspected a bug and trained the same LLaMA-style model in "
        "PyTorch, from the same weights: on Tiny Shakespeare it, too, stays at the loss of "
        "guessing by byte frequencies. So narrow a model has small inputs to its norms, for which "
        "these values of alpha0 are too small; what was tried is in results/README.md.");
  }
  report.settings = settings_for_report(setting.text, setting.train);
  report.settings.insert(
      report.settings.begin(),
      {{"models", describe(gpt2) + "; and the same in LLaMA's style"},
       {"alpha0", fixed(tuned_alpha0(gpt2.width).first, 1) + " before attention, " +
                      fixed(tuned_alpha0(gpt2.width).second, 1) + " elsewhere"}});
  add_runs(report, study, runs);
  return report;
}

}  // namespace dyt
