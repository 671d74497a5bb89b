// Training a Transformer to translate, and translating with it.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "datasets/parallel.h"
#include "models/transformer.h"
#include "training/beam_search.h"
#include "training/trainer.h"

namespace dyt {

// Parallel text in tokens of one vocabulary for both languages.
struct TranslationTask {
  std::string name;
  BytePairs words;  // learned from both sides of the training text
  std::vector<TokenPair> train, val;
  std::vector<SentencePair> test;
};

// Of the test pairs at most `test_pairs` are kept, the first ones; 0: all. Pairs longer than
// `longest` tokens are left out of training and validation, and their sources cut in the test.
TranslationTask make_translation_task(const ParallelText& text, int vocabulary, int64_t longest,
                                      int64_t test_pairs = 0);

// Trains the model's parameters (allocated). options.batch counts tokens: of a batch's longer side,
// padding included. Losses on unseen data are nats per token, not smoothed. Error if a pair is
// longer than the model's context, or as Trainer.
TrainResult train_translation(const Transformer& model, Parameters& parameters,
                              const TranslationTask& task, const TrainOptions& options,
                              const ShowProgress& show = nullptr);

// Mean loss over all of these pairs, nats per token, with the tape's training flag off meanwhile.
double evaluate_translation(const Transformer& model, Tape& tape, std::span<const TokenPair> pairs,
                            int64_t batch_tokens);

// Translations of texts, in their order; each of at most twice as many tokens as the text, and 10
// more. Texts longer than the model's context are cut.
std::vector<std::string> translate(const Transformer& model, const Parameters& parameters,
                                   const BytePairs& words, std::span<const std::string> texts,
                                   const BeamOptions& options = {});

}  // namespace dyt
