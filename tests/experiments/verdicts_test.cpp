// The verdicts: what the runs would have to give for each outcome, by the text of each rule. An
// experiment's runs are made at their smallest, once; then the results in their records are
// replaced, and the report is made again from these. And what the arms are called, they are: no two
// of them end with the same loss.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "experiments/study.h"
#include "tests/datasets/temporary_folder.h"

namespace dyt {
namespace {

namespace fs = std::filesystem;

constexpr Outcome yes = Outcome::reproduced, no = Outcome::not_reproduced;
constexpr Outcome open = Outcome::inconclusive;

using Seeds = std::vector<double>;             // of one arm, by seed: of seeds 1, 2, 3
using Results = std::map<std::string, Seeds>;  // by arm
using Change = std::function<void(RunRecord&)>;

Seeds all(double value) { return {value, value, value}; }

class Judged {
 public:
  explicit Judged(int number) : experiment_(find_experiment(number)) {
    options_ = {.device = "cpu", .size = Size::smoke, .seeds = 3, .out = folder_.path("out")};
    experiment_.run(options_);
    std::map<std::pair<int64_t, double>, std::string> arms;  // by seed and loss
    for (const auto& entry : fs::directory_iterator(records())) {
      std::string settings;
      const RunRecord run = run_from_json(read_file(entry.path()), settings);
      const auto [other, alone] = arms.insert({{run.seed, run.number("train loss")}, run.arm});
      EXPECT_TRUE(alone) << run.arm << " and " << other->second;
    }
  }

  Outcome operator()(const Change& change) const {
    for (const auto& entry : fs::directory_iterator(records())) {
      std::string settings;
      RunRecord run = run_from_json(read_file(entry.path()), settings);
      run.diverged_at = -1;
      change(run);
      write_file(entry.path(), to_json(run, settings));
    }
    return experiment_.run(options_).verdict.outcome;
  }

  // Every arm's final `number`, and where it is a loss, all of its curve; arms that aren't named
  // have `other`. An arm that doesn't exist is a mistake of the test.
  Outcome operator()(const std::string& number, const Results& results, double other) const {
    std::map<std::string, int> met;
    const Outcome outcome = (*this)([&](RunRecord& run) {
      if (!run.numbers.count(number)) return;
      const auto found = results.find(run.arm);
      const double value = found == results.end() ? other : found->second[size_t(run.seed - 1)];
      run.numbers[number] = value;
      for (CurvePoint& p : run.curve) {
        if (p.metric == number) p.value = value;
      }
      ++met[run.arm];
    });
    for (const auto& [arm, seeds] : results) EXPECT_EQ(met[arm], 3) << arm;
    return outcome;
  }

 private:
  fs::path records() const { return options_.out / two_digits(experiment_.number) / "runs"; }

  const TemporaryFolder folder_;
  const Experiment& experiment_;
  Options options_;
};

TEST(Verdicts, OfViTAndConvNeXt) {
  for (const int number : {3, 4}) {
    const Judged judged(number);
    const auto outcome = [&](double ln, double dyt) {
      return judged("test accuracy", {{"LN", all(ln)}, {"DyT", all(dyt)}}, 0);
    };
    EXPECT_EQ(outcome(0.5, 0.5), yes);
    EXPECT_EQ(outcome(0.5, 0.54), yes);
    EXPECT_EQ(outcome(0.5, 0.495), yes);
    EXPECT_EQ(outcome(0.5, 0.48), no);
    EXPECT_EQ(outcome(0.1, 0.1), open);  // nothing learned
  }
}

TEST(Verdicts, OfLanguageModels) {
  const Judged judged(5);
  const auto outcome = [&](Results best) {  // each at one of two rates; at the other 4
    Results r = {{"LN, lr 0.0080", all(1)},
                 {"DyT, lr 0.0040", all(1.02)},
                 {"Derf, lr 0.0040", all(1)},
                 {"RMSNorm (LLaMA), lr 0.0080", all(1)},
                 {"DyT (LLaMA), lr 0.0040", all(1.01)}};
    for (const auto& [arm, seeds] : best) r[arm] = seeds;
    return judged("val loss", r, 4);
  };
  EXPECT_EQ(outcome({}), yes);
  EXPECT_EQ(outcome({{"DyT (LLaMA), lr 0.0040", all(1.03)}}), no);
  EXPECT_EQ(outcome({{"Derf, lr 0.0040", all(1.03)}}), no);
  EXPECT_EQ(outcome({{"LN, lr 0.0040", all(0.9)}}), no);  // the baseline's better rate counts
  EXPECT_EQ(outcome({{"Derf, lr 0.0040", all(1.01)}, {"DyT, lr 0.0040", all(1.005)}}), open);
  EXPECT_EQ(outcome({{"DyT (LLaMA), lr 0.0040", {0.9, 1.0, 1.1}}}), open);
  EXPECT_EQ(outcome({{"Derf, lr 0.0040", {0.9, 1.0, 1.1}}}), open);
  const auto after = [&](double gpt2, double llama) {  // all models of a style at the same loss
    return judged("val loss",
                  {{"RMSNorm (LLaMA), lr 0.0040", all(llama)},
                   {"RMSNorm (LLaMA), lr 0.0080", all(llama)},
                   {"DyT (LLaMA), lr 0.0040", all(llama)},
                   {"DyT (LLaMA), lr 0.0080", all(llama)}},
                  gpt2);
  };
  EXPECT_EQ(after(1, 1), yes);
  EXPECT_EQ(after(5, 1), open);  // no better than the frequencies of bytes
  EXPECT_EQ(after(1, 5), open);
}

TEST(Verdicts, OfSquashingFunctions) {
  const Judged judged(7);
  const auto outcome = [&](Results r) {
    r.insert({{"tanh", all(0.6)}, {"identity", all(0.4)}});
    r.insert({{"hardtanh", all(0.58)}, {"sigmoid", all(0.58)}});
    return judged("test accuracy", r, 0.9);
  };
  EXPECT_EQ(outcome({}), yes);
  EXPECT_EQ(outcome({{"identity", all(0.55)}}), no);
  EXPECT_EQ(outcome({{"sigmoid", all(0.45)}}), no);
  EXPECT_EQ(outcome({{"hardtanh", all(0.62)}}), no);
  EXPECT_EQ(outcome({{"hardtanh", all(0.605)}}), open);
  EXPECT_EQ(outcome({{"identity", {0.3, 0.4, 0.65}}}), open);
}

TEST(Verdicts, WithoutAlpha) {
  const Judged judged(8);
  const auto outcome = [&](Results r) {
    for (const std::string f : {"tanh", "hardtanh", "sigmoid"}) {
      r.insert({{f, all(0.6)}, {f + ", no alpha", all(0.55)}});
    }
    return judged("test accuracy", r, 0);
  };
  EXPECT_EQ(outcome({}), yes);
  EXPECT_EQ(outcome({{"sigmoid", all(0.54)}}), open);  // not with each
  EXPECT_EQ(outcome({{"tanh", {0.3, 0.6, 0.9}}}), open);
  EXPECT_EQ(outcome({{"tanh", all(0.55)}, {"hardtanh", all(0.55)}, {"sigmoid", all(0.55)}}), no);
  EXPECT_EQ(outcome({{"tanh", all(0.3)}}), no);
}

TEST(Verdicts, AlphaFollowsStd) {
  const Judged judged(9);
  const std::vector<double> rising = {1, 2, 3, 4}, falling = {4, 3, 2, 1};
  const auto outcome = [&](std::vector<std::vector<double>> rstd, bool diverges = false) {
    return judged([&](RunRecord& run) {
      run.lists = {{"alpha", rising}, {"1/std", rstd[size_t(run.seed - 1)]}};
      if (diverges && run.seed == 2) run.diverged_at = 1;
    });
  };
  EXPECT_EQ(outcome({rising, rising, rising}), yes);
  EXPECT_EQ(outcome({falling, falling, falling}), no);
  EXPECT_EQ(outcome({rising, falling, rising}), open);
  EXPECT_EQ(outcome({rising, rising, rising}, true), open);
}

TEST(Verdicts, OfAlpha0) {
  const Judged judged(10);
  const auto outcome = [&](Results r, double others = 0.5) {
    for (const char* arm : {"alpha0 0.4", "alpha0 0.5", "alpha0 0.8", "alpha0 1.2"}) {
      r.insert({arm, all(others)});
    }
    return judged("test accuracy", r, 0);
  };
  EXPECT_EQ(outcome({{"alpha0 1.2", all(0.48)}}), yes);
  EXPECT_EQ(outcome({{"alpha0 1.2", all(0.46)}}), no);
  EXPECT_EQ(outcome({{"alpha0 0.4", {0.45, 0.48, 0.51}}}), open);
  EXPECT_EQ(outcome({}, 0.1), open);  // nothing learned
  EXPECT_EQ(judged([](RunRecord& run) {
              run.numbers["test accuracy"] = 0.5;
              if (run.arm == "alpha0 0.8" && run.seed == 3) run.diverged_at = 2;
            }),
            no);
}

TEST(Verdicts, OfBatchNorm) {
  const Judged judged(12);
  const auto outcome = [&](Results r) {
    r.insert({{"ResNet BN", all(0.8)}, {"ResNet DyT", all(0.4)}});
    r.insert({{"VGG BN", all(0.8)}, {"VGG DyT", all(0.6)}});
    r.insert({{"ViT LN", all(0.5)}, {"ViT DyT", all(0.48)}});
    return judged("test accuracy", r, 0);
  };
  EXPECT_EQ(outcome({}), yes);
  EXPECT_EQ(outcome({{"ViT DyT", all(0.2)}}), open);  // as far behind where DyT is said to work
  EXPECT_EQ(outcome({{"VGG DyT", {0.4, 0.6, 0.95}}}), open);
  EXPECT_EQ(outcome({{"VGG DyT", all(0.85)}}), no);
  EXPECT_EQ(outcome({{"VGG DyT", all(0.795)}}), open);
  EXPECT_EQ(outcome({{"VGG DyT", all(0.795)}, {"ResNet DyT", all(0.795)}}), no);
}

TEST(Verdicts, OfRivals) {
  const Judged judged(13);
  const auto outcome = [&](Results best) {  // each at one of two rates; at the other 0.1
    best.insert({{"DyT, lr 0.0020", all(0.6)}, {"Fixup, lr 0.0005", all(0.5)}});
    best.insert({{"SkipInit, lr 0.0020", all(0.5)}, {"sigmaReparam, lr 0.0005", all(0.605)}});
    return judged("test accuracy", best, 0.1);
  };
  EXPECT_EQ(outcome({}), yes);
  EXPECT_EQ(outcome({{"sigmaReparam, lr 0.0005", all(0.62)}}), no);
  EXPECT_EQ(outcome({{"Fixup, lr 0.0020", all(0.61)}}), no);
  EXPECT_EQ(outcome({{"SkipInit, lr 0.0005", all(0.61)}}), no);
  EXPECT_EQ(outcome({{"Fixup, lr 0.0005", {0.4, 0.5, 0.7}}}), open);
  EXPECT_EQ(outcome({{"sigmaReparam, lr 0.0005", {0.58, 0.6, 0.63}}}), open);
}

TEST(Verdicts, OfWarmUp) {
  const Judged judged(15);
  const auto outcome = [&](double post_gpt, double pre_gpt, double post_mt, double pre_mt) {
    return judged("val loss",
                  {{"Post-LN, Adam 0.0040, warm-up 6", all(2)},
                   {"Post-LN, Adam 0.0040, no warm-up", all(post_gpt)},
                   {"Pre-LN, Adam 0.0040, no warm-up", all(pre_gpt)},
                   {"Post-LN, encoder-decoder, Adam 0.0040, warm-up 6", all(2)},
                   {"Post-LN, encoder-decoder, Adam 0.0040, no warm-up", all(post_mt)},
                   {"Pre-LN, encoder-decoder, Adam 0.0040, no warm-up", all(pre_mt)}},
                  1);
  };
  EXPECT_EQ(outcome(3, 2, 3, 2), yes);
  EXPECT_EQ(outcome(3, 2.04, 3, 1.5), yes);
  EXPECT_EQ(outcome(2.02, 2, 2.02, 2), no);
  EXPECT_EQ(outcome(3, 2.2, 3, 2.2), no);
  EXPECT_EQ(outcome(3, 2.2, 2, 2), no);
  EXPECT_EQ(outcome(3, 2, 3, 2.2), open);
  EXPECT_EQ(outcome(3, 2.2, 3, 2), open);
}

TEST(Verdicts, OfReplacements) {
  const Judged judged(16);
  const auto outcome = [&](Results r) {
    r.insert({{"tanh", all(0.6)}, {"erf", all(0.6)}, {"linear", all(0.9)}});
    return judged("test accuracy", r, 0.5);
  };
  EXPECT_EQ(outcome({}), yes);
  EXPECT_EQ(outcome({{"erf", all(0.59)}}), no);
  EXPECT_EQ(outcome({{"erf", all(0.61)}}), yes);
  EXPECT_EQ(outcome({{"erf", {0.5, 0.6, 0.72}}}), open);
  for (const char* arm : {"1 + tanh", "arcsinh", "dead zone", "bump"}) {
    EXPECT_EQ(outcome({{arm, all(0.61)}}), no) << arm;
    EXPECT_EQ(outcome({{arm, {0.4, 0.5, 0.65}}}), open) << arm;
  }
}

TEST(Verdicts, WhenRemovingHelps) {
  const Judged judged(17);
  const auto outcome = [&](double few, double many, Seeds saturated_few) {
    return judged([&](RunRecord& run) {
      const bool dyt = run.arm.starts_with("DyT"), short_text = run.arm.ends_with(", 500 tokens");
      run.numbers["val loss"] = !dyt ? 2 : short_text ? few : many;
      run.numbers["saturated"] = short_text ? saturated_few[size_t(run.seed - 1)] : 0.2;
    });
  };
  EXPECT_EQ(outcome(1.8, 2.2, all(0.5)), yes);
  EXPECT_EQ(outcome(2.2, 2.2, all(0.5)), no);
  EXPECT_EQ(outcome(1.8, 1.8, all(0.5)), no);
  EXPECT_EQ(outcome(1.8, 2.2, all(0.1)), open);
  EXPECT_EQ(outcome(1.8, 2.2, {0.1, 0.3, 0.5}), open);
}

TEST(Verdicts, OfNormsAlone) {
  const Judged judged(18);
  const auto outcome = [&](Seeds widest, double narrowest) {
    return judged(
        "test accuracy",
        {{"LN, norms alone, width 32", widest}, {"LN, norms alone, width 16", all(narrowest)}},
        0.9);
  };
  EXPECT_EQ(outcome(all(0.5), 0.3), yes);
  EXPECT_EQ(outcome(all(0.14), 0.1), no);
  EXPECT_EQ(outcome(all(0.5), 0.6), no);
  EXPECT_EQ(outcome({0.11, 0.16, 0.3}, 0.1), open);
  EXPECT_EQ(outcome({0.4, 0.5, 0.6}, 0.45), open);
}

TEST(Verdicts, OfTranslation) {
  const Judged judged(24);
  const auto outcome = [&](Seeds post, Seeds pre) {
    return judged(
        "bleu",
        {{"Post-LN, warm-up", all(30)}, {"Post-LN, no warm-up", post}, {"Pre-LN, no warm-up", pre}},
        99);
  };
  EXPECT_EQ(outcome(all(10), all(28.5)), yes);
  EXPECT_EQ(outcome(all(29), all(30)), no);
  EXPECT_EQ(outcome(all(10), all(27)), no);
  EXPECT_EQ(outcome(all(10), {20, 30, 33}), open);
  EXPECT_EQ(outcome({10, 20, 32}, all(30)), open);
}

TEST(Verdicts, OfMaskedLanguageModels) {
  const Judged judged(25);
  const auto outcome = [&](Seeds pre) {  // the other rates are worse
    return judged(
        "val loss",
        {{"Post-LN, warm-up 4, lr 0.0030", all(2)}, {"Pre-LN, no warm-up, lr 0.0010", pre}}, 4);
  };
  EXPECT_EQ(outcome(all(1.9)), yes);
  EXPECT_EQ(outcome(all(2.1)), no);
  EXPECT_EQ(outcome({1.9, 1.9, 2.01}), open);  // one doesn't get there
  EXPECT_EQ(outcome({1.5, 1.9, 2.5}), open);
}

}  // namespace
}  // namespace dyt
