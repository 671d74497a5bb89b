// A vocabulary of byte pairs ("Neural Machine Translation of Rare Words with Subword Units", arXiv
// 1508.07909), learned from a text: it starts with the 256 bytes, and again and again the pair of
// neighbours that occurs most often becomes a new word. So any text can be written in it, and
// common words are one token.
//
// A text is cut into pieces first, and no token reaches over a piece's end: runs of letters and
// digits (every byte of UTF-8 beyond ASCII counts as a letter), each with the space before it, and
// single other characters. A space is put before the text, so that its first word is the same as
// in the middle of another; decode() takes it away.
//
// Tokens: 0 `begin`, 1 `end` (of a text), then the 256 bytes, then the merged pairs, in order.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dyt {

class BytePairs {
 public:
  static constexpr int32_t begin = 0, end = 1;
  static constexpr int first_byte = 2, first_pair = first_byte + 256;
  using Pair = std::pair<int32_t, int32_t>;

  BytePairs() = default;
  // Learns at most `vocabulary` tokens from texts; fewer if no pair occurs twice any more. Of pairs
  // that occur equally often the smaller comes first, so the result is the same everywhere. Error
  // for a vocabulary smaller than the bytes'.
  static BytePairs learn(std::span<const std::string> texts, int vocabulary);

  int vocabulary() const { return first_pair + int(pairs_.size()); }
  const std::vector<Pair>& pairs() const { return pairs_; }

  // Without begin and end. Among the pairs in a piece, the one learned first is merged first.
  std::vector<int32_t> encode(const std::string& text) const;
  // begin and end are left out. Error for a token that is not in the vocabulary.
  std::string decode(std::span<const int32_t> tokens) const;

  // As text: a line per pair, two tokens. Error for a file that can't be written, or read, or is no
  // such vocabulary.
  void save(const std::filesystem::path& path) const;
  static BytePairs load(const std::filesystem::path& path);

 private:
  struct Learner;
  void add(Pair pair);
  std::vector<int32_t> encode_piece(std::string_view piece) const;

  std::vector<Pair> pairs_;           // pair i is token first_pair + i
  std::vector<std::string> strings_;  // of every token
  std::map<Pair, int32_t> token_of_;
};

// The pieces of a text, in order; all of them together are the text.
std::vector<std::string_view> pieces_of(std::string_view text);

}  // namespace dyt
