#include "datasets/masked_text.h"

#include "core/error.h"

namespace dyt {

int64_t hide_tokens(std::span<int32_t> tokens, std::span<int32_t> labels, int vocabulary,
                    RandomSequence& random, const Masking& masking) {
  require(labels.size() == tokens.size() && !tokens.empty(), "hide_tokens: ", labels.size(),
          " labels for ", tokens.size(), " tokens");
  require(masking.chosen > 0 && masking.chosen <= 1 && masking.masked >= 0 && masking.random >= 0 &&
              masking.masked + masking.random <= 1,
          "hide_tokens: the shares of chosen (", masking.chosen, "), masked (", masking.masked,
          ") and random tokens (", masking.random, ") are not shares");
  const auto hide = [&](size_t i) {
    labels[i] = tokens[i];
    const double u = double(random.uniform());
    if (u < masking.masked) {
      tokens[i] = vocabulary;
    } else if (u < masking.masked + masking.random) {
      tokens[i] = int32_t(random.below(uint32_t(vocabulary)));
    }
  };
  int64_t count = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    labels[i] = -1;
    if (double(random.uniform()) >= masking.chosen) continue;
    hide(i);
    ++count;
  }
  if (count > 0) return count;
  hide(random.below(uint32_t(tokens.size())));
  return 1;
}

}  // namespace dyt
