#include "commands/saved_model.h"

#include <algorithm>

#include "models/weights.h"

namespace dyt {

SavedModel load_saved_model(const std::filesystem::path& path, bool average, Device device) {
  const TensorFile file = read_safetensors(path);
  const auto described = file.metadata.find("dyt.model");
  require(
      described != file.metadata.end(), file.source,
      " doesn't say what model it is of, as what dyt train --save writes does; dyt forward takes "
      "weights of any origin");
  require(!average || std::any_of(file.tensors.begin(), file.tensors.end(),
                                  [](const auto& t) { return t.first.starts_with("ema."); }),
          file.source, " holds no averaged weights");
  SavedModel saved{
      .parameters = std::make_unique<Parameters>(), .model = {}, .metadata = file.metadata};
  saved.model = std::make_unique<Model>(model_spec_from_json(described->second), *saved.parameters);
  saved.parameters->allocate(device, default_dtype(device), 0);
  read_weights(*saved.model, *saved.parameters, file, average ? "ema." : "");
  return saved;
}

}  // namespace dyt
