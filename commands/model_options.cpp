#include "commands/model_options.h"

#include <algorithm>
#include <type_traits>

namespace dyt {

void add_model_options(CLI::App& to, ModelSpec& spec) {
  to.add_option("MODEL", spec.preset, "preset")->required();
  visit_fields(spec, [&](const std::string& field, auto& value) {
    std::string name = "--" + field;
    std::replace(name.begin(), name.end(), '_', '-');
    using Value = std::decay_t<decltype(*value)>;
    if constexpr (std::is_same_v<Value, NormKind>) {
      to.add_option_function<std::string>(
          name, [&value](const std::string& s) { value = parse_norm(s); });
    } else if constexpr (std::is_same_v<Value, Placement>) {
      to.add_option_function<std::string>(
          "--norm-placement", [&value](const std::string& s) { value = parse_placement(s); });
    } else if constexpr (std::is_same_v<Value, bool>) {
      to.add_flag_function(name, [&value](int64_t n) { value = n > 0; });
    } else {
      to.add_option(name, value);
    }
  });
}

}  // namespace dyt
