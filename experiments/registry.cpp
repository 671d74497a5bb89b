#include "experiments/registry.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "core/clock.h"
#include "core/error.h"
#include "experiments/study.h"
#include "training/progress.h"

namespace dyt {

const std::vector<Experiment>& experiments() {
  static const std::vector<Experiment> list = {
      {1, "LayerNorm is tanh-like", "DyT, section 3",
       "Over many tokens, LayerNorm's input-output map bends like a tanh when a few channels carry "
       "extreme values, although it is a straight line for every single token.",
       2, run_01_layernorm_is_tanh_like},
      {2, "What LayerNorm does in trained networks", "DyT, Figures 2-4",
       "In trained Transformers the early LayerNorms are close to linear and the deep ones follow "
       "an S-shaped, tanh-like curve.",
       120, run_02_norms_in_networks},
      {3, "ViT: LN vs DyT", "DyT, Table 1",
       "A ViT trained with DyT in place of every LayerNorm reaches the same accuracy or a slightly "
       "higher one.",
       360, run_03_vit},
      {4, "ConvNeXt: LN vs DyT", "DyT, Table 1",
       "A ConvNeXt trained with DyT in place of every LayerNorm reaches the same accuracy.", 180,
       run_04_convnext},
      {5, "GPT: LN vs DyT vs Derf; LLaMA style: RMSNorm vs DyT", "DyT, Table 4; Derf, GPT-2",
       "Language models with DyT end at the loss of those with RMSNorm; Derf closes what is left "
       "to LayerNorm.",
       300, run_05_gpt},
      {6, "What does a norm cost?", "DyT, Table 7",
       "A DyT layer takes about half the time of an RMSNorm layer, and the whole model about 8 % "
       "less.",
       150, run_06_norm_cost},
      {7, "Which squashing function?", "DyT, Table 8",
       "tanh does best, hardtanh and sigmoid come close, and without any squashing training fails.",
       240, run_07_squashing},
      {8, "Without alpha", "DyT, Table 9",
       "Without the learnable scale alpha, accuracy falls for every squashing function.", 270,
       run_08_without_alpha},
      {9, "alpha follows 1/std", "DyT, Figure 8",
       "alpha follows the inverse standard deviation of its input during training, and is strongly "
       "correlated with it afterwards.",
       120, run_09_alpha_follows_std},
      {10, "How sensitive is alpha0?", "DyT, Figures 9-11",
       "Outside language models alpha0 from 0.4 to 1.2 works equally well; larger models and "
       "higher learning rates need a smaller one to be stable.",
       340, run_10_alpha0},
      {11, "alpha0 in language models, and a rule that transfers it", "DyT, Tables 11-12",
       "The best alpha0 falls with a language model's width, hardly depends on its depth, and is "
       "larger in attention blocks.",
       320, run_11_alpha0_language},
      {12, "Where DyT fails: BatchNorm in ResNet and VGG", "DyT, appendix",
       "In classic ConvNets, DyT in place of BatchNorm loses accuracy: 7.3 points in ResNet-50, "
       "1.7 in VGG19.",
       560, run_12_batchnorm},
      {13, "Rivals: Fixup, SkipInit, sigmaReparam", "DyT, Table 10",
       "DyT does better than the initialisation-based methods Fixup and SkipInit, and at least as "
       "well as sigmaReparam.",
       150, run_13_rivals},
      {14, "Gradients at initialisation: Post-LN vs Pre-LN", "Pre-LN, section 3",
       "At initialisation the last layer's gradient does not depend on depth in a Post-LN "
       "Transformer and falls like 1/sqrt(depth) in a Pre-LN one.",
       65, run_14_gradients_at_init},
      {15, "Who needs warm-up?", "Pre-LN, sections 3 and 4",
       "Post-LN Transformers need learning-rate warm-up; Pre-LN ones train as well without it.",
       640, run_15_warmup},
      {16, "Derf vs DyT vs LN, and what makes a good replacement", "Derf",
       "A good replacement for a norm is zero-centred, bounded, sensitive near zero and monotone; "
       "erf is the best one found.",
       260, run_16_good_replacement},
      {17, "When does removing LN help?", "arXiv 2604.23434",
       "DyT regularises by saturation: it improves the loss of a model that sees few tokens, and "
       "worsens that of one that sees many.",
       320, run_17_when_removing_helps},
      {18, "Tuning only the norms", "arXiv 2302.07937",
       "Training only the normalisation parameters of a random network already fits a lot.", 240,
       run_18_only_norms},
      {24, "Translation", "Pre-LN, section 4 (IWSLT14)",
       "In translation, Post-LN without warm-up trains badly, and Pre-LN without it reaches the "
       "same quality faster.",
       270, run_24_translation},
      {25, "BERT-style masked language model", "Pre-LN, section 4",
       "Pre-LN BERT trains without warm-up and faster than Post-LN.", 540, run_25_bert},
  };
  return list;
}

std::string cost_text(const Experiment& experiment) { return time_left(experiment.cost); }

std::string suite_progress(const std::vector<const Experiment*>& suite, size_t done,
                           double seconds) {
  double cost_done = 0, cost_left = 0;
  for (size_t i = 0; i < suite.size(); ++i) (i < done ? cost_done : cost_left) += suite[i]->cost;
  std::string text =
      std::to_string(done) + " of " + std::to_string(suite.size()) + " experiments done";
  if (done < suite.size() && cost_done >= 60 && seconds > 0) {  // a few seconds tell nothing
    text += ", about " + time_left(cost_left * seconds / cost_done) + " left";
  }
  return text;
}

const char* name_of(Size size) {
  return size == Size::smoke ? "smoke" : size == Size::small ? "small" : "full";
}

Size size_named(const std::string& name) {
  for (const Size size : {Size::smoke, Size::small, Size::full}) {
    if (name == name_of(size)) return size;
  }
  fail("there is no size '", name, "'; choose smoke, small or full");
}

namespace {

// "01, 03": those that can be run, or all on the list.
std::string listed(bool only_implemented) {
  std::string text;
  for (const Experiment& e : experiments()) {
    if (only_implemented && !e.run) continue;
    text += (text.empty() ? "" : ", ") + two_digits(e.number);
  }
  return text;
}

int number_in(std::string_view text, const std::string& word) {
  int number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  require(failure == std::errc() && end == text.data() + text.size() && number >= 0, "'", word,
          "' selects no experiment; write a number, a range such as 03-05, or all");
  return number;
}

void select(const std::string& word, std::set<int>& numbers) {
  const size_t dash = word.find('-');
  if (word != "all" && (dash == word.npos || dash == 0)) {
    const Experiment& experiment = find_experiment(number_in(word, word));
    require(experiment.run != nullptr, "experiment ", two_digits(experiment.number), " (",
            experiment.title, ") is planned, but not there yet; there are ", listed(true));
    numbers.insert(experiment.number);
    return;
  }
  int first = 0, last = 99;
  if (word != "all") {
    first = number_in(std::string_view(word).substr(0, dash), word);
    last = number_in(std::string_view(word).substr(dash + 1), word);
    require(first <= last, "the range '", word, "' goes down; write ", two_digits(last), "-",
            two_digits(first));
  }
  bool any = false;
  for (const Experiment& e : experiments()) {
    if (!e.run || e.number < first || e.number > last) continue;
    numbers.insert(e.number);
    any = true;
  }
  require(any, "no experiment in '", word, "'; there are ", listed(true));
}

}  // namespace

const Experiment& find_experiment(int number) {
  for (const Experiment& e : experiments()) {
    if (e.number == number) return e;
  }
  fail("there is no experiment ", number, "; the numbers are ", listed(false));
}

std::vector<const Experiment*> select_experiments(const std::vector<std::string>& words) {
  std::set<int> numbers;
  for (const std::string& word : words) {
    for (size_t begin = 0; begin <= word.size();) {
      const size_t end = std::min(word.find(',', begin), word.size());
      select(word.substr(begin, end - begin), numbers);
      begin = end + 1;
    }
  }
  require(!numbers.empty(),
          "no experiment was named; write a number, a range such as 03-05, or all");
  std::vector<const Experiment*> selected;
  for (const int number : numbers) selected.push_back(&find_experiment(number));
  return selected;
}

Report run_experiment(const Experiment& experiment, const Options& options,
                      const std::string& device) {
  require(experiment.run != nullptr, "experiment ", two_digits(experiment.number),
          " is planned, but not there yet; there are ", listed(true));
  if (options.force) forget_runs(options, experiment.number);
  const double begin = seconds_now();
  Report report = experiment.run(options);
  const double taken = seconds_now() - begin;
  report.number = experiment.number;
  report.title = experiment.title;
  report.source = experiment.source;
  report.claim = experiment.claim;
  if (options.size == Size::smoke) {
    report.verdict.outcome = Outcome::inconclusive;
    report.verdict.because =
        "a smoke test is too short to judge. Its numbers: " + report.verdict.because;
  }
  // Of a study that went on where it had stopped, the time of all its runs.
  stamp(report, device, std::max(taken, report.seconds));
  return report;
}

}  // namespace dyt
