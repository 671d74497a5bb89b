// Sentences of the grammar's sagas (datasets/text.h) in an invented language: a translation task
// that needs no files, and has one right answer.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace dyt {

struct SentencePair {
  std::string source, target;
  bool operator==(const SentencePair&) const = default;
};

// What a sentence is in the invented language:
//   - names and places are spelt with other letters, each always with the same;
//   - verbs, things and numbers have words of their own;
//   - a place stands before the one who lives there, a number behind what it counts, and a verb at
//     the end of what it governs, however long that is;
//   - a verb ends in the last letter of its subject's name.
//
//     koba of dorn says (tulo has 7 axes.).   ->   gutq mude (wanu xis sefin panu.) nulse.
//
// To the one who knows both languages every word of one is given by the other. Error, naming the
// place, for what is no sentence of a saga.
std::string translate_saga(const std::string& sentence);

// The first `count` sentences of a seed's sagas with their translations.
std::vector<SentencePair> saga_pairs(uint64_t seed, size_t count);

}  // namespace dyt
