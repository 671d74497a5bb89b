#include "training/bleu.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"

namespace dyt {
namespace {

constexpr int longest = 4;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_stop(char c) { return c == '.' || c == ','; }
// ASCII punctuation but . , - and the apostrophe; and the space.
bool stands_alone(char c) {
  return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
         (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
}

// Spaces of Unicode beyond ASCII, in UTF-8.
const char* const wide_spaces[] = {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001",
                                   "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
                                   "\u2007", "\u2008", "\u2009", "\u200a", "\u2028",
                                   "\u2029", "\u202f", "\u205f", "\u3000"};

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

// A space round the second (or first) of two neighbours that `here` accepts, from left to right,
// where no character takes part in two pairs.
template <class Here>
std::string spaced(const std::string& text, bool second, const Here& here) {
  std::string out;
  size_t i = 0;
  while (i < text.size()) {
    if (i + 1 < text.size() && here(text[i], text[i + 1])) {
      if (second) {
        out += {text[i], ' ', text[i + 1], ' '};
      } else {
        out += {' ', text[i], ' ', text[i + 1]};
      }
      i += 2;
    } else {
      out += text[i++];
    }
  }
  return out;
}

// n-grams of one length and how often each occurs; words are joined by a space, which is in none.
std::map<std::string, int64_t> ngrams_of(const std::vector<std::string>& tokens, size_t n) {
  std::map<std::string, int64_t> counts;
  for (size_t first = 0; first + n <= tokens.size(); ++first) {
    std::string ngram;
    for (size_t i = 0; i < n; ++i) ngram += tokens[first + i] + ' ';
    ++counts[ngram];
  }
  return counts;
}

}  // namespace

std::vector<std::string> bleu_tokens(const std::string& text) {
  std::string line = text;
  replace_all(line, "<skipped>", "");
  replace_all(line, "-\n", "");
  replace_all(line, "\n", " ");
  replace_all(line, "&quot;", "\"");
  replace_all(line, "&amp;", "&");
  replace_all(line, "&lt;", "<");
  replace_all(line, "&gt;", ">");
  for (const char* space : wide_spaces) replace_all(line, space, " ");
  std::string alone;
  for (const char c : " " + line + " ") {
    if (stands_alone(c)) {
      alone += {' ', c, ' '};
    } else {
      alone += c;
    }
  }
  alone = spaced(alone, true, [](char a, char b) { return !is_digit(a) && is_stop(b); });
  alone = spaced(alone, false, [](char a, char b) { return is_stop(a) && !is_digit(b); });
  alone = spaced(alone, true, [](char a, char b) { return is_digit(a) && b == '-'; });
  std::vector<std::string> tokens(1);
  for (const char c : alone) {
    if (c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f)) {
      if (!tokens.back().empty()) tokens.emplace_back();
    } else {
      tokens.back() += c;
    }
  }
  if (tokens.back().empty()) tokens.pop_back();
  return tokens;
}

Bleu bleu(std::span<const std::string> translations, std::span<const std::string> references) {
  require(!translations.empty() && translations.size() == references.size(),
          "BLEU: ", translations.size(), " translations and ", references.size(),
          " references; every translation needs one");
  Bleu result;
  int64_t found[longest] = {}, all[longest] = {};
  for (size_t i = 0; i < translations.size(); ++i) {
    const std::vector<std::string> ours = bleu_tokens(translations[i]);
    const std::vector<std::string> theirs = bleu_tokens(references[i]);
    result.length += int64_t(ours.size()), result.reference_length += int64_t(theirs.size());
    for (int n = 0; n < longest; ++n) {
      const auto expected = ngrams_of(theirs, size_t(n + 1));
      for (const auto& [ngram, count] : ngrams_of(ours, size_t(n + 1))) {
        const auto there = expected.find(ngram);
        all[n] += count;
        if (there != expected.end()) found[n] += std::min(count, there->second);
      }
    }
  }
  const double ratio =
      double(result.reference_length) / double(std::max<int64_t>(1, result.length));
  result.brevity_penalty = ratio > 1 ? std::exp(1 - ratio) : 1;
  if (found[0] == 0) return result;
  double log_sum = 0, smoothing = 1;
  int lengths = 0;
  for (; lengths < longest && all[lengths] > 0; ++lengths) {
    if (found[lengths] == 0) smoothing *= 2;
    const double share = found[lengths] ? double(found[lengths]) : 1 / smoothing;
    result.precisions[lengths] = 100 * share / double(all[lengths]);
    log_sum += std::log(result.precisions[lengths]);
  }
  // Texts all shorter than four words have no 4-grams: nothing of that length is right.
  result.score = lengths < longest ? 0 : result.brevity_penalty * std::exp(log_sum / longest);
  return result;
}

}  // namespace dyt
