#include "tests/op_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "core/philox.h"
#include "core/safetensors.h"
#include "layers/layers.h"
#include "tests/thread_order.h"

namespace dyt::test {
namespace {

double round_bf16(double v) { return double(float(bf16(float(v)))); }

// v in the bytes of a number type.
std::vector<char> encode(const std::vector<double>& v, DType dtype) {
  std::vector<char> bytes(v.size() * size_of(dtype));
  for (size_t i = 0; i < v.size(); ++i) {
    if (dtype == DType::f64) reinterpret_cast<double*>(bytes.data())[i] = v[i];
    if (dtype == DType::f32) reinterpret_cast<float*>(bytes.data())[i] = float(v[i]);
    if (dtype == DType::bf16) reinterpret_cast<bf16*>(bytes.data())[i] = bf16(float(v[i]));
  }
  return bytes;
}

std::vector<double> decode(Device device, const void* data, size_t n, DType dtype) {
  std::vector<char> bytes(n * size_of(dtype));
  copy_to_host(device, bytes.data(), data, bytes.size());
  std::vector<double> v(n);
  for (size_t i = 0; i < n; ++i) {
    if (dtype == DType::f64) v[i] = reinterpret_cast<double*>(bytes.data())[i];
    if (dtype == DType::f32) v[i] = double(reinterpret_cast<float*>(bytes.data())[i]);
    if (dtype == DType::bf16) v[i] = double(float(reinterpret_cast<bf16*>(bytes.data())[i]));
    if (dtype == DType::i32) v[i] = reinterpret_cast<int32_t*>(bytes.data())[i];
  }
  return v;
}

void expect_same_outcome(const Outcome& a, const Outcome& b, double tolerance,
                         const std::string& what) {
  expect_close(a.y, b.y, tolerance, what + ": y");
  for (size_t i = 0; i < b.input_gradients.size(); ++i) {
    expect_close(a.input_gradients[i], b.input_gradients[i], tolerance,
                 what + ": gradient of input " + std::to_string(i));
  }
  for (const auto& [name, gradient] : b.parameter_gradients) {
    expect_close(a.parameter_gradients.at(name), gradient, tolerance,
                 what + ": gradient of " + name);
  }
}

}  // namespace

std::vector<double> to_host(const Tape& tape, const Tensor& t) {
  return decode(tape.device(), t.data, size_t(t.size()), t.dtype);
}

void expect_close(const std::vector<double>& actual, const std::vector<double>& expected,
                  double tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double error = 0, norm = 0;
  size_t worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_TRUE(std::isfinite(actual[i])) << what << ": element " << i << " is " << actual[i];
    const double e = actual[i] - expected[i];
    error += e * e;
    norm += expected[i] * expected[i];
    if (std::abs(e) > std::abs(actual[worst] - expected[worst])) worst = i;
  }
  // A result that ought to be zero is compared in absolute terms.
  EXPECT_LE(std::sqrt(error), tolerance * std::max(std::sqrt(norm), 1e-3))
      << what << ": worst at element " << worst << " of " << actual.size() << ": " << actual[worst]
      << " instead of " << expected[worst];
}

Values draw_values(const OpCase& op, uint64_t seed, bool round_to_bf16) {
  Values values;
  RandomSequence random(seed, 77);
  const auto draw = [&](int64_t n, double scale) {
    std::vector<double> v(static_cast<size_t>(n));
    for (double& x : v) {
      x = scale * random.normal();
      if (round_to_bf16) x = round_bf16(x);
    }
    return v;
  };
  for (const Shape& shape : op.inputs) values.inputs.push_back(draw(shape.size(), op.input_scale));
  Parameters parameters;
  op.declare(parameters);
  parameters.allocate(Device::cpu, DType::f32, seed);
  for (const Parameter& p : parameters.all()) {
    values.parameters[p.name] = parameters.values(p);
    for (double& v : values.parameters[p.name]) v = round_to_bf16 ? round_bf16(v) : v;
  }
  int64_t outputs = 1 << 18;
  for (const Shape& shape : op.inputs) outputs = std::max(outputs, shape.size());
  values.dy = draw(outputs, 1.0);
  return values;
}

Outcome run_op(const OpCase& op, Device device, DType dtype, const Values& values) {
  Parameters parameters;
  op.declare(parameters);
  parameters.allocate(device, dtype, 1);
  for (const Parameter& p : parameters.all()) {
    parameters.set_values(p, values.parameters.at(p.name));
  }
  // Parameters' gradients are added to: what is there before is taken away again.
  const auto before =
      encode(std::vector<double>(size_t(parameters.flat_size()), 1.0), accumulator_of(dtype));
  copy_to_device(device, parameters.gradients(), before.data(), before.size());
  Tape tape(device, dtype, 3);
  tape.begin(5);
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    inputs.push_back(
        tape.upload(op.inputs[i], dtype, encode(values.inputs[i], dtype).data(), true));
  }
  const Tensor y = op.run(tape, inputs, parameters);
  const size_t n = size_t(y.size());
  if (values.dy.size() < n) fail("op_check: draw more than ", values.dy.size(), " numbers for dy");
  const std::vector<double> dy(values.dy.begin(), values.dy.begin() + long(n));
  tape.backward(y, encode(dy, y.dtype).data());
  Outcome outcome;
  outcome.y = to_host(tape, y);
  for (const Tensor& x : inputs) {
    if (!x.grad->data) fail("op_check: ", op.name, " wrote no gradient of an input");
    outcome.input_gradients.push_back(decode(device, x.grad->data, size_t(x.size()), dtype));
  }
  for (const Parameter& p : parameters.all()) {
    std::vector<double>& gradient = outcome.parameter_gradients[p.name] = parameters.gradient(p);
    for (double& g : gradient) g -= 1;
  }
  return outcome;
}

void check_gradients(const OpCase& op) {
  SCOPED_TRACE("gradient check of " + op.name);
  Values values = draw_values(op, 11);
  const Outcome analytic = run_op(op, Device::cpu, DType::f64, values);
  const auto loss = [&] {
    const Outcome o = run_op(op, Device::cpu, DType::f64, values);
    double sum = 0;
    for (size_t i = 0; i < o.y.size(); ++i) sum += o.y[i] * values.dy[i];
    return sum;
  };
  RandomSequence random(4, 4);
  const auto compare = [&](std::vector<double>& v, const std::vector<double>& gradient,
                           const std::string& what) {
    std::vector<double> chosen, numeric;
    for (int k = 0; k < op.checked_elements; ++k) {
      const bool all = v.size() <= size_t(op.checked_elements);
      const size_t i = all ? size_t(k) : random.below(uint32_t(v.size()));
      if (i >= v.size()) break;
      const double h = 1e-5, saved = v[i];
      v[i] = saved + h;
      const double up = loss();
      v[i] = saved - h;
      const double down = loss();
      v[i] = saved;
      chosen.push_back(gradient[i]);
      numeric.push_back((up - down) / (2 * h));
    }
    expect_close(chosen, numeric, 1e-6, what);
  };
  for (size_t i = 0; i < values.inputs.size(); ++i) {
    compare(values.inputs[i], analytic.input_gradients[i], "input " + std::to_string(i));
  }
  for (auto& [name, v] : values.parameters) {
    compare(v, analytic.parameter_gradients.at(name), "parameter " + name);
  }
}

void check_kernels(const OpCase& op) {
  SCOPED_TRACE("kernels of " + op.name);
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Values values = draw_values(op, 12, dtype == DType::bf16);
    const Outcome expected = run_op(op, Device::cpu, DType::f32, values);
    const Outcome actual = run_op(op, kernel_device, dtype, values);
    const std::string what = op.name + " in " + name_of(dtype);
    expect_same_outcome(actual, expected,
                        dtype == DType::f32 ? op.f32_tolerance : op.bf16_tolerance, what);
    for_other_thread_orders([&](const char* order) {
      expect_same_outcome(run_op(op, kernel_device, dtype, values), actual, 0,
                          what + ", threads " + order);
    });
  }
}

std::string reference_folder() {
  const char* given = std::getenv("DYT_REFERENCE");
  return given ? given : "tests/reference";
}

OpCase added_to_x(OpCase op) {
  op.name += ", added to x";
  op.run = [run = op.run](Tape& tape, const std::vector<Tensor>& x, Parameters& p) {
    return residual_add(tape, x[0], run(tape, x, p));
  };
  return op;
}

void check_reference(const OpCase& op, const std::string& fixture, const std::string& prefix,
                     const std::vector<std::string>& input_names, double tolerance) {
  SCOPED_TRACE("PyTorch's values of " + op.name);
  const TensorFile file = read_safetensors(reference_folder() + "/" + fixture);
  Values values;
  for (const std::string& name : input_names) {
    values.inputs.push_back(file.doubles(prefix + "/" + name));
  }
  Parameters parameters;
  op.declare(parameters);
  for (const Parameter& p : parameters.all()) {
    values.parameters[p.name] = file.doubles(prefix + "/" + p.name);
  }
  values.dy = file.doubles(prefix + "/dy");
  const Outcome outcome = run_op(op, Device::cpu, DType::f32, values);
  expect_close(outcome.y, file.doubles(prefix + "/y"), tolerance, "y");
  for (size_t i = 0; i < input_names.size(); ++i) {
    expect_close(outcome.input_gradients[i], file.doubles(prefix + "/d" + input_names[i]),
                 tolerance, "d" + input_names[i]);
  }
  for (const auto& [name, gradient] : outcome.parameter_gradients) {
    expect_close(gradient, file.doubles(prefix + "/d" + name), tolerance, "d" + name);
  }
}

}  // namespace dyt::test
