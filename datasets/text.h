// Text for language models: a sequence of tokens, cut into windows.
//
//   text:FILE                bytes of any file; the last tenth is for validation
//   tokens:FILE[,FILE]       token shards as llm.c writes them: train and validation, or one file
//                            whose last tenth is for validation
//   grammar[:BYTES]          an endless text of invented sagas, of which the entropy is known
#pragma once
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dyt {

struct TextDataset {
  std::string name;  // of the file, without its folder
  int vocabulary = 256;
  bool bytes = true;                           // a token is a byte; else one of `vocabulary` words
  std::vector<uint16_t> train = {}, val = {};  // tokens
  // Nats per token that are left to someone who knows the source and all that was written so far:
  // no model's loss can be lower. NaN where it isn't known.
  double entropy_rate = std::nan("");
};

// Loads a text by name, as above. `vocabulary` is that of the model which is to read a token shard;
// 0: GPT-2's, 50257. Error for an unknown name, a file that is missing, empty or no shard, and a
// token that is not in the vocabulary.
TextDataset load_text(const std::string& spec, int vocabulary = 0);

// Is it the name of a text, by its beginning: "text:", "tokens:", "grammar"?
bool names_text(const std::string& spec);

// Error unless both splits are longer than a context: `context` tokens and the one that follows.
void require_context(const TextDataset& text, int64_t context);

// Where a training step's windows begin: `count` random places, a function of (seed, step).
std::vector<int64_t> random_windows(int64_t tokens, int64_t context, int64_t count, uint64_t seed,
                                    uint64_t step);
// Where validation's begin: up to `count` windows that don't overlap, spread evenly over the split;
// 0: all there are. At least one.
std::vector<int64_t> even_windows(int64_t tokens, int64_t context, int64_t count);

// tokens and labels (windows, context): labels are the tokens one place on.
void fill_windows(const std::vector<uint16_t>& text, std::span<const int64_t> begins,
                  int64_t context, int32_t* tokens, int32_t* labels);

// --- The grammar ---------------------------------------------------------------------------------
// A saga presents its heroes and where each of them lives, tells what they did to each other, with
// quotations inside quotations, and closes with the name of its first hero:
//
//     saga of koba, mire and tulo. koba is of dorn, mire is of elt, tulo is of dorn.
//     mire sees tulo. koba says (tulo says [mire of elt has 7 axes.].). tulo of dorn helps koba.
//     end of koba.
//
// What makes a reader with a long memory better than one with a short one: names come back many
// sentences later, homes are told once, brackets close in the order they were opened, and the last
// line repeats the first name. Every choice can be read off the text as soon as it is made, so the
// entropy of a saga is the sum of the entropies of its choices, and as sagas follow each other
// independently, the entropy rate is the mean entropy of a saga over its mean length, both exact.
class Grammar {
 public:
  explicit Grammar(uint64_t seed);
  // The next saga. surprise, if given, is increased by -log of its probability, in nats.
  std::string saga(double* surprise = nullptr);
  static double entropy_rate();  // nats per byte

 private:
  struct Writer;
  uint64_t seed_, sagas_ = 0;
};

}  // namespace dyt
