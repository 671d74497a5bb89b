// Parallel text: sentences and their translations.
//
//   sagas[:PAIRS]        sentences of the grammar's sagas and what they are in an invented language
//                        (datasets/saga_translation.h); built in
//   multi30k:DIR[:de-en] German and English captions of images (arXiv 1605.00459): DIR/train.de.gz,
//                        val.*, test_2016_flickr.*, as files or gzipped; de-en or en-de
//   parallel:A,B         two files of any two languages, line by line; the last tenth is cut in
//   two,
//                        for validation and test
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "datasets/bpe.h"
#include "datasets/saga_translation.h"

namespace dyt {

struct ParallelText {
  std::string name;  // of the file or folder, without what it is in, and the direction
  std::vector<SentencePair> train, val, test;
};

// Loads parallel text by name, as above. Error for an unknown name, a file that is missing, empty
// or spoiled, and two files of different numbers of lines.
ParallelText load_parallel(const std::string& spec);
bool names_parallel(const std::string& spec);  // by its beginning

// Tokens of a pair, each ending in BytePairs::end.
struct TokenPair {
  std::vector<int32_t> source, target;
};

// Pairs of at most `longest` tokens a side, `end` included; longer ones are left out.
std::vector<TokenPair> encode_pairs(std::span<const SentencePair> pairs, const BytePairs& words,
                                    int64_t longest);

// A batch: `rows` pairs, padded to the longest of either side. The decoder reads `target`, which is
// `begin` and all of a translation but its last token, and predicts `labels`, all of it; labels in
// the padding are -1.
struct PairBatch {
  int64_t rows = 0, source_tokens = 0, target_tokens = 0;  // longest of each side
  std::vector<int32_t> source, source_lengths, target, labels;
  int64_t words = 0;  // labels that count
};
PairBatch make_batch(std::span<const TokenPair> pairs, std::span<const int64_t> chosen);

// The pairs in batches of at most `tokens` tokens of either side, padding included, but at least
// one pair: pairs of about equal length come together.
std::vector<std::vector<int64_t>> batches_by_length(std::span<const TokenPair> pairs,
                                                    int64_t tokens);

// Which batch each step takes: every pass over them in another order, a function of the seed.
int64_t batch_of_step(int64_t batches, uint64_t seed, int64_t step);

}  // namespace dyt
