// BLEU ("BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002): how many of
// the n-grams of translations, n = 1 to 4, stand in the reference translations too. As sacrebleu
// (arXiv 1804.08771) computes it by default, so that numbers can be compared: of a whole corpus,
// one reference each, upper and lower case differ, tokens cut as mteval-v13a does.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dyt {

struct Bleu {
  double score = 0;            // 0 to 100
  double precisions[4] = {};   // of 1-grams to 4-grams, in per cent
  double brevity_penalty = 0;  // 1, or exp(1 - references' length / translations' length)
  int64_t length = 0, reference_length = 0;  // tokens
};

// With p_n the share of the translations' n-grams that are in the references (each n-gram as often
// as there): BLEU = 100 brevity_penalty (p_1 p_2 p_3 p_4)^(1/4). A p_n without any match counts as
// 1 / (2^k of n-grams), the k-th such n ("exponential smoothing"). Error if the numbers of texts
// differ or there are none.
Bleu bleu(std::span<const std::string> translations, std::span<const std::string> references);

// The tokens of mteval-v13a: punctuation stands alone, but for . and , between digits.
std::vector<std::string> bleu_tokens(const std::string& text);

}  // namespace dyt
