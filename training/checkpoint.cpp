#include "training/checkpoint.h"

#include <nlohmann/json.hpp>

#include "core/json.h"

namespace dyt {
namespace {

using nlohmann::json;

constexpr const char* model_key = "dyt.model";
constexpr const char* run_key = "dyt.run";
constexpr const char* state_key = "dyt.state";

// JSON has no NaN: null.
double number(const json& value) { return value.is_null() ? std::nan("") : value.get<double>(); }

json to_json(const TrainingState& state) {
  json curve = json::array();
  for (const Evaluation& e : state.curve) {
    curve.push_back(
        {e.step, e.train_loss, e.test_loss, e.test_accuracy, e.average_loss, e.average_accuracy});
  }
  return {{"step", state.step},
          {"seconds", state.seconds},
          {"loss_sum", state.loss_sum},
          {"losses", state.losses},
          {"curve", curve}};
}

TrainingState state_from(const json& text) {
  TrainingState state;
  state.step = text.at("step").get<int64_t>();
  state.seconds = text.at("seconds").get<double>();
  state.loss_sum = text.at("loss_sum").get<double>();
  state.losses = text.at("losses").get<int64_t>();
  for (const json& e : text.at("curve")) {
    state.curve.push_back({e.at(0).get<int64_t>(), number(e.at(1)), number(e.at(2)),
                           number(e.at(3)), number(e.at(4)), number(e.at(5))});
  }
  return state;
}

// A parameter's part of one of the optimizer's flat buffers.
struct Part {
  std::string name;
  const Parameter& parameter;
  std::byte* data;
  size_t bytes;
};

std::vector<Part> memories(const Trained& t) {
  std::vector<Part> parts;
  for (const Optimizer::Memory& memory : t.optimizer.memories()) {
    const std::string prefix = "optimizer." + std::string(memory.name) + ".";
    for (const Parameter& p : t.parameters.all()) {
      const size_t size = size_of(accumulator_of(p.dtype));
      parts.push_back({prefix + p.name, p,
                       static_cast<std::byte*>(memory.data) + size_t(p.offset) * size,
                       size_t(p.size()) * size});
    }
  }
  return parts;
}

StoredType stored_type(const Parameters& parameters) {
  return parameters.dtype() == DType::f64 ? StoredType::F64 : StoredType::F32;
}

void write_under_own_names(const Parameters& parameters, TensorFile& file,
                           const std::string& prefix) {
  const auto write = [&](const auto& p) {
    file.add(prefix + p.name, shape_in_file(p.shape), parameters.values(p));
  };
  for (const Parameter& p : parameters.all()) write(p);
  for (const ModelBuffer& b : parameters.buffers()) write(b);
}

void read_under_own_names(Parameters& parameters, const TensorFile& file,
                          const std::string& prefix) {
  const auto read = [&](const auto& p) {
    const std::string name = prefix + p.name;
    const auto there = file.at(name).shape, wanted = shape_in_file(p.shape);
    require(there == wanted, file.source, ": ", name, " has the shape ", shape_text(there),
            ", this model's has ", shape_text(wanted));
    parameters.set_values(p, file.doubles(name));
  };
  for (const Parameter& p : parameters.all()) read(p);
  for (const ModelBuffer& b : parameters.buffers()) read(b);
}

void write_weights(const CheckpointOptions& options, const Trained& t, TensorFile& file,
                   const std::string& prefix) {
  if (options.write_weights) return options.write_weights(file, prefix);
  write_under_own_names(t.parameters, file, prefix);
}

void read_weights(const CheckpointOptions& options, const Trained& t, const TensorFile& file,
                  const std::string& prefix) {
  if (options.read_weights) return options.read_weights(file, prefix);
  read_under_own_names(t.parameters, file, prefix);
}

// What a run is, as a file has it: names of files may have bytes that JSON can't.
std::string written(const std::map<std::string, std::string>& run) {
  return json(run).dump(-1, ' ', false, json::error_handler_t::replace);
}
std::map<std::string, std::string> read_run(const std::string& text) {
  return parse_json(text).get<std::map<std::string, std::string>>();
}

// "batch is 100 here and 64 there", of everything that differs.
std::string differences(const std::map<std::string, std::string>& here,
                        const std::map<std::string, std::string>& there) {
  std::string text;
  const auto value = [](const auto& map, const std::string& key) {
    const auto it = map.find(key);
    return it == map.end() ? std::string("nothing") : it->second;
  };
  std::map<std::string, std::string> both = here;
  both.insert(there.begin(), there.end());
  for (const auto& [key, unused] : both) {
    if (value(here, key) == value(there, key)) continue;
    text += (text.empty() ? "" : ", ") + key + " is " + value(here, key) + " here and " +
            value(there, key) + " there";
  }
  return text;
}

}  // namespace

void save_checkpoint(const CheckpointOptions& options, const TrainingState& state,
                     const Trained& t) {
  TensorFile file;
  file.metadata = options.metadata;
  file.metadata["format"] = "pt";  // what Hugging Face's loaders ask for
  file.metadata[model_key] = options.model;
  file.metadata[run_key] = written(options.run);
  file.metadata[state_key] = to_json(state).dump();
  write_weights(options, t, file, "");
  if (t.average) {
    const WithAverage with(t.average);
    write_weights(options, t, file, "ema.");
  }
  std::vector<std::byte> host;
  for (const Part& part : memories(t)) {
    host.resize(part.bytes);
    copy_to_host(t.parameters.device(), host.data(), part.data, part.bytes);
    file.add_bytes(part.name, stored_type(t.parameters), shape_in_file(part.parameter.shape), host);
  }
  write_safetensors(options.save, file);
}

TrainingState load_checkpoint(const CheckpointOptions& options, const Trained& t) {
  const TensorFile file = read_safetensors(options.resume);
  const auto text = [&](const char* key) {
    const auto it = file.metadata.find(key);
    require(it != file.metadata.end(), file.source,
            " is no checkpoint of dyt: its metadata have no ", key,
            " (weights alone are for --init)");
    return it->second;
  };
  const std::string model = text(model_key);
  require(model == options.model, file.source, " is of another model: ", model, " and not ",
          options.model);
  TrainingState state;
  std::map<std::string, std::string> run;
  try {
    run = read_run(text(run_key));
    state = state_from(parse_json(text(state_key)));
  } catch (const json::exception& e) {
    fail(file.source, ": its metadata can't be read: ", e.what());
  }
  const std::map<std::string, std::string> here = read_run(written(options.run));
  require(run == here, file.source,
          " is of another run, so going on would give neither: ", differences(here, run));
  if (t.average) {  // its constructor has taken other weights
    const WithAverage with(t.average);
    read_weights(options, t, file, "ema.");
  }
  read_weights(options, t, file, "");
  for (const Part& part : memories(t)) {
    const StoredTensor& stored = file.at(part.name);
    require(stored.type == stored_type(t.parameters) &&
                stored.shape == shape_in_file(part.parameter.shape),
            file.source, ": ", part.name, " is ", name_of(stored.type), " ",
            shape_text(stored.shape), ", not ", name_of(stored_type(t.parameters)), " ",
            part.parameter.shape.text());
    copy_to_device(t.parameters.device(), part.data, stored.bytes.data(), part.bytes);
  }
  t.optimizer.set_steps(state.step);
  if (t.average) t.average->set_updates(state.step);
  return state;
}

}  // namespace dyt
