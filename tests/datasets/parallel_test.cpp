#include "datasets/parallel.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <set>

#include "tests/datasets/expect_error.h"
#include "tests/datasets/temporary_folder.h"

namespace dyt::test {
namespace {

TEST(SagaTranslation, FollowsItsRules) {
  EXPECT_EQ(translate_saga("koba of dorn says (tulo has 7 axes.)."),
            "gutq mude (wanu xis sefin panu.) nulse.");
  EXPECT_EQ(translate_saga("mire sees tulo."), "poti wanu nalti.");
  EXPECT_EQ(translate_saga("tulo of dorn helps koba of elt."), "gutq wanu inw mude birosku.");
  EXPECT_EQ(translate_saga("koba says {mire says [koba finds mire.].}."),
            "mude {poti [mude poti kire.] nulsi.} nulse.");
}

TEST(SagaTranslation, RefusesWhatIsNoSentence) {
  expect_error([] { translate_saga("koba eats tulo."); },
               {"a verb was expected at \"eats tulo.\""});
  expect_error([] { translate_saga("koba has 11 axes."); }, {"a number", "11 axes."});
  expect_error([] { translate_saga("koba says tulo."); }, {"a bracket"});
  expect_error([] { translate_saga("koba says (tulo sees mire.]."); }, {"closing bracket"});
  expect_error([] { translate_saga("koba sees tulo"); }, {"full stop"});
}

// One right answer, and the way back is one, too.
TEST(SagaTranslation, NoTwoSentencesHaveTheSameTranslation) {
  std::set<std::string> sources, targets;
  for (const SentencePair& pair : saga_pairs(7, 3000)) {
    EXPECT_EQ(translate_saga(pair.source), pair.target);
    sources.insert(pair.source);
    targets.insert(pair.target);
  }
  EXPECT_EQ(sources.size(), targets.size());
  EXPECT_GT(sources.size(), 2900u);
}

TEST(Parallel, SagasAreTheSameEveryTimeAndTheSplitsDiffer) {
  const ParallelText text = load_parallel("sagas:400"), again = load_parallel("sagas:400");
  EXPECT_EQ(text.train, again.train);
  EXPECT_EQ(text.train.size(), 400u);
  EXPECT_EQ(text.val.size(), 20u);
  EXPECT_EQ(text.test.size(), 20u);
  for (const SentencePair& pair : text.test) {
    EXPECT_EQ(std::count(text.train.begin(), text.train.end(), pair), 0) << pair.source;
    EXPECT_EQ(std::count(text.val.begin(), text.val.end(), pair), 0) << pair.source;
  }
}

void write_gzip(const std::string& path, const std::string& text) {
  const gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), unsigned(text.size()));
  gzclose(file);
}

TEST(Parallel, ReadsMulti30kGzippedOrNotInBothDirections) {
  const TemporaryFolder folder;
  write_gzip(folder.path("train.de.gz"), "Ein Hund.\nZwei Hunde.\n");
  write_gzip(folder.path("train.en.gz"), "A dog.\nTwo dogs.\n");
  for (const char* split : {"val", "test_2016_flickr"}) {
    folder.write(std::string(split) + ".de", "Ja.\r\n\nNein.");
    folder.write(std::string(split) + ".en", "Yes.\r\n\nNo.");
  }
  const ParallelText text = load_parallel("multi30k:" + folder.path());
  EXPECT_EQ(text.train,
            (std::vector<SentencePair>{{"Ein Hund.", "A dog."}, {"Zwei Hunde.", "Two dogs."}}));
  EXPECT_EQ(text.test, (std::vector<SentencePair>{{"Ja.", "Yes."}, {"Nein.", "No."}}));
  EXPECT_EQ(load_parallel("multi30k:" + folder.path() + ":en-de").train[0].source, "A dog.");
  expect_error([&] { load_parallel("multi30k:" + folder.path() + ":en-fr"); }, {"en-fr"});
}

TEST(Parallel, RefusesFilesThatDoNotFit) {
  const TemporaryFolder folder;
  folder.write("a", "one\ntwo\n");
  folder.write("b", "eins\n");
  folder.write("c", "");
  expect_error([&] { load_parallel("parallel:" + folder.path("a") + "," + folder.path("b")); },
               {"has 2 lines", "line n of one"});
  expect_error([&] { load_parallel("parallel:" + folder.path("a") + "," + folder.path("none")); },
               {"cannot read"});
  expect_error([&] { load_parallel("parallel:" + folder.path("c") + "," + folder.path("c")); },
               {"is empty"});
  expect_error([&] { load_parallel("parallel:" + folder.path("a") + "," + folder.path("a")); },
               {"at least 20"});
  expect_error([&] { load_parallel("parallel:" + folder.path("a")); }, {"two files"});
  expect_error([] { load_parallel("sagas:3"); }, {"20 to 10000000"});
  expect_error([] { load_parallel("grammar"); }, {"unknown parallel text \"grammar\""});
  // The end of a gzipped file is missing.
  write_gzip(folder.path("z.gz"), std::string(10000, 'x') + "\ny\n");
  const std::string whole = folder.read("z.gz");
  folder.write("z.gz", whole.substr(0, whole.size() - 6));
  expect_error([&] { load_parallel("parallel:" + folder.path("z.gz") + "," + folder.path("a")); },
               {"cannot read"});
}

const std::vector<TokenPair> pairs = {
    {{5, 6, 1}, {7, 1}}, {{8, 1}, {9, 10, 11, 1}}, {{5, 5, 5, 5, 1}, {6, 1}}};

TEST(Parallel, ABatchIsPaddedAndItsLabelsAreOneTokenOn) {
  const PairBatch batch = make_batch(pairs, std::vector<int64_t>{0, 1});
  EXPECT_EQ(batch.source, (std::vector<int32_t>{5, 6, 1, 8, 1, 1}));
  EXPECT_EQ(batch.source_lengths, (std::vector<int32_t>{3, 2}));
  EXPECT_EQ(batch.target, (std::vector<int32_t>{0, 7, 1, 1, 0, 9, 10, 11}));
  EXPECT_EQ(batch.labels, (std::vector<int32_t>{7, 1, -1, -1, 9, 10, 11, 1}));
  EXPECT_EQ(batch.words, 6);
}

TEST(Parallel, BatchesHoldEveryPairOnceAndNoMoreTokensThanAllowed) {
  std::vector<TokenPair> many;
  for (size_t i = 0; i < 200; ++i) {
    many.push_back({std::vector<int32_t>(1 + i * 7 % 23), std::vector<int32_t>(1 + i * 5 % 19)});
  }
  std::set<int64_t> seen;
  size_t padding = 0, tokens = 0;
  for (const std::vector<int64_t>& chosen : batches_by_length(many, 100)) {
    const PairBatch batch = make_batch(many, chosen);
    EXPECT_LE(batch.rows * std::max(batch.source_tokens, batch.target_tokens), 100);
    tokens += batch.target.size();
    padding += batch.target.size() - size_t(batch.words);
    for (const int64_t i : chosen) EXPECT_TRUE(seen.insert(i).second);
  }
  EXPECT_EQ(seen.size(), many.size());
  EXPECT_LT(double(padding), 0.1 * double(tokens));
  EXPECT_EQ(batches_by_length(many, 1).size(), many.size());  // never fewer than one pair
}

TEST(Parallel, EveryPassTakesEveryBatchInAnotherOrder) {
  std::vector<int64_t> passes[2];
  for (int64_t step = 0; step < 40; ++step) {
    passes[step / 20].push_back(batch_of_step(20, 3, step));
  }
  EXPECT_NE(passes[0], passes[1]);
  std::vector<int64_t> other;
  for (int64_t step = 0; step < 20; ++step) other.push_back(batch_of_step(20, 4, step));
  EXPECT_NE(passes[0], other);
  for (std::vector<int64_t>& pass : passes) {
    std::sort(pass.begin(), pass.end());
    for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(pass[size_t(i)], i);
  }
}

TEST(Parallel, PairsAreEncodedAndLongOnesLeftOut) {
  const std::vector<SentencePair> texts = {{"ab", "c"}, {"abcdef", "x"}};
  const BytePairs words = BytePairs::learn(std::vector<std::string>{"q"}, 258);
  const std::vector<TokenPair> encoded = encode_pairs(texts, words, 6);
  ASSERT_EQ(encoded.size(), 1u);
  EXPECT_EQ(encoded[0].source, (std::vector<int32_t>{' ' + 2, 'a' + 2, 'b' + 2, 1}));
  EXPECT_EQ(encoded[0].target, (std::vector<int32_t>{' ' + 2, 'c' + 2, 1}));
}

}  // namespace
}  // namespace dyt::test
