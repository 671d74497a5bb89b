// Experiment 02: What LayerNorm does in trained networks.
//
// THE CLAIM (DyT, Figures 2 to 4). In trained Transformers the early LayerNorms map input to output
// almost in a straight line; the deep ones follow an S-shaped curve like a tanh's. For each token
// the map is a line; the bend comes from the tokens and the few channels that carry extreme values,
// which are squashed. Experiment 01 shows the mechanism on tokens made for it; here are networks
// that we trained.
//
// WHAT WE MEASURE. A small ViT and a small GPT with LayerNorm are trained; then unseen images or
// text are sent through them, and for each LayerNorm all pairs (input, output before gamma and
// beta) of all tokens and channels go into one cloud, to which we fit, by least squares, a line and
// a * tanh(b x + c) + d. R2 is the share of the output's variance that a fit explains; the bend is
// R2(tanh) - R2(line).
//
// THE ARM. There is one for each network, LN: nothing is compared.
//
// THE RULE. See `rule`. It asks that the bend grows with depth, and that one can see it in the deep
// layers, in both networks. A line is a limit of tanh, so the bend is never negative; hence the
// comparison of deep with early layers. The norm that ends the network is left out: the ViT's sees
// the mean over the tokens. It was written before the first run, for the ViT; when the GPT came in,
// "in both" was added.
#include "experiments/gpt_setting.h"
#include "experiments/norm_shapes.h"
#include "experiments/vit_setting.h"

namespace dyt {
namespace {

constexpr const char* rule =
    "d is the mean bend of the deepest third of the norms minus that of the first third. In a "
    "network the claim shows if the 95 % interval of d over the seeds lies above 0 and in the "
    "deepest third tanh leaves, on average, at most 80 % of what the line leaves unexplained; it "
    "fails if the interval of d lies below 0, or if tanh leaves more than 95 % there. REPRODUCED "
    "if it shows in both networks, NOT REPRODUCED if it fails in one, otherwise INCONCLUSIVE.";

// Of one network.
Verdict judge(const std::vector<RunRecord>& runs, const char* model) {
  Verdict verdict{.rule = rule};
  std::vector<double> differences, left_overs, early, deep;
  for (const RunRecord& run : runs) {
    if (run.diverged()) continue;
    const DepthTrend trend = depth_trend_of(run);
    differences.push_back(trend.difference()), left_overs.push_back(trend.deep_left_over);
    early.push_back(trend.early), deep.push_back(trend.deep);
  }
  if (differences.size() < 2) {
    verdict.because = std::string(model) + ": one run gives no interval";
    return verdict;
  }
  const MeanInterval d = mean_interval(differences);
  const double left_over = mean(left_overs);
  if (d.low > 0 && left_over <= 0.8) {
    verdict.outcome = Outcome::reproduced;
  } else if (d.high < 0 || left_over > 0.95) {
    verdict.outcome = Outcome::not_reproduced;
  }
  verdict.because = std::string(model) + ": mean bend " + fixed(mean(early), 4) +
                    " in the first third and " + fixed(mean(deep), 4) +
                    " in the deepest; d = " + signed_fixed(d.mean, 4) + ", 95 % interval " +
                    interval_text(d, 4) + ", " + std::to_string(d.n) +
                    " seeds; in the deepest third tanh leaves " + percent(left_over, 0) +
                    " of what the line leaves";
  return verdict;
}

Verdict judge_both(const Verdict& a, const Verdict& b) {
  Verdict both{.rule = rule, .because = a.because + ". " + b.because};
  if (a.outcome == b.outcome) {
    both.outcome = a.outcome;
  } else if (a.outcome == Outcome::not_reproduced || b.outcome == Outcome::not_reproduced) {
    both.outcome = Outcome::not_reproduced;
  }
  return both;
}

struct Networks {
  ViTSetting vit;
  GPTSetting gpt;
  ImageSplits images;
};

std::vector<RunRecord> train_vits(const Study& study, const Networks& networks, int64_t images) {
  const ViTSetting& setting = networks.vit;
  const Look look{
      .at =
          [&](int64_t step, const Forward& forward, const Parameters& parameters, RunRecord& run) {
            if (step != setting.train.steps) return;
            note_norm_shapes(observe_norms(forward, parameters, networks.images.test, images),
                             /*keep_points=*/true, run);
          },
      .settings = "shapes of the norms, " + std::to_string(images) + " test images"};
  return run_classifiers(study, {vit_arm("LN", setting, {.kind = NormKind::layernorm})},
                         setting.seeds, networks.images, setting.train, look);
}

std::vector<RunRecord> train_gpts(const Study& study, const Networks& networks, int64_t count) {
  const GPTSetting& setting = networks.gpt;
  const int64_t context = setting.model.context;
  const std::vector<int64_t> begins =
      even_windows(int64_t(setting.text.val.size()), context, count);
  std::vector<int32_t> tokens(begins.size() * size_t(context)), labels(tokens.size());
  fill_windows(setting.text.val, begins, context, tokens.data(), labels.data());
  const LanguageLook look{
      .at =
          [&](int64_t step, const GPT& model, const Parameters& parameters, RunRecord& run) {
            if (step != setting.train.steps) return;
            Tape tape(parameters.device(), parameters.dtype());
            const auto sites = observe_norms(tape, [&](Tape& t) {
              model.logits(t,
                           t.upload({int64_t(begins.size()), context}, DType::i32, tokens.data()));
            });
            note_norm_shapes(sites, /*keep_points=*/true, run, /*centred=*/true,
                             double(setting.model.norm.epsilon));
          },
      .settings = "shapes of the norms, " + std::to_string(count) + " windows of unseen text"};
  return run_language_models(study, {{"LN, GPT", setting.model}}, setting.seeds, setting.text,
                             setting.train, look);
}

// Plots and a table of one network, and its main numbers.
void describe_network(const std::vector<RunRecord>& runs, const std::string& model,
                      Report& report) {
  const RunRecord& first = runs.front();
  report.ours += report.ours.empty() ? "R2 of line / tanh: " : "; ";
  if (first.diverged()) {
    report.ours += model + ": the first run diverged";
    return;
  }
  const std::vector<NormShape> shapes = norm_shapes_of(first);
  const NormShape& deep = shapes[shapes.size() - 2];
  report.ours += model + ", first norm " + fixed(shapes[0].line_r2, 3) + " / " +
                 fixed(shapes[0].tanh_r2, 3) + ", last of a block " + fixed(deep.line_r2, 3) +
                 " / " + fixed(deep.tanh_r2, 3) + " (first seed)";
  report.plots.push_back(plot_of_fits(runs, model));
  for (Plot& plot : plots_of_norm_shapes(first, model)) report.plots.push_back(std::move(plot));
  report.tables.push_back(table_of_norm_shapes(first, model));
}

}  // namespace

Report run_02_norms_in_networks(const Options& options) {
  Networks networks{small_vit(options), small_gpt(options), {}};
  if (options.size != Size::full) networks.vit.model.depth *= 2;
  networks.images = load_for(networks.vit, options);
  const bool smoke = options.size == Size::smoke;
  const Study of_vits{.number = 2, .options = options, .part = "ViT"};
  const Study of_gpts{.number = 2, .options = options, .part = "GPT"};
  std::vector<RunRecord> vits = train_vits(of_vits, networks, smoke ? 4 : 100);
  const std::vector<RunRecord> gpts = train_gpts(of_gpts, networks, smoke ? 4 : 32);

  Report report;
  report.verdict = judge_both(judge(vits, "ViT"), judge(gpts, "GPT"));
  report.paper = "early norms close to linear, deep ones S-shaped (Figure 2; no number is given)";
  describe_network(vits, "ViT", report);
  describe_network(gpts, "GPT", report);
  report.tables.push_back(table_of_accuracy_by_seed(vits));
  report.tables.push_back(table_of_loss_by_seed(gpts));
  report.settings = settings_for_report(networks.images, networks.vit.train);
  for (const auto& setting : settings_for_report(networks.gpt.text, networks.gpt.train)) {
    report.settings.emplace_back(setting.first + " (GPT)", setting.second);
  }
  report.settings.insert(
      report.settings.begin(),
      {"models", describe(networks.vit.model) + ", LN; " + describe(networks.gpt.model) + ", LN"});
  vits.insert(vits.end(), gpts.begin(), gpts.end());
  add_runs(report, of_vits, vits);
  return report;
}

}  // namespace dyt
