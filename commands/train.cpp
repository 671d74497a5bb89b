#include <cstdio>
#include <fstream>
#include <memory>

#include "commands/commands.h"
#include "experiments/classifier_study.h"
#include "models/vit.h"
#include "training/progress.h"

namespace dyt {
namespace {

struct TrainCommand {
  std::string model = "vit_micro", device = "auto", data = "synthetic", norm = "layernorm";
  std::string placement = "pre", out;
  int epochs = 5, batch = 100, seed = 1;
  double lr = 1e-3, weight_decay = 0.05, warmup_epochs = 0.5, label_smoothing = 0, clip = 1;
  double alpha0 = 0.5, drop_path = 0;
  int width = 0, depth = 0, heads = 0, patch = 0;  // 0: the preset's
  int train_images = 0, test_images = 0;           // 0: all
};

ViTConfig configure(const TrainCommand& command, const ImageDataset& data) {
  ViTConfig config = vit_preset(command.model == "vit" ? "vit_micro" : command.model);
  if (command.width) config.width = command.width;
  if (command.depth) config.depth = command.depth;
  if (command.heads) config.heads = command.heads;
  if (command.patch) config.patch_size = command.patch;
  config.drop_path = float(command.drop_path);
  config.image_size = data.height;
  config.classes = data.classes();
  config.norm = {.kind = parse_norm(command.norm),
                 .placement = parse_placement(command.placement),
                 .alpha0 = float(command.alpha0)};
  return config;
}

void train(const TrainCommand& command) {
  if (command.model != "vit") vit_preset(command.model);  // an unknown name before any work
  const Device device = parse_device(command.device);
  const ImageSplits data =
      load_images(command.data, size_t(command.train_images), size_t(command.test_images));
  require(data.train.height == data.train.width, "images are ", data.train.height, " x ",
          data.train.width, "; a ViT here takes square ones");
  require(size_t(command.batch) <= data.train.size(), "a batch of ", command.batch,
          " is more than the ", data.train.size(), " images of the train split");
  Parameters parameters;
  const ViT model(configure(command, data.train), parameters);
  parameters.allocate(device, default_dtype(device), uint64_t(command.seed));

  if (!command.out.empty()) prepare_output(command.out);

  const int64_t batches = int64_t(data.train.size()) / command.batch;
  TrainOptions options{.steps = batches * command.epochs,
                       .batch = command.batch,
                       .lr = command.lr,
                       .lr_floor = command.lr / 100,
                       .warmup = int64_t(command.warmup_epochs * double(batches)),
                       .label_smoothing = float(command.label_smoothing),
                       .seed = uint64_t(command.seed),
                       .evaluate_every = batches};
  options.adamw.weight_decay = float(command.weight_decay);
  options.adamw.max_norm = float(command.clip);
  std::printf("%s, %s, %lld parameters, %s: %zu train and %zu test images, on %s\n",
              command.model.c_str(), command.norm.c_str(),
              static_cast<long long>(parameters.count()), data.train.name.c_str(),
              data.train.size(), data.test.size(), name_of(device));
  const Forward forward = [&](Tape& tape, const Tensor& images) {
    return model.forward(tape, images);
  };
  TrainResult result;
  {
    ProgressLine line("train");
    result = train_classifier(forward, parameters, data, options, std::ref(line));
  }
  const auto folder = std::filesystem::path(command.out);
  std::ofstream log;
  if (!command.out.empty()) log.open(folder / "metrics.jsonl");
  std::printf("%8s %12s %12s %14s\n", "step", "train loss", "test loss", "test accuracy");
  for (const Evaluation& e : result.curve) {
    std::printf("%8lld %12.4f %12.4f %12.2f %%\n", static_cast<long long>(e.step), e.train_loss,
                e.test_loss, 100 * e.test_accuracy);
    if (log) {
      log << "{\"step\": " << e.step << ", \"train_loss\": " << e.train_loss
          << ", \"test_loss\": " << e.test_loss << ", \"test_accuracy\": " << e.test_accuracy
          << "}\n";
    }
  }
  if (result.diverged()) {
    std::printf("diverged at step %lld: the loss was not finite or above %g\n",
                static_cast<long long>(result.diverged_at), options.diverged_above);
  }
  std::printf("%.1f s, %.0f images/s with evaluation, %.1f MiB of activations and gradients\n",
              result.seconds, double(result.samples) / result.seconds,
              double(result.arena_bytes) / (1 << 20));
}

}  // namespace

void add_train(CLI::App& app) {
  const auto command = std::make_shared<TrainCommand>();
  TrainCommand& t = *command;
  CLI::App* train_app = app.add_subcommand("train", "train one model");
  train_app->add_option("MODEL", t.model, "vit or one of its presets")->required();
  add_device_option(*train_app, t.device);
  const auto count = [train_app](const char* name, int& value, const char* help) {
    train_app->add_option(name, value, help)->check(CLI::Range(1, 1 << 30));
  };
  train_app->add_option("--data", t.data, "synthetic or cifar10:DIR")->capture_default_str();
  train_app->add_option("--norm", t.norm, "what normalises")
      ->check(CLI::IsMember(norm_names()))
      ->capture_default_str();
  train_app->add_option("--norm-placement", t.placement, "before or after a residual branch")
      ->check(CLI::IsMember({"pre", "post"}))
      ->capture_default_str();
  train_app->add_option("--alpha0", t.alpha0, "where DyT's alpha starts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  count("--epochs", t.epochs, "passes over the train split (default 5)");
  count("--batch", t.batch, "images per step (default 100)");
  count("--seed", t.seed, "of weights, order and augmentation (default 1)");
  count("--width", t.width, "channels (default: the preset's, as below)");
  count("--depth", t.depth, "blocks");
  count("--heads", t.heads, "attention heads; must divide the width");
  count("--patch", t.patch, "patch size in pixels; must divide the image size");
  count("--train-images", t.train_images, "use only the first so many (default: all)");
  count("--test-images", t.test_images, "likewise");
  const auto number = [train_app](const char* name, double& value, double low, double high,
                                  const char* help) {
    train_app->add_option(name, value, help)->check(CLI::Range(low, high))->capture_default_str();
  };
  number("--lr", t.lr, 1e-12, 1e3, "peak learning rate");
  number("--weight-decay", t.weight_decay, 0, 10, "AdamW's, on matrices");
  number("--warmup-epochs", t.warmup_epochs, 0, 1e6, "linear warm-up");
  number("--label-smoothing", t.label_smoothing, 0, 0.999, "");
  number("--clip", t.clip, 0, 1e12, "global gradient norm; 0: no clipping");
  number("--drop-path", t.drop_path, 0, 0.999, "stochastic depth of the last block");
  train_app->add_option("--out", t.out, "folder for metrics.jsonl");
  train_app->callback([command] { train(*command); });
}

}  // namespace dyt
