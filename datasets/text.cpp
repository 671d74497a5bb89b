#include "datasets/text.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/philox.h"

namespace dyt {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t window_stream = uint64_t('W') << 56;  // of a seed; as datasets/images.cpp

std::vector<char> read_file(const std::string& path) {
  std::error_code error;
  require(!fs::is_directory(path, error), path, " is a folder: expected a file");
  std::ifstream in(path, std::ios::binary);
  require(bool(in), "cannot read ", path, ": ", std::generic_category().message(errno));
  std::vector<char> bytes;
  do {  // piece by piece: of a pipe one can't know how long it is
    constexpr size_t piece = size_t(1) << 20;
    const size_t before = bytes.size();
    bytes.resize(before + piece);
    in.read(bytes.data() + before, std::streamsize(piece));
    bytes.resize(before + size_t(in.gcount()));
  } while (in);
  require(in.eof(), "cannot read ", path, ": got ", bytes.size(), " bytes");
  require(!bytes.empty(), path, " is empty");
  return bytes;
}

// The last tenth is for validation.
void split(TextDataset& text, std::vector<uint16_t> all) {
  const auto cut = all.end() - std::ptrdiff_t(all.size() / 10);
  text.val.assign(cut, all.end());
  all.erase(cut, all.end());
  text.train = std::move(all);
}

TextDataset load_bytes(const std::string& path) {
  const std::vector<char> bytes = read_file(path);
  std::vector<uint16_t> tokens(bytes.size());
  std::transform(bytes.begin(), bytes.end(), tokens.begin(), [](char c) { return uint8_t(c); });
  TextDataset text{.name = fs::path(path).filename().string()};
  split(text, std::move(tokens));
  return text;
}

uint32_t little_endian(const char* bytes, int count) {
  uint32_t value = 0;
  for (int i = count; i-- > 0;) value = value << 8 | uint8_t(bytes[i]);
  return value;
}

// The format of llm.c (dev/data/data_common.py): 256 int32, of which the first three are a magic
// number, a version and the number of tokens; then the tokens, uint16. All little-endian.
std::vector<uint16_t> read_shard(const std::string& path, int vocabulary) {
  constexpr size_t header = 1024;
  constexpr uint32_t gpt2_magic = 20240520, llama3_magic = 20240801;
  const std::vector<char> bytes = read_file(path);
  require(bytes.size() >= header, path, " is ", bytes.size(), " bytes long, less than the ", header,
          " of a token shard's header");
  const uint32_t magic = little_endian(&bytes[0], 4), version = little_endian(&bytes[4], 4);
  const uint64_t count = little_endian(&bytes[8], 4);
  require(magic != llama3_magic, path,
          " holds LLaMA-3 tokens of 32 bits; supported are GPT-2's of 16");
  require(magic == gpt2_magic, path, " is no token shard: it begins with ", magic, " instead of ",
          gpt2_magic);
  require(version == 1, path, " is a token shard of version ", version, "; supported is 1");
  require(bytes.size() == header + 2 * count, path, " should hold ", count, " tokens in ",
          header + 2 * count, " bytes, but is ", bytes.size(),
          " bytes long: it is cut off or corrupt");
  std::vector<uint16_t> tokens(count);
  for (size_t i = 0; i < count; ++i) {
    tokens[i] = uint16_t(little_endian(&bytes[header + 2 * i], 2));
    require(tokens[i] < vocabulary, path, ": token ", i, " (counted from 0) is ", tokens[i],
            ", but the vocabulary has ", vocabulary, " words, 0 to ", vocabulary - 1);
  }
  require(count > 0, path, " holds no tokens");
  return tokens;
}

TextDataset load_tokens(const std::string& paths, int vocabulary) {
  const size_t comma = paths.find(',');
  TextDataset text{.name = fs::path(paths.substr(0, comma)).filename().string(),
                   .vocabulary = vocabulary ? vocabulary : 50257,
                   .bytes = false};
  if (comma == std::string::npos) {
    split(text, read_shard(paths, text.vocabulary));
  } else {
    text.train = read_shard(paths.substr(0, comma), text.vocabulary);
    text.val = read_shard(paths.substr(comma + 1), text.vocabulary);
  }
  return text;
}

std::vector<uint16_t> sagas(uint64_t seed, size_t bytes) {
  Grammar grammar(seed);
  std::string text;
  while (text.size() < bytes) text += grammar.saga();
  return {text.begin(), text.begin() + std::ptrdiff_t(bytes)};
}

TextDataset load_grammar(const std::string& size) {
  size_t bytes = 1000000;
  if (!size.empty()) {
    const char* const end = size.data() + size.size();
    const auto [at, error] = std::from_chars(size.data(), end, bytes);
    require(error == std::errc() && at == end && bytes > 0 && bytes <= (size_t(1) << 32),
            "grammar:BYTES needs a number of bytes up to 2^32, not \"", size, "\"");
  }
  return {.name = "grammar",
          .train = sagas(1, bytes),
          .val = sagas(2, std::max<size_t>(1, bytes / 10)),
          .entropy_rate = Grammar::entropy_rate()};
}

}  // namespace

TextDataset load_text(const std::string& spec, int vocabulary) {
  require(vocabulary >= 0 && vocabulary <= 65536, "a vocabulary of ", vocabulary,
          " words: up to 65536 are supported");
  const size_t colon = spec.find(':');
  const std::string kind = spec.substr(0, colon);
  const std::string rest = colon == std::string::npos ? "" : spec.substr(colon + 1);
  if (kind == "text" && !rest.empty()) return load_bytes(rest);
  if (kind == "tokens" && !rest.empty()) return load_tokens(rest, vocabulary);
  if (kind == "grammar" && (colon == std::string::npos || !rest.empty())) return load_grammar(rest);
  fail("unknown text \"", spec, "\": expected \"text:FILE\", \"tokens:FILE\" (llm.c's shards), ",
       "\"grammar\" or \"grammar:BYTES\"");
}

bool names_text(const std::string& spec) {
  const std::string kind = spec.substr(0, spec.find(':'));
  return kind == "text" || kind == "tokens" || kind == "grammar";
}

void require_context(const TextDataset& text, int64_t context) {
  const char* const unit = text.bytes ? " bytes" : " tokens";
  for (const bool training : {true, false}) {
    const size_t tokens = (training ? text.train : text.val).size();
    require(int64_t(tokens) > context, text.name, " is too short: its ",
            training ? "training" : "validation", " part has ", tokens, unit, ", and a context of ",
            context, " needs at least ", context + 1, "; use a longer text or a smaller context");
  }
}

std::vector<int64_t> random_windows(int64_t tokens, int64_t context, int64_t count, uint64_t seed,
                                    uint64_t step) {
  require(tokens > context && tokens < (int64_t(1) << 32), "no windows of ", context + 1,
          " tokens in a text of ", tokens);
  std::vector<int64_t> begins(static_cast<size_t>(count));
  for (size_t i = 0; i < begins.size(); ++i) {
    const uint64_t bits = philox(seed, i, window_stream | step).x[0];
    begins[i] = int64_t(bits * uint64_t(tokens - context) >> 32);
  }
  return begins;
}

std::vector<int64_t> even_windows(int64_t tokens, int64_t context, int64_t count) {
  require(tokens > context, "no windows of ", context + 1, " tokens in a text of ", tokens);
  const int64_t available = (tokens - 1) / context;
  if (count <= 0 || count > available) count = available;
  std::vector<int64_t> begins(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) begins[size_t(i)] = i * available / count * context;
  return begins;
}

void fill_windows(const std::vector<uint16_t>& text, std::span<const int64_t> begins,
                  int64_t context, int32_t* tokens, int32_t* labels) {
  for (const int64_t begin : begins) {
    require(begin >= 0 && begin + context < int64_t(text.size()), "a window of ", context + 1,
            " tokens from ", begin, " is not in a text of ", text.size());
    const auto first = text.begin() + begin;
    tokens = std::copy_n(first, context, tokens);
    labels = std::copy_n(first + 1, context, labels);
  }
}

// --- The grammar ---------------------------------------------------------------------------------

namespace {

// A choice among words, word i with probability share[i] / sum of shares.
struct Choice {
  std::vector<std::string> words;
  std::vector<double> shares;  // empty: all alike

  double probability(size_t i) const {
    if (shares.empty()) return 1 / double(words.size());
    double sum = 0;
    for (double s : shares) sum += s;
    return shares[i] / sum;
  }
  double entropy() const {
    double h = 0;
    for (size_t i = 0; i < words.size(); ++i) h -= probability(i) * std::log(probability(i));
    return h;
  }
  double mean_length() const {
    double length = 0;
    for (size_t i = 0; i < words.size(); ++i) length += probability(i) * double(words[i].size());
    return length;
  }
};

// The numbers and words of the grammar.
const Choice homes{{"arn", "belm", "cask", "dorn", "elt", "fenn", "grue", "holm"}, {}};
const Choice verbs{{"sees", "helps", "fears", "follows", "trusts", "finds"}, {6, 5, 4, 3, 2, 1}};
const Choice things{{"axes", "boats", "coins", "dogs", "ewes", "fish"}, {}};
const Choice digits{{"2", "3", "4", "5", "6", "7", "8", "9"}, {}};
const Choice brackets{{"(", "[", "{"}, {}};
const Choice kinds{{"act", "own", "say"}, {3, 1, 1}};  // of sentences
const Choice numbers_of_heroes{{"2", "3", "4"}, {3, 2, 1}};
constexpr double tells_home = 0.3;  // probability that a name is followed by its home
constexpr double goes_on = 0.8;     // probability of another sentence
const std::string consonants = "bdfgklmnrstv", vowels = "aeiou";
constexpr int64_t possible_names = 12 * 5 * 12 * 5;
constexpr size_t name_length = 4;

char closing(char opening) { return opening == '(' ? ')' : opening == '[' ? ']' : '}'; }

double coin_entropy(double p) { return -p * std::log(p) - (1 - p) * std::log(1 - p); }

}  // namespace

// Writes a saga, choice by choice, and adds up how surprising each was.
struct Grammar::Writer {
  RandomSequence random;
  std::string text;
  double surprise = 0;
  std::vector<std::string> heroes, home_of;

  size_t choose(const Choice& choice) {
    double u = double(random.uniform());
    size_t i = 0;
    while (i + 1 < choice.words.size() && u >= choice.probability(i)) u -= choice.probability(i++);
    surprise -= std::log(choice.probability(i));
    return i;
  }
  const std::string& word(const Choice& choice) { return choice.words[choose(choice)]; }
  bool coin(double p) {
    const bool heads = double(random.uniform()) < p;
    surprise -= std::log(heads ? p : 1 - p);
    return heads;
  }
  size_t below(size_t n) {
    surprise += std::log(double(n));
    return random.below(uint32_t(n));
  }

  // A name that no other hero has.
  std::string new_name() {
    surprise += std::log(double(possible_names - int64_t(heroes.size())));
    std::string name;
    do {
      name.clear();
      while (name.size() < name_length) {
        name += consonants[random.below(uint32_t(consonants.size()))];
        name += vowels[random.below(uint32_t(vowels.size()))];
      }
    } while (std::find(heroes.begin(), heroes.end(), name) != heroes.end());
    return name;
  }

  void hero(size_t i) {
    text += heroes[i];
    if (coin(tells_home)) text += " of " + home_of[i];
  }

  void sentence() {
    const size_t subject = below(heroes.size());
    hero(subject);
    const std::string& kind = word(kinds);
    if (kind == "act") {
      text += " " + word(verbs) + " ";
      const size_t other = below(heroes.size() - 1);
      hero(other < subject ? other : other + 1);
    } else if (kind == "own") {
      text += " has " + word(digits);
      text += " " + word(things);
    } else {
      const char bracket = word(brackets)[0];
      text += std::string(" says ") + bracket;
      sentence();
      text += std::string(".") + closing(bracket);
    }
  }

  void saga() {
    const size_t count = 2 + choose(numbers_of_heroes);
    text = "saga of ";
    for (size_t i = 0; i < count; ++i) {
      heroes.push_back(new_name());
      text += (i == 0 ? "" : i + 1 < count ? ", " : " and ") + heroes[i];
    }
    text += ".";
    for (size_t i = 0; i < count; ++i) {
      home_of.push_back(word(homes));
      text += " " + heroes[i] + " is of " + home_of[i] + (i + 1 < count ? "," : ".");
    }
    text += "\n";
    for (bool more = true; more;) {
      sentence();
      more = coin(goes_on);
      text += more ? ". " : ".\n";
    }
    text += "end of " + heroes[0] + ".\n\n";
  }
};

Grammar::Grammar(uint64_t seed) : seed_(seed) {}

std::string Grammar::saga(double* surprise) {
  Writer writer{RandomSequence(seed_, (uint64_t('G') << 56) | sagas_++), {}, 0, {}, {}};
  writer.saga();
  if (surprise) *surprise += writer.surprise;
  return writer.text;
}

// Mean entropy (nats) and mean length (bytes) of each part of a saga, as Writer writes it.
double Grammar::entropy_rate() {
  double saga_entropy = numbers_of_heroes.entropy(), saga_length = 0;
  const double home_length = homes.mean_length();
  const double act = kinds.probability(0), own = kinds.probability(1), say = kinds.probability(2);
  const double hero_entropy = coin_entropy(tells_home);
  const double hero_length = name_length + tells_home * (4 + home_length);  // " of "
  for (size_t i = 0; i < numbers_of_heroes.words.size(); ++i) {
    const double p = numbers_of_heroes.probability(i), count = 2 + double(i);
    // What a sentence has besides a quoted one; a sentence quotes one with probability `say`, so
    // that its entropy h solves h = own_part + say h.
    const double sentence_entropy =
        (std::log(count) + hero_entropy + kinds.entropy() +
         act * (verbs.entropy() + std::log(count - 1) + hero_entropy) +
         own * (digits.entropy() + things.entropy()) + say * brackets.entropy()) /
        (1 - say);
    const double sentence_length =
        (hero_length + act * (2 + verbs.mean_length() + hero_length) +
         own * (5 + 1 + 1 + things.mean_length()) +  // " has ", a digit, a space
         say * (6 + 1 + 1 + 1)) /                    // " says ", two brackets, a stop
        (1 - say);
    const double sentences = 1 / (1 - goes_on);
    double entropy =
        count * homes.entropy() + sentences * (sentence_entropy + coin_entropy(goes_on));
    for (int n = 0; n < int(count); ++n) entropy += std::log(double(possible_names - n));
    const double title = 8 + count * name_length + (count - 2) * 2 + 5 + 1;
    const double who = count * (1 + name_length + 7 + home_length + 1) + 1;  // " is of "
    const double story = sentences * (sentence_length + 2);                  // ". " or ".\n"
    const double end = 7 + name_length + 3;
    saga_entropy += p * entropy;
    saga_length += p * (title + who + story + end);
  }
  return saga_entropy / saga_length;
}

}  // namespace dyt
