#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "commands/commands.h"
#include "commands/saved_model.h"
#include "core/json.h"
#include "datasets/folder.h"

namespace dyt {
namespace {

struct PredictCommand {
  std::string weights, device = "auto";
  std::vector<std::string> files;
  int top = 5;
  bool average = false, strict = false;
};

// What the images of training looked like, and what their classes are called.
struct Trained {
  std::vector<std::string> classes;
  std::array<float, 3> mean{}, std{1, 1, 1};
};

Trained trained_on(const SavedModel& saved, const std::string& file) {
  const auto text = saved.metadata.find("dyt.data");
  require(text != saved.metadata.end(), file,
          " doesn't say what its classes are called: it needs a checkpoint that dyt train --save "
          "wrote, not weights alone");
  Trained data;
  try {
    const auto json = parse_json(text->second);
    json.at("classes").get_to(data.classes);
    json.at("mean").get_to(data.mean);
    json.at("std").get_to(data.std);
  } catch (const nlohmann::json::exception& e) {
    fail(file, ": what it says of its data can't be read: ", e.what());
  }
  require(int(data.classes.size()) == saved.model->classes(), file, " names ", data.classes.size(),
          " classes for a model of ", saved.model->classes());
  for (const float std : data.std) {
    require(std > 0, file, ": its images' standard deviation is ", std);
  }
  const int channels = saved.model->channels();
  require(channels == 1 || channels == 3, file, " is for images of ", channels,
          " channels, which no file has");
  return data;
}

// "cat 93.1 %, dog 5.2 %": the likeliest classes.
std::string likeliest(const std::vector<float>& logits, const std::vector<std::string>& classes,
                      int top) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  double sum = 0;
  for (const float v : logits) sum += std::exp(double(v - logits[order[0]]));
  std::string text;
  for (size_t i = 0; i < std::min(order.size(), size_t(top)); ++i) {
    char share[32];
    std::snprintf(share, sizeof share, " %.1f %%",
                  100 * std::exp(double(logits[order[i]] - logits[order[0]])) / sum);
    text += (i ? ", " : "") + classes[order[i]] + share;
  }
  return text;
}

// The image as a batch of one, as evaluation sees it.
Tensor upload(Tape& tape, const Image& image, const SavedModel& saved, const Trained& data) {
  const int size = saved.model->image_size(), channels = saved.model->channels();
  Image view = evaluation_view(image, size);
  if (channels == 1) {  // brightness, with the weights of ITU-R BT.601
    Image grey(size, size, 1);
    for (size_t i = 0; i < grey.pixels.size(); ++i) {
      const uint8_t* p = &view.pixels[3 * i];
      grey.pixels[i] = uint8_t(std::lround(0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]));
    }
    view = grey;
  }
  std::vector<float> numbers(size_t(size) * size_t(size) * size_t(channels));
  Normalise(channels, data.mean, data.std)(view, numbers.data());
  return tape.upload({1, size, size, channels}, DType::f32, numbers.data());
}

void predict(const PredictCommand& c) {
  const SavedModel saved = load_saved_model(c.weights, c.average, parse_device(c.device));
  require(!saved.model->language(), c.weights, " holds ", saved.model->spec().preset,
          ", which writes text; dyt sample asks it");
  const Trained data = trained_on(saved, c.weights);
  Tape tape(saved.parameters->device(), saved.parameters->dtype());
  tape.training = false;
  size_t left_out = 0;
  for (const std::string& file : c.files) {
    std::string why;
    const std::optional<Image> image = decode_image(file, why);
    if (!image) {
      require(!c.strict, "cannot decode ", file, ": ", why);
      std::cerr << "dyt: left out: " << file << ": " << why << "\n";
      ++left_out;
      continue;
    }
    tape.begin(0);
    const Tensor logits = saved.model->forward(tape, upload(tape, *image, saved, data));
    std::printf("%s: %s\n", file.c_str(),
                likeliest(host_floats(tape, logits), data.classes, c.top).c_str());
  }
  require(left_out < c.files.size(), "none of the ", c.files.size(), " files can be decoded");
  if (left_out > 0)
    std::cerr << "dyt: " << left_out << " of " << c.files.size() << " files left out\n";
}

}  // namespace

void add_predict(CLI::App& app) {
  const auto c = std::make_shared<PredictCommand>();
  CLI::App* to = app.add_subcommand("predict", "say what is on image files");
  to->add_option("CHECKPOINT", c->weights, "what dyt train --save wrote")->required();
  to->add_option("FILE", c->files, "images: JPEG, PNG, BMP")->required();
  to->add_option("--top", c->top, "classes to name")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  to->add_flag("--ema", c->average, "with the averaged weights");
  to->add_flag("--strict", c->strict, "an image that can't be decoded is an error");
  add_device_option(*to, c->device);
  to->callback([c] { predict(*c); });
}

}  // namespace dyt
