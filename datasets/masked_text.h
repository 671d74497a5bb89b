// The task of a masked language model (BERT, arXiv 1810.04805, section 3.1): to name tokens of a
// text that were hidden from it.
#pragma once
#include <cstdint>
#include <span>

#include "core/philox.h"

namespace dyt {

struct Masking {
  double chosen = 0.15;  // of all tokens, each by itself; the loss is over these
  double masked = 0.8;   // of the chosen ones: the mask takes their place
  double random = 0.1;   // of the chosen ones: any token of the vocabulary does; the others stay
};

// Hides some of `tokens` in their place. labels, as many: what stood at a chosen place, -1
// (ignored_label) elsewhere. The mask is the token `vocabulary`, one more than the text has. At
// least one token is chosen. Returns how many were.
int64_t hide_tokens(std::span<int32_t> tokens, std::span<int32_t> labels, int vocabulary,
                    RandomSequence& random, const Masking& masking = {});

}  // namespace dyt
