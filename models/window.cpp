#include "models/window.h"

#include <cmath>
#include <cstring>

#include "core/product.h"
#include "models/weights.h"

namespace dyt {
namespace {

// --- In ------------------------------------------------------------------------------------------

void require_shape(const TensorFile& file, const std::string& name, size_t rank,
                   const std::string& needed) {
  const std::vector<int64_t>& shape = file.at(name).shape;
  require(shape.size() == rank && file.at(name).size() > 0, file.source, ": ", name, " is ",
          shape_text(shape), ", where ", needed, " is needed");
}

// Images (N, C, H, W) to (N, H, W, C), in the number type the tape wants them in.
template <class T>
Tensor upload_images(Tape& tape, const Model& model, const TensorFile& file) {
  const int64_t C = model.channels(), S = model.image_size();
  const std::string needed =
      "[N, " + std::to_string(C) + ", " + std::to_string(S) + ", " + std::to_string(S) + "]";
  require_shape(file, "images", 4, needed);
  const std::vector<int64_t> shape = file.at("images").shape;
  require(shape[1] == C && shape[2] == S && shape[3] == S, file.source, ": images is ",
          shape_text(shape), ", where ", model.spec().preset, " takes ", needed);
  const std::vector<double> x = file.doubles("images");
  for (double v : x) require(std::isfinite(T(v)), file.source, ": images has a value ", v);
  const int64_t N = shape[0], pixels = S * S;
  std::vector<T> y(x.size());
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t c = 0; c < C; ++c) {
      for (int64_t i = 0; i < pixels; ++i) {
        y[size_t((n * pixels + i) * C + c)] = T(x[size_t((n * C + c) * pixels + i)]);
      }
    }
  }
  return tape.upload({N, S, S, C}, dtype_of<T>::value, y.data());
}

// Whole numbers from 0 to below `count`.
Tensor upload_indices(Tape& tape, const TensorFile& file, const std::string& name, Shape shape,
                      int64_t count, const char* of_what) {
  std::vector<int32_t> indices;
  for (int64_t v : file.integers(name)) {
    require(v >= 0 && v < count, file.source, ": ", name, " has a ", v, ", but there are ", count,
            " ", of_what, ", 0 to ", count - 1);
    indices.push_back(int32_t(v));
  }
  return tape.upload(shape, DType::i32, indices.data());
}

Tensor upload_tokens(Tape& tape, const GPT& gpt, const TensorFile& file) {
  require_shape(file, "tokens", 2, "[N, T]");
  const std::vector<int64_t>& shape = file.at("tokens").shape;
  require(shape[1] <= gpt.config().context, file.source, ": tokens is ", shape_text(shape),
          ": longer than the model's context of ", gpt.config().context, " tokens");
  return upload_indices(tape, file, "tokens", {shape[0], shape[1]}, gpt.config().vocabulary,
                        "tokens in the vocabulary");
}

Tensor upload_input(Tape& tape, const Model& model, const TensorFile& file) {
  if (const GPT* gpt = model.language()) return upload_tokens(tape, *gpt, file);
  if (tape.dtype() == DType::f64) return upload_images<double>(tape, model, file);
  return upload_images<float>(tape, model, file);
}

Tensor upload_labels(Tape& tape, const Model& model, const Tensor& input, const TensorFile& file) {
  const GPT* gpt = model.language();
  const Shape shape = gpt ? input.shape : Shape{input.shape[0]};
  require(file.at("labels").shape == shape_in_file(shape), file.source, ": labels is ",
          shape_text(file.at("labels").shape), ", where ", shape_text(shape_in_file(shape)),
          " is needed");
  return upload_indices(tape, file, "labels", shape,
                        gpt ? gpt->config().vocabulary : model.classes(),
                        gpt ? "tokens in the vocabulary" : "classes");
}

// --- Out -----------------------------------------------------------------------------------------

void add_tensor(TensorFile& file, const std::string& name, const std::vector<int64_t>& shape,
                const Tape& tape, const Tensor& t) {
  if (t.dtype != DType::f64) return file.add(name, shape, host_floats(tape, t));
  std::vector<double> values(size_t(t.size()));
  copy_to_host(tape.device(), values.data(), t.data, values.size() * sizeof(double));
  file.add(name, shape, values);
}

void add_activations(TensorFile& file, Tape& tape) {
  tape.observer = [&](const std::string& site, const Tensor& in, const Tensor& out) {
    add_tensor(file, site + ".input", shape_in_file(in.shape), tape, in);
    add_tensor(file, site + ".output", shape_in_file(out.shape), tape, out);
  };
}

void add_logits(TensorFile& file, const Tape& tape, const Tensor& logits) {
  add_tensor(file, "logits", shape_in_file(logits.shape), tape, logits);
}

// The loss of a language model never has all logits in memory: they are a forward pass of their
// own.
Tensor add_language_loss(TensorFile& file, Tape& tape, const Model& model,
                         const TensorFile& input) {
  tape.training = false;
  add_logits(file, tape, model.forward(tape, upload_input(tape, model, input)));
  tape.training = true;
  tape.observer = nullptr;  // it has seen every norm
  tape.begin(0);
  const Tensor tokens = upload_input(tape, model, input);
  return model.loss(tape, tokens, upload_labels(tape, model, tokens, input));
}

Tensor add_image_loss(TensorFile& file, Tape& tape, const Model& model, const TensorFile& input) {
  const Tensor images = upload_input(tape, model, input);
  const Tensor labels = upload_labels(tape, model, images, input);
  const Tensor logits = model.forward(tape, images);
  add_logits(file, tape, logits);
  return cross_entropy(tape, logits, labels);
}

ModelSpec as_in_evaluation(ModelSpec spec) {
  spec.frozen = true;
  spec.drop_path.reset();  // presets have none
  spec.dropout.reset();
  return spec;
}

}  // namespace

TensorFile look_into(const WindowOptions& o, const TensorFile& input, TensorFile* weights) {
  require(o.device == Device::cpu || o.dtype != DType::f64, name_of(o.device),
          " computes in f32 and bf16, not in f64");
  const bool narrow_on_cpu = o.device == Device::cpu && o.dtype == DType::bf16;
  const CpuProductsIn products(narrow_on_cpu ? DType::bf16 : DType::f32);
  const DType dtype = narrow_on_cpu ? DType::f32 : o.dtype;
  Parameters parameters;
  const Model model(o.evaluation ? as_in_evaluation(o.model) : o.model, parameters);
  parameters.allocate(o.device, dtype, o.seed);
  if (!o.weights.empty()) {
    read_weights(model, parameters, read_safetensors(o.weights), o.prefix);
  }
  TensorFile file;
  Tape tape(o.device, dtype, o.seed);
  tape.begin(0);
  if (o.weights.empty() && model.norm().calibrate > 0) {
    tape.training = false, tape.calibrating = true;
    model.forward(tape, upload_input(tape, model, input));
    tape.training = true, tape.calibrating = false;
    tape.begin(0);
  }
  if (weights) write_weights(model, parameters, *weights);
  if (o.activations) add_activations(file, tape);
  if (!o.backward) {
    tape.training = false;
    add_logits(file, tape, model.forward(tape, upload_input(tape, model, input)));
    return file;
  }
  const Tensor loss = model.language() ? add_language_loss(file, tape, model, input)
                                       : add_image_loss(file, tape, model, input);
  tape.backward(loss);
  add_tensor(file, "loss", {}, tape, loss);
  write_weights(model, parameters, file, "", true);
  if (!o.evaluation) write_buffers(parameters, file, "after.");
  return file;
}

}  // namespace dyt
