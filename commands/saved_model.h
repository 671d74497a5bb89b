// A model read back from a checkpoint of `dyt train --save`.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "models/model.h"

namespace dyt {

struct SavedModel {
  std::unique_ptr<Parameters> parameters;
  std::unique_ptr<Model> model;
  std::map<std::string, std::string> metadata;
};

// With the weights, or with their average. Error if the file doesn't say what model it is of, as
// weights from elsewhere don't.
SavedModel load_saved_model(const std::filesystem::path& file, bool average, Device device);

}  // namespace dyt
