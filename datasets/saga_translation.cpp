#include "datasets/saga_translation.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "datasets/text.h"

namespace dyt {
namespace {

const std::map<std::string, std::string> verbs = {
    {"sees", "nalt"},   {"helps", "birosk"}, {"fears", "umpel"}, {"follows", "tragin"},
    {"trusts", "seld"}, {"finds", "kir"},    {"has", "pan"},     {"says", "nuls"}};
const std::map<std::string, std::string> things = {{"axes", "xis"},   {"boats", "holmar"},
                                                   {"coins", "dent"}, {"dogs", "wufan"},
                                                   {"ewes", "bela"},  {"fish", "glup"}};
const std::map<std::string, std::string> numbers = {{"2", "dua"},  {"3", "tria"}, {"4", "kvar"},
                                                    {"5", "pent"}, {"6", "ses"},  {"7", "sefin"},
                                                    {"8", "okt"},  {"9", "nif"}};

// Every vowel becomes the next of its kind, every consonant the one after the next.
std::string respell(const std::string& name) {
  const auto turn = [](const std::string& letters, size_t by, char& c) {
    const size_t at = letters.find(c);
    if (at == letters.npos) return false;
    c = letters[(at + by) % letters.size()];
    return true;
  };
  std::string other = name;
  for (char& c : other) {
    if (!turn("aeiou", 1, c)) turn("bcdfghjklmnpqrstvwxyz", 2, c);
  }
  return other;
}

// Reads a sentence from left to right, and writes what it has read in the other order.
struct Translator {
  const std::string& text;
  size_t at = 0;

  void expect(bool good, const char* what) const {
    require(good, "\"", text, "\" is no sentence of a saga: ", what, " was expected at \"",
            text.substr(at), "\"");
  }
  bool take(const std::string& next) {
    if (text.compare(at, next.size(), next) != 0) return false;
    at += next.size();
    return true;
  }
  std::string word() {
    const size_t begin = at;
    while (at < text.size() && std::isalnum(static_cast<unsigned char>(text[at]))) ++at;
    expect(at > begin, "a word");
    return text.substr(begin, at - begin);
  }
  std::string word_of(const std::map<std::string, std::string>& words, const char* what) {
    const size_t begin = at;
    const auto found = words.find(word());
    if (found == words.end()) at = begin;
    expect(found != words.end(), what);
    return found->second;
  }

  // A name, and before it the place if it is told.
  struct Hero {
    std::string name, whole;
  };
  Hero hero() {
    const std::string name = respell(word());
    return {name, take(" of ") ? respell(word()) + " " + name : name};
  }

  std::string sentence() {
    const Hero subject = hero();
    expect(take(" "), "a space");
    const size_t verb_at = at;
    const std::string verb = word();
    at = verb_at;
    const std::string translated = word_of(verbs, "a verb") + subject.name.back();
    expect(take(" "), "a space");
    return subject.whole + " " + object_of(verb) + " " + translated;
  }
  std::string object_of(const std::string& verb) {
    if (verb == "says") {
      const char open = at < text.size() ? text[at] : ' ';
      expect(open == '(' || open == '[' || open == '{', "a bracket");
      const std::string close(1, open == '(' ? ')' : open == '[' ? ']' : '}');
      ++at;
      const std::string said = sentence();
      expect(take("." + close), "a full stop and the closing bracket");
      return open + said + "." + close;
    }
    if (verb != "has") return hero().whole;
    const std::string number = word_of(numbers, "a number");
    expect(take(" "), "a space");
    return word_of(things, "a thing") + " " + number;
  }
};

}  // namespace

std::string translate_saga(const std::string& sentence) {
  Translator translator{sentence};
  const std::string result = translator.sentence();
  translator.expect(translator.take(".") && translator.at == sentence.size(), "the last full stop");
  return result + ".";
}

// A saga's second line is its story, sentences with ". " between them; what is quoted has a bracket
// behind its full stop.
std::vector<SentencePair> saga_pairs(uint64_t seed, size_t count) {
  Grammar grammar(seed);
  std::vector<SentencePair> pairs;
  while (pairs.size() < count) {
    const std::string saga = grammar.saga();
    const size_t begin = saga.find('\n') + 1, end = saga.find('\n', begin);
    for (size_t at = begin; at < end && pairs.size() < count;) {
      const size_t stop = std::min(saga.find(". ", at), end - 1);
      const std::string sentence = saga.substr(at, stop + 1 - at);
      pairs.push_back({sentence, translate_saga(sentence)});
      at = stop + 2;
    }
  }
  return pairs;
}

}  // namespace dyt
