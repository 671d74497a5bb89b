#include <cstdio>
#include <memory>

#include "commands/commands.h"
#include "commands/model_options.h"
#include "models/window.h"

namespace dyt {
namespace {

struct WindowCommand {
  WindowOptions options;
  std::string device = "auto", dtype = "f32", weights, input, output, save;
  bool averaged = false;
};

DType parse_dtype(const std::string& name) {
  for (DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    if (name == name_of(dtype)) return dtype;
  }
  fail("unknown number type '", name, "'; choose f32, f64 or bf16");
}

void look(WindowCommand& command) {
  WindowOptions& options = command.options;
  options.device = parse_device(command.device);
  options.dtype = parse_dtype(command.dtype);
  options.weights = command.weights;
  options.prefix = command.averaged ? "ema." : "";
  require(!command.averaged || !command.weights.empty(), "--ema needs a checkpoint: --init FILE");
  for (const std::string& other : {command.save, command.input, command.weights}) {
    require_two_files(command.output, other);
  }
  for (const std::string& other : {command.input, command.weights}) {
    require_two_files(command.save, other);
  }
  require_writable(command.output);
  if (!command.save.empty()) require_writable(command.save);
  TensorFile weights;
  const TensorFile result = look_into(options, read_safetensors(command.input),
                                      command.save.empty() ? nullptr : &weights);
  write_safetensors(command.output, result);
  if (!command.save.empty()) write_safetensors(command.save, weights);
  std::printf("%s: %zu tensors, logits %s", command.output.c_str(), result.tensors.size(),
              shape_text(result.at("logits").shape).c_str());
  if (options.backward) std::printf(", loss %.6f", result.doubles("loss")[0]);
  std::printf("\n");
}

void add_window(CLI::App& app, const char* name, const char* help, bool backward) {
  const auto command = std::make_shared<WindowCommand>();
  WindowCommand& c = *command;
  c.options.backward = backward;
  CLI::App* window = app.add_subcommand(name, help);
  add_model_options(*window, c.options.model);
  window
      ->add_option("--input", c.input,
                   backward ? "safetensors: images (N, C, H, W) or tokens (N, T), and labels"
                            : "safetensors: images (N, C, H, W) or tokens (N, T)")
      ->required();
  window->add_option("--output", c.output, "safetensors")->required();
  window->add_option("--init", c.weights, "safetensors of timm, Hugging Face or dyt train");
  window->add_flag("--ema", c.averaged, "the averaged weights of a checkpoint");
  window->add_option("--seed", c.options.seed, "of the weights, without --init")
      ->check(CLI::NonNegativeNumber.description(""))
      ->capture_default_str();
  window->add_option("--save-weights", c.save, "safetensors of the weights that were used");
  add_device_option(*window, c.device);
  window
      ->add_option("--dtype", c.dtype,
                   "f64: cpu only; bf16 on the cpu: as --precision bf16 of dyt train")
      ->check(CLI::IsMember({"f32", "f64", "bf16"}))
      ->capture_default_str();
  window->add_flag("--activations", c.options.activations,
                   "also NAME.input and NAME.output of every norm, channels last");
  window->callback([command] { look(*command); });
  if (backward) {
    window->add_flag("--eval", c.options.evaluation,
                     "as in evaluation: running statistics, nothing dropped");
  }
}

}  // namespace

void add_forward(CLI::App& app) { add_window(app, "forward", "a model's logits", false); }

void add_backward(CLI::App& app) {
  add_window(app, "backward", "a model's logits, loss and gradients", true);
}

}  // namespace dyt
