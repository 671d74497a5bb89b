// A whole model against a fixture of tests/reference/: logits, loss, every gradient, names; and,
// where there are running statistics, those after the step and the logits of evaluation.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>

#include "core/philox.h"
#include "core/product.h"
#include "core/safetensors.h"
#include "layers/layers.h"
#include "tests/op_check.h"

namespace dyt::test {

// timm's (N, C, H, W) to ours (N, H, W, C)
inline std::vector<float> channels_last(const std::vector<float>& x,
                                        const std::vector<int64_t>& shape) {
  const int64_t N = shape[0], C = shape[1], pixels = shape[2] * shape[3];
  std::vector<float> y(x.size());
  for (int64_t n = 0; n < N; ++n)
    for (int64_t c = 0; c < C; ++c)
      for (int64_t i = 0; i < pixels; ++i)
        y[size_t((n * pixels + i) * C + c)] = x[size_t((n * C + c) * pixels + i)];
  return y;
}

struct ModelResults {
  std::vector<double> logits, eval_logits;
  double loss;
  std::map<std::string, std::vector<double>> gradients, buffers;  // buffers: after the step
};

template <class Model, class Config>
ModelResults run_model(const TensorFile& file, const Config& config, Device device, DType dtype) {
  Parameters p;
  const Model model(config, p);
  p.allocate(device, dtype, 1);
  for (const Parameter& parameter : p.all()) {
    p.set_values(parameter, file.doubles(parameter.name));
  }
  for (const ModelBuffer& buffer : p.buffers()) {
    if (!buffer.counts) p.set_values(buffer, file.doubles(buffer.name));
  }
  const std::vector<int64_t> shape = file.at("images").shape;
  const std::vector<float> images = channels_last(file.floats("images"), shape);
  const std::vector<int64_t> wide = file.integers("labels");
  const std::vector<int32_t> labels(wide.begin(), wide.end());
  Tape tape(device, dtype);
  ModelResults results;
  const auto forward = [&] {
    tape.begin(0);
    return model.forward(
        tape, tape.upload({shape[0], shape[2], shape[3], shape[1]}, DType::f32, images.data()));
  };
  tape.training = false;
  results.eval_logits = to_host(tape, forward());
  tape.training = true;
  const Tensor logits = forward();
  const Tensor loss =
      cross_entropy(tape, logits, tape.upload({shape[0]}, DType::i32, labels.data()));
  tape.backward(loss);
  results.logits = to_host(tape, logits);
  results.loss = to_host(tape, loss)[0];
  for (const Parameter& parameter : p.all()) {
    results.gradients[parameter.name] = p.gradient(parameter);
  }
  for (const ModelBuffer& buffer : p.buffers()) results.buffers[buffer.name] = p.values(buffer);
  return results;
}

inline std::vector<double> difference(std::vector<double> a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) a[i] -= b[i];
  return a;
}

inline double norm_of(const std::vector<double>& v) {
  double squares = 0;
  for (double x : v) squares += x * x;
  return std::sqrt(squares);
}

// Each gradient by itself. Those that ought to be 0 (of a bias before a BatchNorm) are rounding
// errors in a computer: what is below a hundredth of the largest gradient is compared with that.
inline void expect_same_gradients(const ModelResults& results, const TensorFile& file,
                                  double tolerance) {
  double largest = 0;
  for (const auto& [name, gradient] : results.gradients) {
    largest = std::max(largest, norm_of(file.doubles("grad." + name)));
  }
  for (const auto& [name, gradient] : results.gradients) {
    const std::vector<double> expected = file.doubles("grad." + name);
    const double scale = std::max(norm_of(expected), 0.01 * largest);
    EXPECT_LE(norm_of(difference(gradient, expected)) / scale, tolerance) << "gradient of " << name;
  }
}

// All of them as one vector: in bf16 a ReLU or a maximum here and there decides otherwise, and
// small batches of BatchNorm make much of it.
inline void expect_similar_gradients(const ModelResults& results, const TensorFile& file,
                                     double tolerance) {
  double error = 0, size = 0;
  for (const auto& [name, gradient] : results.gradients) {
    const std::vector<double> expected = file.doubles("grad." + name);
    error = std::hypot(error, norm_of(difference(gradient, expected)));
    size = std::hypot(size, norm_of(expected));
  }
  EXPECT_LE(error / size, tolerance) << "all gradients";
}

template <class Model, class Config>
void check_model(const std::string& fixture, const Config& config, Device device, DType dtype,
                 double tolerance, double gradient_tolerance) {
  SCOPED_TRACE(fixture + " on " + name_of(device) + " in " + name_of(dtype));
  const TensorFile file = read_safetensors(reference_folder() + "/" + fixture);
  const ModelResults results = run_model<Model>(file, config, device, dtype);
  expect_close(results.logits, file.doubles("logits"), tolerance, "logits");
  EXPECT_NEAR(results.loss, file.doubles("loss")[0], tolerance * 10);
  const bool narrow_on_cpu = device == Device::cpu && cpu_products() == DType::bf16;
  if (dtype == DType::bf16 || (narrow_on_cpu && !results.buffers.empty())) {
    expect_similar_gradients(results, file, gradient_tolerance);
  } else {
    expect_same_gradients(results, file, gradient_tolerance);
  }
  for (const auto& [name, values] : results.buffers) {
    const StoredTensor& stored = file.at("after." + name);
    if (stored.type == StoredType::I64) {
      EXPECT_EQ(int64_t(values[0]), file.integers("after." + name)[0]) << name;
    } else {
      expect_close(values, file.doubles("after." + name), tolerance, name);
    }
  }
  if (!results.buffers.empty()) {
    expect_close(results.eval_logits, file.doubles("eval_logits"), tolerance, "eval_logits");
  }
}

// Every parameter and buffer of the fixture's model is one of ours, by name and shape, and the
// other way round.
template <class Model, class Config>
void check_names(const std::string& fixture, const Config& config) {
  const TensorFile file = read_safetensors(reference_folder() + "/" + fixture);
  std::set<std::string> theirs, ours;
  const auto entry = [](const std::string& name, const std::string& shape) { return name + shape; };
  for (const auto& [name, tensor] : file.tensors) {
    if (file.contains("grad." + name) || file.contains("after." + name)) {
      theirs.insert(entry(name, tensor.shape.empty() ? "[1]" : shape_text(tensor.shape)));
    }
  }
  Parameters p;
  const Model model(config, p);
  const auto shape = [](const Tensor& t) {
    std::vector<int64_t> dims;
    for (int i = 0; i < t.shape.rank(); ++i) dims.push_back(t.shape[i]);
    return shape_text(dims);
  };
  for (const Parameter& parameter : p.all()) ours.insert(entry(parameter.name, shape(parameter)));
  for (const ModelBuffer& buffer : p.buffers()) ours.insert(entry(buffer.name, shape(buffer)));
  EXPECT_EQ(ours, theirs) << fixture;
}

template <class Model, class Config>
int64_t parameter_count(const Config& config) {
  Parameters p;
  const Model model(config, p);
  return p.count();
}

// The sentence that refuses this configuration.
template <class Model, class Config>
std::string refusal(const Config& config) {
  Parameters p;
  try {
    const Model model(config, p);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

// The f64 gradients of a whole model against finite differences, on random images and parameters:
// of each parameter and of the images, along one random direction.
template <class Model, class Config>
void check_model_gradients(const Config& config, Shape images) {
  std::unique_ptr<Model> model;
  const OpCase op{.name = "model",
                  .inputs = {images},
                  .declare = [&](Parameters& p) { model = std::make_unique<Model>(config, p); },
                  .run = [&](Tape& tape, const std::vector<Tensor>& x,
                             Parameters&) { return model->forward(tape, x[0]); }};
  Values values = draw_values(op, 11);
  RandomSequence random(5, 5);
  for (auto& [name, v] : values.parameters) {
    for (double& x : v) x += 0.3 * random.normal();
  }
  const Outcome analytic = run_op(op, Device::cpu, DType::f64, values);
  const auto check = [&](std::vector<double>& v, const std::vector<double>& gradient,
                         const std::string& what) {
    const std::vector<double> saved = v;
    std::vector<double> direction(v.size());
    for (double& d : direction) d = random.normal();
    const auto loss = [&](double h) {
      for (size_t i = 0; i < v.size(); ++i) v[i] = saved[i] + h * direction[i];
      const Outcome o = run_op(op, Device::cpu, DType::f64, values);
      double sum = 0;
      for (size_t i = 0; i < o.y.size(); ++i) sum += o.y[i] * values.dy[i];
      return sum;
    };
    const double h = 1e-6, numeric = (loss(h) - loss(-h)) / (2 * h);
    double expected = 0, size = 0;
    for (size_t i = 0; i < v.size(); ++i) {
      expected += gradient[i] * direction[i];
      size = std::hypot(size, gradient[i]);
    }
    EXPECT_NEAR(numeric, expected, 1e-6 * size + 1e-8) << what;
    v = saved;
  };
  check(values.inputs[0], analytic.input_gradients[0], "images");
  for (auto& [name, v] : values.parameters) check(v, analytic.parameter_gradients.at(name), name);
}

}  // namespace dyt::test
