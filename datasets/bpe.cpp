#include "datasets/bpe.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <set>

#include "core/error.h"

namespace dyt {
namespace {

bool is_letter(char c) {
  const auto b = static_cast<unsigned char>(c);
  return b >= 0x80 || (b >= '0' && b <= '9') || (b >= 'A' && b <= 'Z') || (b >= 'a' && b <= 'z');
}

std::vector<int32_t> bytes_of(std::string_view piece) {
  std::vector<int32_t> tokens;
  for (const char c : piece)
    tokens.push_back(BytePairs::first_byte + static_cast<unsigned char>(c));
  return tokens;
}

// Every `pair` in a word becomes `token`.
void merge(std::vector<int32_t>& word, BytePairs::Pair pair, int32_t token) {
  size_t to = 0;
  for (size_t i = 0; i < word.size(); ++to) {
    const bool here = i + 1 < word.size() && word[i] == pair.first && word[i + 1] == pair.second;
    word[to] = here ? token : word[i];
    i += here ? 2 : 1;
  }
  word.resize(to);
}

}  // namespace

std::vector<std::string_view> pieces_of(std::string_view text) {
  std::vector<std::string_view> pieces;
  for (size_t i = 0; i < text.size();) {
    size_t end = i + (text[i] == ' ');
    if (end < text.size() && is_letter(text[end])) {
      while (end < text.size() && is_letter(text[end])) ++end;
    } else if (end < text.size() && text[end] != ' ') {
      ++end;  // one other character, with its space
    }
    pieces.push_back(text.substr(i, end - i));
    i = end;
  }
  return pieces;
}

void BytePairs::add(Pair pair) {
  if (strings_.empty()) {
    strings_ = {"", ""};
    for (int b = 0; b < 256; ++b) strings_.push_back(std::string(1, char(b)));
  }
  token_of_[pair] = vocabulary();
  strings_.push_back(strings_[size_t(pair.first)] + strings_[size_t(pair.second)]);
  pairs_.push_back(pair);
}

// The pieces of the texts, each once with how often it occurs; how often each pair does; and in
// which pieces: so that a merge looks at those only.
struct BytePairs::Learner {
  struct Word {
    std::vector<int32_t> tokens;
    int64_t count;
  };
  std::vector<Word> words;
  std::map<Pair, int64_t> counts;
  std::map<Pair, std::set<size_t>> places;
  std::set<std::pair<int64_t, Pair>> order;  // (-count, pair): the next to merge comes first

  explicit Learner(std::span<const std::string> texts) {
    std::map<std::string, int64_t, std::less<>> pieces;
    for (const std::string& text : texts) {
      const std::string with_space = " " + text;
      for (const std::string_view piece : pieces_of(with_space)) ++pieces[std::string(piece)];
    }
    for (const auto& [piece, count] : pieces) words.push_back({bytes_of(piece), count});
    for (size_t w = 0; w < words.size(); ++w) count_pairs(w, 1);
  }

  void change(Pair pair, int64_t by) {
    int64_t& count = counts[pair];
    if (count > 0) order.erase({-count, pair});
    count += by;
    if (count > 0) order.insert({-count, pair});
  }
  // Adds the pairs of a word to the counts, or with sign -1 takes them away.
  void count_pairs(size_t w, int64_t sign) {
    const Word& word = words[w];
    for (size_t i = 0; i + 1 < word.tokens.size(); ++i) {
      const Pair pair{word.tokens[i], word.tokens[i + 1]};
      change(pair, sign * word.count);
      if (sign > 0) places[pair].insert(w);
    }
  }
  void merge_everywhere(Pair pair, int32_t token) {
    const std::set<size_t> where = std::move(places[pair]);
    places.erase(pair);
    for (const size_t w : where) {
      count_pairs(w, -1);
      merge(words[w].tokens, pair, token);
      count_pairs(w, 1);
    }
  }
};

BytePairs BytePairs::learn(std::span<const std::string> texts, int vocabulary) {
  require(vocabulary >= first_pair && vocabulary <= 65536, "a vocabulary of byte pairs has ",
          first_pair, " to 65536 tokens, not ", vocabulary);
  Learner learner(texts);
  BytePairs result;
  while (result.vocabulary() < vocabulary && !learner.order.empty()) {
    const auto [count, pair] = *learner.order.begin();
    if (-count < 2) break;
    learner.merge_everywhere(pair, result.vocabulary());
    result.add(pair);
  }
  return result;
}

std::vector<int32_t> BytePairs::encode_piece(std::string_view piece) const {
  std::vector<int32_t> word = bytes_of(piece);
  for (;;) {
    int32_t first = std::numeric_limits<int32_t>::max();
    Pair best;
    for (size_t i = 0; i + 1 < word.size(); ++i) {
      const auto found = token_of_.find({word[i], word[i + 1]});
      if (found != token_of_.end() && found->second < first) {
        first = found->second, best = found->first;
      }
    }
    if (first == std::numeric_limits<int32_t>::max()) return word;
    merge(word, best, first);
  }
}

std::vector<int32_t> BytePairs::encode(const std::string& text) const {
  const std::string with_space = " " + text;
  std::vector<int32_t> tokens;
  for (const std::string_view piece : pieces_of(with_space)) {
    const std::vector<int32_t> word = encode_piece(piece);
    tokens.insert(tokens.end(), word.begin(), word.end());
  }
  return tokens;
}

std::string BytePairs::decode(std::span<const int32_t> tokens) const {
  std::string text;
  for (const int32_t token : tokens) {
    require(token >= 0 && token < vocabulary(), "token ", token, " is not in a vocabulary of ",
            vocabulary());
    if (token >= first_pair) {
      text += strings_[size_t(token)];
    } else if (token >= first_byte) {
      text += char(token - first_byte);
    }
  }
  return text.starts_with(' ') ? text.substr(1) : text;
}

namespace {
constexpr const char* heading = "dyt byte pairs 1";
}

void BytePairs::save(const std::filesystem::path& path) const {
  std::ofstream out(path);
  out << heading << "\n";
  for (const auto& [a, b] : pairs_) out << a << " " << b << "\n";
  require(bool(out.flush()), "cannot write ", path.string(), ": ", std::strerror(errno));
}

BytePairs BytePairs::load(const std::filesystem::path& path) {
  std::ifstream in(path);
  require(bool(in), "cannot read ", path.string(), ": ", std::strerror(errno));
  std::string line;
  require(std::getline(in, line) && line == heading, path.string(),
          " is no vocabulary of byte pairs: it does not begin with \"", heading, "\"");
  BytePairs result;
  Pair pair;
  while (in >> pair.first >> pair.second) {
    const auto known = [&](int32_t token) {
      return token >= first_byte && token < result.vocabulary();
    };
    require(known(pair.first) && known(pair.second), path.string(), ": pair ", result.pairs_.size(),
            " joins tokens ", pair.first, " and ", pair.second,
            ", of which not both are there before it");
    result.add(pair);
  }
  require(in.eof(), path.string(), ": pair ", result.pairs_.size(), " is not two numbers");
  return result;
}

}  // namespace dyt
