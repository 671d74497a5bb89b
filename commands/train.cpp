#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands/commands.h"
#include "commands/metrics.h"
#include "commands/model_options.h"
#include "core/frozen.h"
#include "core/precision.h"
#include "datasets/fingerprint.h"
#include "experiments/report.h"
#include "models/weights.h"
#include "training/classifier.h"
#include "training/language.h"
#include "training/progress.h"
#include "training/recipe.h"

namespace dyt {
namespace {

// What the command line said; what it didn't comes from the recipe, or suits the model.
struct TrainCommand {
  ModelSpec model;
  std::string device = "auto", precision, data, recipe, optimizer = "adamw", out, init, only;
  CheckpointOptions checkpoint;
  std::optional<int64_t> steps;
  std::optional<int> batch, accumulate;
  std::optional<double> epochs, warmup_epochs, lr, weight_decay, beta2, clip, momentum;
  std::optional<double> label_smoothing, ema;
  int64_t seed = 1, train_images = 0, test_images = 0, evaluate_every = 0;
  int workers = 0;
  std::string graph = "auto";
  bool strict = false, plot = false;
};

// SGD in AdamW's place, with what is usual for ConvNets on small images (He et al., arXiv
// 1512.03385, but for a cosine in place of steps), whatever was chosen for AdamW.
void choose_optimizer(const TrainCommand& c, TrainOptions& o) {
  const bool sgd = c.optimizer == "sgd";
  require(sgd || !c.momentum, "--momentum is SGD's; add --optimizer sgd");
  require(!sgd || !c.beta2, "--beta2 is AdamW's, and --optimizer is sgd");
  require(!sgd || !c.clip, "--clip goes with AdamW, and --optimizer is sgd");
  if (!sgd) return;
  o.sgd = SgdOptions{.momentum = float(c.momentum.value_or(0.9)),
                     .weight_decay = float(c.weight_decay.value_or(1e-4))};
  o.lr = 0.1, o.lr_floor = 1e-3;
}

// What the command line can change in any training.
void apply(const TrainCommand& c, TrainOptions& o) {
  choose_optimizer(c, o);
  if (c.batch) o.batch = *c.batch;
  if (c.accumulate) o.accumulate = *c.accumulate;
  if (c.lr) o.lr_floor *= *c.lr / o.lr, o.lr = *c.lr;
  if (c.weight_decay) o.adamw.weight_decay = float(*c.weight_decay);
  if (c.beta2) o.adamw.beta2 = float(*c.beta2);
  if (c.clip) o.adamw.max_norm = float(*c.clip);
  if (c.label_smoothing) o.label_smoothing = float(*c.label_smoothing);
  if (c.ema) o.ema_decay = *c.ema;
  o.seed = uint64_t(c.seed);
  o.strict = c.strict;
  o.workers = c.workers;
  o.graphs = parse_graphs(c.graph);
}

// Steps and warm-up, given how many batches make an epoch. Warm-up that wasn't asked for takes at
// most a fifth of the run.
void set_length(const TrainCommand& c, double epochs, double warmup_epochs, int64_t batches,
                TrainOptions& o) {
  o.steps = c.steps ? *c.steps : std::max<int64_t>(1, std::llround(epochs * double(batches)));
  o.warmup = std::llround(c.warmup_epochs.value_or(warmup_epochs) * double(batches));
  if (!c.warmup_epochs) o.warmup = std::min(o.warmup, o.steps / 5);
  o.evaluate_every = c.evaluate_every > 0 ? c.evaluate_every : std::min(batches, o.steps);
}

void describe_run(const TrainCommand& c, const std::string& data, DType precision,
                  TrainOptions& o) {
  const auto text = [](auto v) {
    std::ostringstream s;
    s.precision(17);
    s << v;
    return s.str();
  };
  o.checkpoint = c.checkpoint;
  o.checkpoint.run = {{"data", data},
                      {"recipe", c.recipe},
                      {"steps", text(o.steps)},
                      {"batch", text(o.batch)},
                      {"accumulate", text(o.accumulate)},
                      {"lr", text(o.lr)},
                      {"lr floor", text(o.lr_floor)},
                      {"warm-up", text(o.warmup)},
                      {"label smoothing", text(o.label_smoothing)},
                      {"mixup", text(o.mix.mixup)},
                      {"cutmix", text(o.mix.cutmix)},
                      {"ema", text(o.ema_decay)},
                      {"seed", text(o.seed)},
                      {"evaluate every", text(o.evaluate_every)},
                      {"number type", name_of(precision)}};
  const std::map<std::string, std::string> optimizer =
      o.sgd ? std::map<std::string, std::string>{{"optimizer", c.optimizer},
                                                 {"weight decay", text(o.sgd->weight_decay)},
                                                 {"momentum", text(o.sgd->momentum)}}
            : std::map<std::string, std::string>{{"weight decay", text(o.adamw.weight_decay)},
                                                 {"beta2", text(o.adamw.beta2)},
                                                 {"clip", text(o.adamw.max_norm)}};
  o.checkpoint.run.insert(optimizer.begin(), optimizer.end());
  if (!c.only.empty()) o.checkpoint.run["only"] = c.only;
}

// Where everything that was trained comes together: what both kinds of model share.
class Run {
 public:
  Run(const TrainCommand& command, const ModelSpec& spec)
      : command_(command),
        device_(parse_device(command.device)),
        precision_(choose_precision(command.precision, device_)),
        model_(spec, parameters_) {
    if (!command.checkpoint.save.empty()) require_writable(command.checkpoint.save);
    require(!spec.frozen.value_or(false) || model_.norm().kind == NormKind::batchnorm,
            "--frozen takes running statistics, which ", name_of(model_.norm().kind), " hasn't");
    if (command.only == "norms") frozen_ = all_but_norms(parameters_);
    parameters_.allocate(device_, precision_.activations, uint64_t(command.seed));
    require(command.init.empty() || model_.norm().calibrate == 0,
            "--init has the values that alpha starts at, and --alpha0 auto would measure others; "
            "leave one of the two out");
    if (!command.init.empty()) read_weights(model_, parameters_, read_safetensors(command.init));
    if (!command.out.empty()) prepare_output(command.out);
    require(!command.plot || !command.out.empty(), "--plot needs a folder: --out DIR");
  }

  // `train(options, show)` does it; `data`, `size` and `note` say on what and how, `fingerprint` on
  // nothing else of that name and size, `metadata` what else the model needs.
  template <class Train>
  void operator()(TrainOptions options, const std::string& data, const std::string& size,
                  const std::string& fingerprint, const std::string& note,
                  const std::map<std::string, std::string>& metadata, Train&& train) {
    describe_run(command_, data + ", " + size + ", fingerprint " + fingerprint, precision_.of_run,
                 options);
    CheckpointOptions& checkpoint = options.checkpoint;
    checkpoint.model = to_json(model_.spec());
    checkpoint.metadata = metadata;
    checkpoint.write_weights = [this](TensorFile& file, const std::string& prefix) {
      write_weights(model_, parameters_, file, prefix);
    };
    checkpoint.read_weights = [this](const TensorFile& file, const std::string& prefix) {
      read_weights(model_, parameters_, file, prefix);
    };
    const std::string title =
        model_.spec().preset + ", " + name_of(model_.norm().kind) + ": " + data;
    const auto announce = [&] {  // once it is sure that there will be a run
      const std::string trained =
          command_.only.empty() ? ""
                                : " (trained: " + std::to_string(frozen_.trained_count()) + ")";
      std::printf("%s, %s, %lld parameters%s, %s: %s, on %s\n%s\n", model_.spec().preset.c_str(),
                  name_of(model_.norm().kind), static_cast<long long>(parameters_.count()),
                  trained.c_str(), data.c_str(), size.c_str(), name_of(device_), note.c_str());
      if (device_ == Device::cpu && precision_.of_run == DType::bf16 && !has_bf16_instructions()) {
        std::puts(
            "this processor has no instructions for bf16: products of rounded numbers take as long "
            "as in f32");
      }
      std::fflush(stdout);
    };
    bool announced = false;
    TrainResult result;
    {
      ProgressLine line("train");
      std::optional<MetricsLog> log;
      if (!command_.out.empty()) log.emplace(command_.out + "/metrics.jsonl");
      result = train(options, [&](const Progress& progress) {
        if (!announced) announce();
        announced = true;
        if (log) (*log)(progress.curve);
        line(progress);
      });
      if (log) (*log)(result.curve);
    }
    report(result, options, title);
  }

  Parameters& parameters() { return parameters_; }
  const Model& model() const { return model_; }
  const Frozen& frozen() const { return frozen_; }

 private:
  void report(const TrainResult& result, const TrainOptions& options, const std::string& title) {
    const bool images = !result.curve.empty() && result.last().test_accuracy >= 0;
    const bool averages = options.ema_decay > 0;
    std::printf("%8s %12s %12s %s%s\n", "step", "train loss", "test loss",
                images ? " test accuracy" : "", averages ? "  with averaged weights" : "");
    for (const Evaluation& e : result.curve) {
      std::printf("%8lld %12.4f %12.4f", static_cast<long long>(e.step), e.train_loss, e.test_loss);
      if (images) std::printf(" %12.2f %%", 100 * e.test_accuracy);
      if (averages) std::printf(" %12.4f", e.average_loss);
      if (averages && images) std::printf(" %8.2f %%", 100 * e.average_accuracy);
      std::printf("\n");
    }
    std::printf("%.1f s, %.0f %s/s with evaluation, %.1f MiB of activations and gradients",
                result.seconds, double(result.samples) / result.seconds,
                model_.language() ? "tokens" : "images", double(result.arena_bytes) / (1 << 20));
    if (result.seconds_waited > 0)
      std::printf(", %.2f s waiting for batches", result.seconds_waited);
    if (result.steps_repeated > 0) {
      std::printf(", %lld steps repeated as a graph",
                  static_cast<long long>(result.steps_repeated));
    }
    std::printf("\n");
    if (!result.skipped.empty()) std::printf("%s\n", describe_skipped(result.skipped).c_str());
    if (!options.checkpoint.save.empty() && !result.diverged()) {
      std::printf("Saved: %s\n", options.checkpoint.save.c_str());
    }
    if (command_.plot) {
      for (const auto& path : write_curves(result.curve, title, command_.out)) {
        std::printf("Written: %s\n", path.c_str());
      }
    }
    std::fflush(stdout);
    require(!result.diverged(), "diverged at step ", result.diverged_at,
            ": the loss was not finite or above ", options.diverged_above,
            options.checkpoint.save.empty() ? "" : "; a file that --save named is from before");
  }

  const TrainCommand& command_;
  Device device_;
  Precision precision_;
  Parameters parameters_;
  Model model_;
  Frozen frozen_;
};

// What suits an image model without a recipe's saying so; found with LayerNorm and BatchNorm.
TrainOptions image_defaults(const std::string& preset) {
  TrainOptions o{.batch = 100, .lr = 1e-3, .lr_floor = 1e-5};
  if (preset.starts_with("resnet") || preset.starts_with("vgg")) o.lr = 2e-3, o.lr_floor = 2e-5;
  return o;
}

// What loading into memory had to leave out; of files that stay files, the run finds out.
std::string left_out(const ImageSources& data) {
  if (!data.memory) return "";
  std::vector<std::string> skipped = data.memory->train.skipped;
  const std::vector<std::string>& more = data.memory->test.skipped;
  skipped.insert(skipped.end(), more.begin(), more.end());
  return skipped.empty() ? "" : "\n" + describe_skipped(skipped);
}

// Images that are read from files as they are needed have none.
std::string fingerprint_of(const ImageSources& data) {
  if (!data.memory) return "none";
  return std::to_string(fingerprint(data.memory->train)) + " and " +
         std::to_string(fingerprint(data.memory->test));
}

void train_on_images(TrainCommand& c) {
  if (c.data.empty()) c.data = "synthetic";
  const ImageSources data =
      open_images(c.data, {.size = c.model.image_size.value_or(0), .strict = c.strict},
                  size_t(c.train_images), size_t(c.test_images));
  require(data.train->height == data.train->width, "images are ", data.train->height, " x ",
          data.train->width, "; the models here take square ones");
  const auto agree = [&](const char* option, const std::optional<int>& asked, int64_t there,
                         const char* more = "") {
    require(!asked || *asked == there, option, " ", asked.value_or(0), ": ", c.data, " has ", there,
            more);
  };
  agree("--image-size", c.model.image_size, data.train->height,
        ", and only images of folder:DIR are resized");
  agree("--channels", c.model.channels, data.train->channels);
  agree("--classes", c.model.classes, data.train->classes());
  const bool digits = c.data.starts_with("mnist:") || c.data.starts_with("fashion:");
  if (c.recipe.empty()) c.recipe = digits ? "plain" : "cifar";
  const Recipe recipe = parse_recipe(c.recipe, data.train->height);

  TrainOptions o = image_defaults(resolve_preset(c.model.preset));
  o.augment = recipe.augment;
  o.mix = recipe.mix;
  o.label_smoothing = recipe.label_smoothing;
  o.ema_decay = recipe.ema_decay;
  o.adamw.weight_decay = recipe.weight_decay;
  o.adamw.beta2 = recipe.beta2;
  o.adamw.max_norm = recipe.max_norm;
  if (c.batch) o.batch = *c.batch;
  if (recipe.lr > 0) o.lr = recipe.lr * o.batch / recipe.lr_batch, o.lr_floor = recipe.lr_floor;
  apply(c, o);
  require(size_t(o.batch) <= data.train->size(), "a batch of ", o.batch, " is more than the ",
          data.train->size(), " images of the train split");
  set_length(c, c.epochs.value_or(recipe.epochs ? recipe.epochs : 5),
             recipe.epochs ? recipe.warmup_epochs : 0.5, int64_t(data.train->size()) / o.batch, o);

  ModelSpec spec = c.model;
  spec.image_size = data.train->height;
  spec.channels = data.train->channels;
  spec.classes = data.train->classes();
  const bool can_drop = !resolve_preset(spec.preset).starts_with("vgg");
  if (!spec.drop_path && recipe.drop_path > 0 && can_drop) spec.drop_path = recipe.drop_path;
  Run run(c, spec);
  const nlohmann::json classes = {
      {"classes", data.train->class_names}, {"mean", data.train->mean}, {"std", data.train->std}};
  run(o, data.train->name,
      std::to_string(data.train->size()) + " train and " + std::to_string(data.test->size()) +
          " test images",
      fingerprint_of(data), "recipe " + recipe.name + ": " + describe(recipe) + left_out(data),
      {{"dyt.data", classes.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)}},
      [&](const TrainOptions& options, const ShowProgress& show) {
        const Forward forward = [&](Tape& tape, const Tensor& images) {
          run.frozen().begin(tape);
          return run.model().forward(tape, images);
        };
        return train_classifier(forward, run.parameters(), data, options, show);
      });
}

void train_on_text(TrainCommand& c) {
  if (c.data.empty()) c.data = "grammar";
  require(c.recipe.empty(), "recipes are for images; ", c.model.preset, " reads text");
  const auto for_images = [&](const char* option, bool given) {
    require(!given, option, " is for models that read images; ", c.model.preset, " reads text");
  };
  for_images("--only", !c.only.empty());
  for_images("--label-smoothing", c.label_smoothing.has_value());
  for_images("--strict", c.strict);
  for_images("--train-images", c.train_images > 0);
  for_images("--test-images", c.test_images > 0);
  for_images("--workers", c.workers > 0);
  ModelSpec spec = c.model;
  const int mask = gpt_preset(resolve_preset(spec.preset)).causal ? 0 : 1;  // one word more
  require(spec.vocabulary.value_or(mask + 1) > mask, "--vocab ", spec.vocabulary.value_or(0),
          ": no word is left beside the mask");
  const TextDataset text = load_text(c.data, spec.vocabulary ? *spec.vocabulary - mask : 0);
  if (!spec.vocabulary && (text.bytes || mask)) spec.vocabulary = text.vocabulary + mask;
  Run run(c, spec);
  const GPT& model = *run.model().language();
  TrainOptions o = language_defaults();
  const int64_t default_steps = o.steps, default_warmup = o.warmup;
  apply(c, o);
  const int64_t batches = std::max<int64_t>(
      1, int64_t(text.train.size()) / (int64_t(o.batch) * model.config().context));
  const double epochs = c.epochs.value_or(double(default_steps) / double(batches));
  set_length(c, epochs, double(default_warmup) / double(batches), batches, o);
  if (c.evaluate_every == 0) o.evaluate_every = std::max<int64_t>(1, o.steps / 10);
  const std::string entropy =
      std::isnan(text.entropy_rate) || !model.config().causal
          ? ""
          : "; entropy " + fixed(text.entropy_rate, 4) + " nats per byte: no loss can be lower";
  run(o, text.name,
      std::to_string(text.train.size()) + " train and " + std::to_string(text.val.size()) +
          " validation tokens",
      std::to_string(fingerprint(text.train)) + " and " + std::to_string(fingerprint(text.val)),
      "windows of " + std::to_string(model.config().context) + " tokens" + entropy,
      {{"dyt.data", text.bytes ? R"({"tokens": "bytes"})" : R"({"tokens": "words"})"}},
      [&](const TrainOptions& options, const ShowProgress& show) {
        return train_language_model(model, run.parameters(), text, options, show);
      });
}

void train(TrainCommand& command) {
  if (reads_text(resolve_preset(command.model.preset))) return train_on_text(command);
  train_on_images(command);
}

void add_options(CLI::App& app, TrainCommand& c) {
  const auto count = [&app](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->check(CLI::Range(1, 1 << 30));
  };
  const auto number = [&app](const char* name, auto& value, double low, double high,
                             const char* help) {
    return app.add_option(name, value, help)->check(between(low, high));
  };
  app.add_option("--data", c.data,
                 "images: synthetic (default), cifar10:DIR, mnist:DIR, fashion:DIR, folder:DIR; "
                 "text: grammar[:BYTES] (default), text:FILE, tokens:TRAIN,VAL");
  app.add_option("--recipe", c.recipe, "augmentation and more (default: cifar; of digits: plain)")
      ->check(CLI::IsMember({"paper", "cifar", "plain"}));
  CLI::Option* const epochs =
      number("--epochs", c.epochs, 1e-6, 1e6,
             "passes over the train split (default 5, of recipe paper 300)");
  count("--steps", c.steps, "updates, instead of --epochs (text: default 1000)")->excludes(epochs);
  count("--batch", c.batch, "images (default 100) or windows of text (32) per update");
  count("--accumulate", c.accumulate, "parts that a batch is computed in, to save memory");
  app.add_option("--optimizer", c.optimizer, "adamw (default), or sgd: with momentum")
      ->check(CLI::IsMember({"adamw", "sgd"}));
  number("--lr", c.lr, 1e-12, 1e3,
         "peak learning rate (default: by model; sgd: 0.1; recipe paper: 4e-3 for 4,096 images)");
  number(
      "--warmup-epochs", c.warmup_epochs, 0, 1e6,
      "linear warm-up (default: 0.5, of recipe paper 20, text: 100 steps; at most a fifth of the\n"
      "run)");
  number("--weight-decay", c.weight_decay, 0, 10,
         "on matrices (default: by recipe; text: 0.1; sgd: 1e-4)");
  number("--momentum", c.momentum, 0, 0.999999, "SGD's (default 0.9)");
  number("--beta2", c.beta2, 0, 0.999999, "AdamW's second decay");
  number("--clip", c.clip, 0, 1e12,
         "AdamW's: global gradient norm; 0: no clipping (default 1; recipe paper: 0)");
  number("--label-smoothing", c.label_smoothing, 0, 0.999, "share of the labels spread over all");
  number("--ema", c.ema, 0, 0.9999999, "average the weights, with this decay; 0: don't");
  count("--seed", c.seed, "of weights, order and augmentation (default 1)");
  count("--train-images", c.train_images, "use only the first so many (default: all)");
  count("--test-images", c.test_images, "likewise");
  count("--evaluate-every", c.evaluate_every,
        "steps (default: an epoch; text: a tenth of the run)");
  app.add_option("--workers", c.workers, "threads that decode and augment (default: cores - 1)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--graph", c.graph,
                 "repeat whole steps as one CUDA graph: auto (default: on a GPU), on, off")
      ->check(CLI::IsMember({"auto", "on", "off"}));
  app.add_flag("--strict", c.strict, "an image that can't be decoded is an error");
  app.add_option("--only", c.only, "train these alone, and leave the rest as it starts: norms")
      ->check(CLI::IsMember({"norms"}));
  CLI::Option* const init =
      app.add_option("--init", c.init, "start from these weights (safetensors, timm's names)");
  CLI::Option* const save = app.add_option("--save", c.checkpoint.save,
                                           "checkpoint, written at every evaluation and the end");
  count("--save-every", c.checkpoint.every, "steps, instead of at every evaluation")->needs(save);
  app.add_option("--resume", c.checkpoint.resume, "go on from a checkpoint of the same run")
      ->excludes(init);
  app.add_option("--out", c.out, "folder for metrics.jsonl");
  app.add_flag("--plot", c.plot, "write the curves into --out, too");
}

}  // namespace

void add_train(CLI::App& app) {
  const auto command = std::make_shared<TrainCommand>();
  CLI::App* to = app.add_subcommand("train", "train one model");
  add_model_options(*to, command->model);
  add_device_option(*to, command->device);
  to->add_option("--precision", command->precision,
                 "bf16: on a GPU of all activations, on the cpu of products and, in ResNet,\n"
                 "VGG and ConvNeXt, of activations, where the processor has instructions for it\n"
                 "(default: bf16 on a GPU, else f32)")
      ->check(CLI::IsMember({"f32", "bf16"}));
  add_options(*to, *command);
  to->callback([command] { train(*command); });
}

}  // namespace dyt
