#include <cstdio>
#include <memory>

#include "commands/commands.h"
#include "commands/saved_model.h"
#include "models/weights.h"

namespace dyt {

// A checkpoint without what only going on needs: what timm's and Hugging Face's loaders take.
void add_export(CLI::App& app) {
  struct Export {
    std::string from, to;
    bool average = false;
  };
  const auto c = std::make_shared<Export>();
  CLI::App* to =
      app.add_subcommand("export", "a checkpoint's weights alone, for timm or Hugging Face");
  to->add_option("CHECKPOINT", c->from, "what dyt train --save wrote")->required();
  to->add_option("WEIGHTS", c->to, "the safetensors file to write")->required();
  to->add_flag("--ema", c->average, "the averaged weights");
  to->callback([c] {
    require_two_files(c->from, c->to);
    const SavedModel saved = load_saved_model(c->from, c->average, Device::cpu);
    TensorFile file;
    file.metadata = saved.metadata;
    for (const char* key : {"dyt.run", "dyt.state"}) file.metadata.erase(key);
    write_weights(*saved.model, *saved.parameters, file);
    write_safetensors(c->to, file);
    std::printf("Written: %s, %zu tensors of %s\n", c->to.c_str(), file.tensors.size(),
                saved.model->spec().preset.c_str());
  });
}

}  // namespace dyt
