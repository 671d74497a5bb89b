// Beam search: the most probable translations, as far as they can be found by always keeping the
// few best beginnings.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace dyt {

struct BeamOptions {
  int beams = 4;  // beginnings kept of every text; 1: greedy, always the likeliest token
  // A translation of n tokens is worth log P / ((5 + n) / 6)^length_penalty (arXiv 1609.08144,
  // equation 14): 0 prefers short ones. 4 and 0.6 are those of arXiv 1706.03762, section 6.1.
  double length_penalty = 0.6;
};

// Logits of what follows, (texts * beams, vocabulary): row n = text * beams + beam goes on from
// what row parents[n] was in the call before, with tokens[n]. In the first call, parents[n] is n.
using NextLogits = std::function<std::vector<float>(const std::vector<int32_t>& tokens,
                                                    const std::vector<int32_t>& parents)>;

// A translation for each text, from `begin` to the token before `end`; of at most longest[i]
// tokens, `end` included. Where none has come to its end by then, the best beginning.
std::vector<std::vector<int32_t>> beam_search(std::span<const int64_t> longest, int vocabulary,
                                              int32_t begin, int32_t end,
                                              const BeamOptions& options, const NextLogits& next);

}  // namespace dyt
