// Experiment 06: what does a norm cost?
//
// THE CLAIM (DyT, Table 7). In LLaMA-2 7B, 100 passes over 4096 tokens in bf16, the DyT layers take
// about half the time of the RMSNorm layers: 1.0 s against 2.1 s in inference (52.4 % less), 4.8 s
// against 8.3 s in training (42.2 %). Of the whole model that is 7.8 % and 8.2 %. The authors call
// it preliminary: unfused PyTorch code on both sides. Hence an open question: what is left of it
// when both are written as well as can be?
//
// WHAT WE MEASURE. Time of a layer alone, forward and forward + backward, on tensors beyond the
// cache; and of a LLaMA-style model, one forward pass and one training step. Each norm is there
// twice: unfused, one pass over memory for every elementary operation (layers/unfused.cu: the
// paper's condition), and fused (the ops that our models use). For a layer we also give the bytes
// that it has to move, and its bandwidth as a share of what a plain copy reaches. A repetition
// measures everything three times, by turns, and takes the best: whatever else a machine does only
// adds time. The saving of a repetition is 1 - DyT / RMSNorm; the interval is over repetitions.
//
// THE ARMS. RMSNorm, LayerNorm, DyT (as in a LLaMA, without beta), the identity of DyT's family
// (gamma * alpha x: the same traffic, no arithmetic to speak of), and in the model no norm at all:
// what could be saved at most.
//
// THE RULE. The paper's condition decides: the unfused norms. See `rule`, written before the first
// run; the fused ones answer the open question, in the notes.
#include <algorithm>
#include <functional>
#include <map>
#include <memory>

#include "core/clock.h"
#include "core/error.h"
#include "core/philox.h"
#include "experiments/registry.h"
#include "experiments/study.h"
#include "layers/unfused.h"
#include "models/gpt.h"
#include "training/adamw.h"
#include "training/progress.h"

namespace dyt {
namespace {

constexpr const char* rule =
    "The saving is 1 - DyT / RMSNorm of the times, both unfused, with a 95 % interval over the "
    "repetitions: of a layer in inference and in training, of a model in inference and in "
    "training. REPRODUCED if all four intervals lie above half of the paper's savings (52.4, 42.2, "
    "7.8, 8.2 %). NOT REPRODUCED if one lies wholly below half of the paper's. Otherwise "
    "INCONCLUSIVE.";

// What is timed: of a layer or of a model, forward alone or with the backward pass (of a model: a
// whole training step).
constexpr const char* tasks[] = {"layer, inference", "layer, training", "model, inference",
                                 "model, training"};
constexpr double papers[] = {0.524, 0.422, 0.078, 0.082};

struct Setting {
  int64_t rows, channels;  // of a layer's input
  GPTConfig model;
  int64_t batch;  // texts of the model's whole context
  int repetitions;
};

Setting setting_of(Size size) {
  GPTConfig model = gpt_preset("llama_char");
  switch (size) {
    case Size::smoke:
      model.width = 32, model.depth = 1, model.heads = 2, model.hidden = 96, model.context = 32;
      return {256, 64, model, 2, 3};
    case Size::small:
      model.width = 256, model.depth = 4, model.heads = 8, model.hidden = 704, model.context = 256;
      return {32768, 1024, model, 4, 12};
    case Size::full:
      model.width = 2048, model.depth = 2, model.heads = 16, model.hidden = 5504;
      model.context = 2048;
      return {32768, 4096, model, 4, 30};
  }
  fail("unknown size");
}

struct Arm {
  std::string name;
  NormSpec norm;
};

std::vector<Arm> arms_of_layers() {
  const auto norm = [](NormKind kind, bool unfused) {
    return NormSpec{.kind = kind, .bias = kind == NormKind::layernorm, .unfused = unfused};
  };
  return {{"RMSNorm, unfused", norm(NormKind::rmsnorm, true)},
          {"LayerNorm, unfused", norm(NormKind::layernorm, true)},
          {"DyT, unfused", norm(NormKind::dyt, true)},
          {"RMSNorm, fused", norm(NormKind::rmsnorm, false)},
          {"LayerNorm, fused", norm(NormKind::layernorm, false)},
          {"DyT, fused", norm(NormKind::dyt, false)},
          {"identity, fused", norm(NormKind::identity, false)}};
}

// Seconds that `body` takes on the device, all of it.
double time_of(Device device, const std::function<void()>& body) {
  synchronize(device);
  const double begin = seconds_now();
  body();
  synchronize(device);
  return seconds_now() - begin;
}

// The yardstick. On the cpu with all cores, as the layers compute.
void copy_bytes(Device device, char* to, const char* from, size_t bytes) {
  if (device != Device::cpu) return copy_on_device(device, to, from, bytes);
  constexpr size_t part = size_t(1) << 20;
#pragma omp parallel for
  for (size_t begin = 0; begin < bytes; begin += part) {
    std::copy_n(from + begin, std::min(part, bytes - begin), to + begin);
  }
}

// ------------------------------------------------------------------------- what is timed

// One norm on (rows, channels) numbers, N(0, 1).
class LayerBench {
 public:
  LayerBench(const Setting& setting, const NormSpec& norm, Device device, const Buffer& x,
             const Buffer& dy)
      : rows_(setting.rows),
        channels_(setting.channels),
        norm_(parameters_, "norm", channels_, norm),
        tape_(device, default_dtype(device)),
        x_(x),
        dy_(dy) {
    parameters_.allocate(device, default_dtype(device), 1);
  }
  double inference() {
    return timed(false, [&](const Tensor& x) { norm_(tape_, x); });
  }
  double training() {
    return timed(true, [&](const Tensor& x) {
      const Tensor y = norm_(tape_, x);
      // dy is there already, as it would be in a model; backward() begins at an op without inputs.
      y.grad->data = dy_.data();
      y.grad->filled = true;
      const float nothing = 0;
      tape_.backward(tape_.upload({1}, DType::f32, &nothing, true));
    });
  }

 private:
  double timed(bool training, const std::function<void(const Tensor&)>& body) {
    tape_.training = training;
    tape_.begin(0);
    Tensor x = tape_.empty({1, channels_});
    x.shape[0] = rows_;
    x.data = x_.data();
    return time_of(tape_.device(), [&] { body(x); });
  }

  int64_t rows_, channels_;
  Parameters parameters_;
  Norm norm_;
  Tape tape_;
  const Buffer &x_, &dy_;
};

// A LLaMA-style model on random tokens.
class ModelBench {
 public:
  ModelBench(const Setting& setting, const NormSpec& norm, Device device)
      : batch_(setting.batch),
        model_(config_of(setting, norm), parameters_),
        tape_(device, default_dtype(device)) {
    parameters_.allocate(device, default_dtype(device), 1);
    optimizer_ = std::make_unique<AdamW>(parameters_, AdamWOptions{});
    RandomSequence random(1, 1);
    const GPTConfig& c = model_.config();
    tokens_.resize(size_t(batch_ * c.context));
    for (int32_t& t : tokens_) t = int32_t(random.below(uint32_t(c.vocabulary)));
  }
  double inference() {
    return timed(false, [&](const Tensor& loss) { (void)loss; });
  }
  double training() {
    return timed(true, [&](const Tensor& loss) {
      parameters_.zero_gradients();
      tape_.backward(loss);
      optimizer_->step(1e-6f);
    });
  }
  const GPTConfig& config() const { return model_.config(); }

 private:
  static GPTConfig config_of(const Setting& setting, const NormSpec& norm) {
    GPTConfig config = setting.model;
    config.norm = norm;
    config.alpha0_attention = 0;
    return config;
  }
  double timed(bool training, const std::function<void(const Tensor&)>& body) {
    tape_.training = training;
    tape_.begin(0);
    const Shape shape = {batch_, model_.config().context};
    const Tensor tokens = tape_.upload(shape, DType::i32, tokens_.data());
    return time_of(tape_.device(), [&] { body(model_.loss(tape_, tokens, tokens)); });
  }

  int64_t batch_;
  Parameters parameters_;
  GPT model_;
  Tape tape_;
  std::unique_ptr<AdamW> optimizer_;
  std::vector<int32_t> tokens_;
};

// ------------------------------------------------------------------------------- measurements

using Times = std::map<std::pair<std::string, std::string>, std::vector<double>>;  // (arm, task)

// The value below which this share of them lies, between neighbours in proportion.
double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double at = share * double(values.size() - 1);
  const size_t i = std::min(size_t(at), values.size() - 1), j = std::min(i + 1, values.size() - 1);
  return values[i] + (at - double(i)) * (values[j] - values[i]);
}

double median(const std::vector<double>& values) { return quantile(values, 0.5); }

// The best of a few attempts makes a repetition: whatever else the machine does only adds time.
constexpr int attempts = 3;

void lower(std::map<std::pair<std::string, std::string>, double>& best,
           const std::pair<std::string, std::string>& key, double seconds) {
  const auto [at, is_new] = best.emplace(key, seconds);
  if (!is_new) at->second = std::min(at->second, seconds);
}

void append(Times& times, const std::map<std::pair<std::string, std::string>, double>& best) {
  for (const auto& [key, seconds] : best) times[key].push_back(seconds);
}

void measure_layers(const Setting& setting, Device device, Times& times, StatusLine& line) {
  const DType dtype = default_dtype(device);
  const size_t bytes = size_t(setting.rows * setting.channels) * size_of(dtype);
  const Buffer x(device, bytes), dy(device, bytes);
  {
    Tape tape(device, dtype);
    RandomSequence random(1, 2);
    std::vector<float> values(size_t(setting.rows * setting.channels));
    for (float& v : values) v = random.uniform(-2, 2);
    for (const Buffer* to : {&x, &dy}) {
      if (dtype == DType::f32) {
        copy_to_device(device, to->data(), values.data(), bytes);
      } else {
        const std::vector<bf16> rounded(values.begin(), values.end());
        copy_to_device(device, to->data(), rounded.data(), bytes);
      }
    }
  }
  std::vector<std::pair<std::string, std::unique_ptr<LayerBench>>> layers;
  for (const Arm& arm : arms_of_layers()) {
    layers.emplace_back(arm.name, std::make_unique<LayerBench>(setting, arm.norm, device, x, dy));
  }
  const Buffer copy(device, bytes);
  for (int r = -1; r < setting.repetitions; ++r) {  // the first one warms up
    line.show(double(r + 1) / double(setting.repetitions + 1) / 2, [&] {
      return "06 layers: repetition " + std::to_string(r + 1) + "/" +
             std::to_string(setting.repetitions);
    });
    const double copied = time_of(device, [&] {
      copy_bytes(device, static_cast<char*>(copy.data()), static_cast<const char*>(x.data()),
                 bytes);
    });
    if (r >= 0) times[{"copy", tasks[0]}].push_back(copied);
    std::map<std::pair<std::string, std::string>, double> best;
    for (int attempt = 0; attempt < attempts; ++attempt) {
      for (auto& [name, layer] : layers) {
        lower(best, {name, tasks[0]}, layer->inference());
        lower(best, {name, tasks[1]}, layer->training());
      }
    }
    if (r >= 0) append(times, best);
  }
}

void measure_models(const Setting& setting, Device device, Times& times, StatusLine& line) {
  std::vector<Arm> arms = arms_of_layers();
  arms.push_back({"no norm", {.kind = NormKind::none}});
  std::vector<std::pair<std::string, std::unique_ptr<ModelBench>>> models;
  for (const Arm& arm : arms) {
    models.emplace_back(arm.name, std::make_unique<ModelBench>(setting, arm.norm, device));
  }
  for (int r = -1; r < setting.repetitions; ++r) {
    line.show(0.5 + double(r + 1) / double(setting.repetitions + 1) / 2, [&] {
      return "06 models: repetition " + std::to_string(r + 1) + "/" +
             std::to_string(setting.repetitions);
    });
    std::map<std::pair<std::string, std::string>, double> best;
    for (int attempt = 0; attempt < attempts; ++attempt) {
      for (auto& [name, model] : models) {
        lower(best, {name, tasks[2]}, model->inference());
        lower(best, {name, tasks[3]}, model->training());
      }
    }
    if (r >= 0) append(times, best);
  }
}

// Bytes that a layer has to move: fused, x and y, and then dy, x and dx; unfused, as counted.
double bytes_moved(const Setting& setting, const Arm& arm, bool training, Device device) {
  const DType dtype = default_dtype(device);
  const double tensor = double(setting.rows * setting.channels) * double(size_of(dtype));
  if (!arm.norm.unfused) return (training ? 5 : 2) * tensor;
  // Every element costs the same: count on a few, on the cpu or where kernels run.
  constexpr int64_t rows = 4, channels = 8;
  double moved = 0;
  Parameters parameters;
  Parameter& gamma = parameters.add("gamma", {channels}, Init::ones());
  Parameter& beta = parameters.add("beta", {channels}, Init::zeros());
  Parameter& alpha = parameters.add("alpha", {1}, Init::ones());
  parameters.allocate(device, dtype, 1);
  Tape tape(device, dtype);
  const Tensor x = tape.empty({rows, channels});
  fill_zero(device, x.data, size_t(rows * channels) * size_of(dtype));
  const UnfusedParameters p{&gamma, arm.norm.bias ? &beta : nullptr, &alpha};
  const Tensor y = unfused_norm(tape, x, arm.norm.kind, p, 1e-6f, &moved);
  const std::vector<double> zeros(size_t(rows * channels), 0);  // zeros in any number type
  if (training) tape.backward(y, zeros.data());
  return moved / double(rows * channels) * double(setting.rows * setting.channels);
}

// --------------------------------------------------------------------------------- the report

// 1 - DyT / RMSNorm in every repetition.
std::vector<double> savings(const Times& times, const char* task, const std::string& how) {
  const std::vector<double>&dyt = times.at({"DyT, " + how, task}),
        &rms = times.at({"RMSNorm, " + how, task});
  std::vector<double> all;
  for (size_t i = 0; i < dyt.size(); ++i) all.push_back(1 - dyt[i] / rms[i]);
  return all;
}

std::string percent_interval(const MeanInterval& i) {
  return fixed(100 * i.mean, 1) + " % " + interval_text({i.n, 0, 0, 100 * i.low, 100 * i.high}, 1);
}

Verdict judge(const Times& times) {
  Verdict verdict{.rule = rule};
  bool all_above = true, one_below = false;
  for (size_t t = 0; t < 4; ++t) {
    const MeanInterval saved = mean_interval(savings(times, tasks[t], "unfused"));
    all_above = all_above && saved.low > papers[t] / 2;
    one_below = one_below || saved.high < papers[t] / 2;
    verdict.because +=
        (t ? "; " : "unfused, saved: ") + std::string(tasks[t]) + " " + percent_interval(saved);
  }
  verdict.outcome = all_above   ? Outcome::reproduced
                    : one_below ? Outcome::not_reproduced
                                : Outcome::inconclusive;
  return verdict;
}

std::string milliseconds(const std::vector<double>& seconds) {
  return fixed(1e3 * median(seconds), 3) + " (" +
         fixed(1e3 * *std::min_element(seconds.begin(), seconds.end()), 3) + " to " +
         fixed(1e3 * *std::max_element(seconds.begin(), seconds.end()), 3) + ")";
}

Table table_of_savings(const Times& times) {
  Table table{.title = "Saved by DyT, of RMSNorm's time",
              .header = {"", "paper (unfused)", "ours, unfused", "ours, fused"},
              .note = "Mean over the repetitions of 1 - DyT / RMSNorm, with 95 % intervals."};
  for (size_t t = 0; t < 4; ++t) {
    table.rows.push_back({tasks[t], percent(papers[t], 1),
                          percent_interval(mean_interval(savings(times, tasks[t], "unfused"))),
                          percent_interval(mean_interval(savings(times, tasks[t], "fused")))});
  }
  return table;
}

Table table_of_layers(const Times& times, const Setting& setting, Device device, size_t task) {
  const double tensor =
      double(setting.rows * setting.channels) * double(size_of(default_dtype(device)));
  const double copied = 2 * tensor / median(times.at({"copy", tasks[0]}));
  Table table{.title = std::string("A ") + tasks[task] + ": " + std::to_string(setting.rows) +
                       " x " + std::to_string(setting.channels) + " numbers",
              .header = {"layer", "time (ms): median (lowest to highest)", "moves (MB)", "GB/s",
                         "share of a copy's bandwidth"},
              .note =
                  "What is moved is what the passes over x, y and their gradients have to read "
                  "and write; a cache can make a share larger than 100 %."};
  if (task == 0) {
    table.rows.push_back({"a copy of x", milliseconds(times.at({"copy", tasks[0]})),
                          fixed(2e-6 * tensor, 0), fixed(1e-9 * copied, 1), "100 %"});
  }
  for (const Arm& arm : arms_of_layers()) {
    const std::vector<double>& seconds = times.at({arm.name, tasks[task]});
    const double bytes = bytes_moved(setting, arm, task == 1, device);
    const double speed = bytes / median(seconds);
    table.rows.push_back({arm.name, milliseconds(seconds), fixed(1e-6 * bytes, 0),
                          fixed(1e-9 * speed, 1), percent(speed / copied, 0)});
  }
  return table;
}

Table table_of_models(const Times& times) {
  Table table{.title = "The whole model, time (ms): median (lowest to highest)",
              .header = {"norm", "inference", "training step"}};
  std::vector<Arm> arms = arms_of_layers();
  arms.push_back({"no norm", {}});
  for (const Arm& arm : arms) {
    table.rows.push_back({arm.name, milliseconds(times.at({arm.name, tasks[2]})),
                          milliseconds(times.at({arm.name, tasks[3]}))});
  }
  return table;
}

// Medians, as multiples of the fused RMSNorm's: a place per arm on the x axis.
Plot plot_of_times(const Times& times, bool models) {
  Plot plot{.name = models ? "models" : "layers",
            .title = models ? "A whole model" : "A layer alone",
            .x_label = "norm",
            .y_label = models ? "time (fused RMSNorm = 1)" : "time (copy of x = 1)",
            .caption = "Medians; the bars hold the middle half of the repetitions."};
  std::vector<Arm> arms = arms_of_layers();
  if (models) arms.push_back({"no norm", {}});
  const double unit =
      median(models ? times.at({"RMSNorm, fused", tasks[2]}) : times.at({"copy", tasks[0]}));
  const double training_unit = models ? median(times.at({"RMSNorm, fused", tasks[3]})) : unit;
  for (const bool training : {false, true}) {
    Series s{.name = training ? (models ? "training step" : "forward + backward") : "forward",
             .style = SeriesStyle::points,
             .color = training ? 1 : 0};
    for (size_t i = 0; i < arms.size(); ++i) {
      const std::vector<double>& seconds = times.at({arms[i].name, tasks[2 * models + training]});
      const double by = training ? training_unit : unit;
      s.x.push_back(double(i) + (training ? 0.1 : -0.1));
      s.y.push_back(median(seconds) / by);
      s.low.push_back(quantile(seconds, 0.25) / by);
      s.high.push_back(quantile(seconds, 0.75) / by);
    }
    plot.series.push_back(std::move(s));
  }
  const std::vector<std::string> short_names = {"RMS", "LN",  "DyT",      "RMS",
                                                "LN",  "DyT", "identity", "none"};
  for (size_t i = 0; i < arms.size(); ++i) plot.x_tics.push_back({double(i), short_names[i]});
  plot.x_label = "norm: the first three unfused, then fused";
  plot.x_range = Range{-0.5, double(arms.size()) - 0.5};
  if (models) plot.horizontal = {{1, "fused RMSNorm"}};
  return plot;
}

std::string answer(const Times& times) {
  const auto fused = [&](size_t t) {
    return percent_interval(mean_interval(savings(times, tasks[t], "fused")));
  };
  const auto at_most = [&](size_t t) {
    return percent(1 - median(times.at({"no norm", tasks[t]})) /
                           median(times.at({"RMSNorm, fused", tasks[t]})),
                   1);
  };
  return "What is left of the saving when both are fused? Of a layer " + fused(0) +
         " in inference and " + fused(1) + " in training; of the model " + fused(2) + " and " +
         fused(3) +
         ". Fused, both read x once and write y once, so a memory-bound DyT can't be "
         "faster than RMSNorm; and where the processor is not fast enough to hide the tanh behind "
         "the "
         "memory, it is slower. The most that any replacement could save, no norm at all: " +
         at_most(2) + " of the model in inference, " + at_most(3) + " in training.";
}

Report skipped_on(Device device) {
  Report report;
  report.verdict = {.rule = rule,
                    .because = std::string("not timed: on the device '") + name_of(device) +
                               "' kernels run thread by thread on the CPU, and their times say "
                               "nothing about a GPU; use --device cpu or cuda"};
  report.paper = "layer: 52.4 % (inference), 42.2 % (training); model: 7.8 %, 8.2 %";
  report.ours = "not timed on this device";
  report.notes = {report.verdict.because};
  return report;
}

}  // namespace

Report run_06_norm_cost(const Options& options) {
  const Device device = parse_device(options.device);
  if (device == Device::emulated) return skipped_on(device);
  Setting setting = setting_of(options.size);
  if (options.seeds > 0) setting.repetitions = std::max(2, options.seeds);
  Times times;
  {
    StatusLine line;
    measure_layers(setting, device, times, line);
    measure_models(setting, device, times, line);
  }
  Report report;
  report.verdict = judge(times);
  report.paper = "layer: 52.4 % (inference), 42.2 % (training); model: 7.8 %, 8.2 % (unfused)";
  for (const char* how : {"unfused", "fused"}) {
    report.ours += (report.ours.empty() ? "" : "; ") + std::string(how) + ": ";
    for (size_t t = 0; t < 4; ++t) {
      report.ours += (t ? ", " : "") + percent(mean(savings(times, tasks[t], how)), 1);
    }
  }
  report.tables = {table_of_savings(times), table_of_layers(times, setting, device, 0),
                   table_of_layers(times, setting, device, 1), table_of_models(times)};
  report.plots = {plot_of_times(times, false), plot_of_times(times, true)};
  report.notes = {
      answer(times),
      "Unfused and in f32, RMSNorm passes 7 tensors through memory on the way forth and "
      "DyT 6: hardly a saving. In bf16 it is another matter: RMSNorm's statistics want "
      "f32, so it passes 36 bytes per number (casts there and back included) and DyT 12. "
      "That, and not the reduction, is where half of the time goes."};
  for (const auto& [key, seconds] : times) {
    for (size_t r = 0; r < seconds.size(); ++r) {  // "step" is the repetition
      report.curves.push_back({key.first, 0, int64_t(r), key.second + " (s)", seconds[r]});
    }
  }
  report.settings = {
      {"size", name_of(options.size)},
      {"number type", name_of(default_dtype(device))},
      {"layer",
       std::to_string(setting.rows) + " x " + std::to_string(setting.channels) + " numbers"},
      {"model", "LLaMA style, width " + std::to_string(setting.model.width) + ", depth " +
                    std::to_string(setting.model.depth) + ", " + std::to_string(setting.batch) +
                    " x " + std::to_string(setting.model.context) + " tokens"},
      {"repetitions", std::to_string(setting.repetitions)}};
  return report;
}

}  // namespace dyt
