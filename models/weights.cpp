#include "models/weights.h"

#include <cmath>
#include <set>

namespace dyt {
namespace {

using FileShape = std::vector<int64_t>;

// One tensor of a file: some rows of a parameter, or all of it.
struct Part {
  std::string name;
  FileShape shape;
  int64_t first_row = 0, rows = 0;
  bool transposed = false;
};

std::string replaced(std::string text, const std::string& ours, const std::string& theirs) {
  return text.replace(text.find(ours), ours.size(), theirs);
}

// The rows of a matrix, one part after the other.
std::vector<Part> split_rows(const Parameter& p, const std::string& ours,
                             const std::vector<std::pair<const char*, int64_t>>& theirs) {
  std::vector<Part> parts;
  int64_t row = 0;
  for (const auto& [name, rows] : theirs) {
    parts.push_back({replaced(p.name, ours, name), {rows, p.shape[1]}, row, rows});
    row += rows;
  }
  return parts;
}

std::vector<Part> parts_of(const Model& model, const Parameter& p) {
  const int64_t all = p.shape[0];
  const GPT* gpt = model.language();
  if (gpt && p.name.ends_with("qkv_proj.weight")) {
    const int64_t q = gpt->config().width, kv = (all - q) / 2;
    return split_rows(p, "qkv_proj", {{"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}});
  }
  if (gpt && p.name.ends_with("gate_up_proj.weight")) {
    return split_rows(p, "gate_up_proj", {{"gate_proj", all / 2}, {"up_proj", all / 2}});
  }
  Part part{p.name, shape_in_file(p.shape), 0, all};
  if (gpt && p.shape.rank() == 2 && p.name.find(".h.") != std::string::npos) {  // GPT-2's Conv1D
    part.shape = {p.shape[1], all};
    part.transposed = true;
  }
  const ConvNeXt* convnext = model.as<ConvNeXt>();
  if (convnext && convnext->config().conv_mlp && p.name.find(".mlp.") != std::string::npos &&
      p.shape.rank() == 2) {
    part.shape.insert(part.shape.end(), {1, 1});
  }
  return {part};
}

FileShape shape_of(const ModelBuffer& buffer) {
  return buffer.counts ? FileShape{} : shape_in_file(buffer.shape);
}

// (rows, columns) to (columns, rows)
std::vector<double> transpose(const std::vector<double>& x, int64_t rows, int64_t columns) {
  std::vector<double> y(x.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) y[size_t(c * rows + r)] = x[size_t(r * columns + c)];
  }
  return y;
}

void add_rounded(TensorFile& file, const std::string& name, const FileShape& shape,
                 const std::vector<double>& values, DType dtype) {
  if (dtype == DType::f64) return file.add(name, shape, values);
  file.add(name, shape, std::vector<float>(values.begin(), values.end()));
}

// --- Reading -------------------------------------------------------------------------------------

std::string first_few(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 3; ++i) text += (i ? ", " : "") + names[i];
  return names.size() > 3 ? text + " and " + std::to_string(names.size() - 3) + " more" : text;
}

// (C, C, 1, 1) and (C, C) are the same matrix; (1) and () the same number.
FileShape without_ones(FileShape shape) {
  while (!shape.empty() && shape.back() == 1) shape.pop_back();
  return shape;
}

class Reader {
 public:
  Reader(const Model& model, Parameters& parameters, const TensorFile& file,
         const std::string& prefix)
      : model_(model), parameters_(parameters), file_(file), prefix_(prefix) {}

  void read() {
    check_names_and_shapes();
    // Everything is looked at before anything is set.
    for (const Parameter& p : parameters_.all()) values_of(p);
    for (const ModelBuffer& b : parameters_.buffers()) values_of(b);
    for (const Parameter& p : parameters_.all()) parameters_.set_values(p, values_of(p));
    for (const ModelBuffer& b : parameters_.buffers()) parameters_.set_values(b, values_of(b));
  }

 private:
  // Files of GPT-2 may lack the names' first word.
  std::string name_in_file(const std::string& name) const {
    const std::string word = "transformer.";
    const bool has_word = name.starts_with(word);
    const std::string short_name = prefix_ + (has_word ? name.substr(word.size()) : name);
    return has_word && file_.contains(short_name) ? short_name : prefix_ + name;
  }

  void check_names_and_shapes() {
    for (const Parameter& p : parameters_.all()) {
      for (const Part& part : parts_of(model_, p)) check(name_in_file(part.name), part.shape);
    }
    for (const ModelBuffer& b : parameters_.buffers()) check(prefix_ + b.name, shape_of(b));
    std::vector<std::string> unknown;
    for (const auto& [name, tensor] : file_.tensors) {
      if (!used_.count(name) && !is_superfluous(name)) unknown.push_back(name);
    }
    std::string problems;
    const auto add = [&](const char* what, const std::vector<std::string>& names) {
      if (!names.empty())
        problems += (problems.empty() ? " " : "; it ") + (what + first_few(names));
    };
    add("lacks ", missing_);
    add("has other shapes: ", wrong_);
    add("has tensors that the model does not: ", unknown);
    require(problems.empty(), file_.source, problems, " (the model is a ", model_.spec().preset,
            " with ", name_of(model_.norm().kind), ")");
    check_tied_head();
  }

  void check(const std::string& name, const FileShape& expected) {
    used_.insert(name);
    if (!file_.contains(name)) {
      missing_.push_back(name);
    } else if (without_ones(file_.at(name).shape) != without_ones(expected)) {
      wrong_.push_back(name + " is " + shape_text(file_.at(name).shape) + " instead of " +
                       shape_text(expected));
    }
  }

  bool is_superfluous(const std::string& name) const {
    if (!name.starts_with(prefix_)) return true;
    if (prefix_.empty() && (name.starts_with("optimizer.") || name.starts_with("ema."))) {
      return true;
    }
    const GPT* gpt = model_.language();
    return gpt && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") ||
                   name.ends_with("rotary_emb.inv_freq") ||
                   (gpt->config().tied && name == prefix_ + "lm_head.weight"));
  }

  // A model with one matrix for both can't take a file with two.
  void check_tied_head() const {
    const std::string head = prefix_ + "lm_head.weight";
    if (!model_.language() || used_.count(head) || !file_.contains(head)) return;
    const std::string embedding = name_in_file(model_.language()->config().style == GPTStyle::gpt2
                                                   ? "transformer.wte.weight"
                                                   : "model.embed_tokens.weight");
    require(file_.at(head).bytes == file_.at(embedding).bytes, file_.source, ": ", head,
            " differs from ", embedding, ", but the model's head is its token embedding");
  }

  std::vector<double> values_of(const Parameter& p) const {
    std::vector<double> values;
    for (const Part& part : parts_of(model_, p)) {
      std::vector<double> rows = finite_numbers(name_in_file(part.name));
      if (part.transposed) rows = transpose(rows, p.size() / p.shape[0], part.rows);
      values.insert(values.end(), rows.begin(), rows.end());
    }
    return values;
  }

  std::vector<double> values_of(const ModelBuffer& b) const {
    if (!b.counts) return finite_numbers(prefix_ + b.name);
    const std::vector<int64_t> counts = file_.integers(prefix_ + b.name);
    return {counts.begin(), counts.end()};
  }

  std::vector<double> finite_numbers(const std::string& name) const {
    std::vector<double> values = file_.doubles(name);
    const bool wide = parameters_.dtype() == DType::f64;
    for (double v : values) {
      require(wide ? std::isfinite(v) : std::isfinite(float(v)), file_.source, ": ", name,
              " has a value ", v);
    }
    return values;
  }

  const Model& model_;
  Parameters& parameters_;
  const TensorFile& file_;
  const std::string prefix_;
  std::set<std::string> used_;
  std::vector<std::string> missing_, wrong_;
};

}  // namespace

void write_weights(const Model& model, const Parameters& parameters, TensorFile& file,
                   const std::string& prefix, bool gradients) {
  const DType dtype = accumulator_of(parameters.dtype());
  for (const Parameter& p : parameters.all()) {
    const std::vector<double> values = gradients ? parameters.gradient(p) : parameters.values(p);
    const int64_t columns = p.size() / p.shape[0];
    for (const Part& part : parts_of(model, p)) {
      const auto first = values.begin() + part.first_row * columns;
      std::vector<double> rows(first, first + part.rows * columns);
      if (part.transposed) rows = transpose(rows, part.rows, columns);
      add_rounded(file, prefix + (gradients ? "grad." : "") + part.name, part.shape, rows, dtype);
    }
  }
  if (!gradients) write_buffers(parameters, file, prefix);
}

void write_buffers(const Parameters& parameters, TensorFile& file, const std::string& prefix) {
  const DType dtype = accumulator_of(parameters.dtype());
  for (const ModelBuffer& b : parameters.buffers()) {
    const std::vector<double> values = parameters.values(b);
    if (b.counts) {
      file.add(prefix + b.name, shape_of(b), std::vector<int64_t>(values.begin(), values.end()));
    } else {
      add_rounded(file, prefix + b.name, shape_of(b), values, dtype);
    }
  }
}

void read_weights(const Model& model, Parameters& parameters, const TensorFile& file,
                  const std::string& prefix) {
  Reader(model, parameters, file, prefix).read();
}

}  // namespace dyt
