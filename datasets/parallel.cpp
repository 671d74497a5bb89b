#include "datasets/parallel.h"

#include <zlib.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <memory>
#include <numeric>

#include "core/error.h"
#include "core/philox.h"

namespace dyt {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t batch_stream = uint64_t('P') << 56;  // of a seed; as datasets/images.cpp

// The lines of a file, gzipped or not (zlib reads both).
std::vector<std::string> read_lines(const std::string& path) {
  require(!fs::is_directory(path), path, " is a folder: expected a file");
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  require(file != nullptr && fs::exists(path), "cannot read ", path);
  std::string text;
  std::vector<char> part(1 << 16);
  int got = 0;
  while ((got = gzread(file.get(), part.data(), unsigned(part.size()))) > 0) {
    text.append(part.data(), size_t(got));
  }
  int error = 0;
  const char* const message = gzerror(file.get(), &error);
  require(got == 0 && (error == Z_OK || error == Z_STREAM_END), "cannot read ", path, ": ",
          message);
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    lines.push_back(std::move(line));
    at = end + 1;
  }
  require(!lines.empty(), path, " is empty");
  return lines;
}

std::vector<SentencePair> read_pairs(const std::string& a, const std::string& b) {
  const std::vector<std::string> sources = read_lines(a), targets = read_lines(b);
  require(sources.size() == targets.size(), a, " has ", sources.size(), " lines and ", b, " ",
          targets.size(), ": line n of one should be the translation of line n of the other");
  std::vector<SentencePair> pairs;
  for (size_t i = 0; i < sources.size(); ++i) {
    if (!sources[i].empty() && !targets[i].empty()) pairs.push_back({sources[i], targets[i]});
  }
  require(!pairs.empty(), a, " and ", b, " have no line that is not empty in either");
  return pairs;
}

std::string existing(const std::string& path) {
  return fs::exists(path) || !fs::exists(path + ".gz") ? path : path + ".gz";
}

ParallelText load_multi30k(const std::string& rest) {
  const size_t colon = rest.rfind(':');
  const bool given = colon != rest.npos;
  const std::string folder = given ? rest.substr(0, colon) : rest;
  const std::string direction = given ? rest.substr(colon + 1) : "de-en";
  require(direction == "de-en" || direction == "en-de",
          "multi30k is translated de-en or en-de, not ", direction);
  const std::string from = direction.substr(0, 2), to = direction.substr(3);
  const auto read = [&](const char* split) {
    const std::string base = folder + "/" + split + ".";
    return read_pairs(existing(base + from), existing(base + to));
  };
  const fs::path path = fs::path(folder + "/").lexically_normal().parent_path();
  return {path.filename().string() + " " + direction, read("train"), read("val"),
          read("test_2016_flickr")};
}

// The last two twentieths are for validation and test.
ParallelText load_files(const std::string& rest) {
  const size_t comma = rest.find(',');
  require(comma != rest.npos, "parallel:A,B needs two files, not \"", rest, "\"");
  const std::string a = rest.substr(0, comma), b = rest.substr(comma + 1);
  ParallelText text{fs::path(a).filename().string() + " to " + fs::path(b).filename().string(),
                    read_pairs(a, b),
                    {},
                    {}};
  const size_t share = text.train.size() / 20;
  require(share > 0, a, " and ", b, " have ", text.train.size(),
          " pairs of lines: at least 20 are needed to train on some and test on others");
  const auto take = [&](std::vector<SentencePair>& to) {
    to.assign(text.train.end() - std::ptrdiff_t(share), text.train.end());
    text.train.resize(text.train.size() - share);
  };
  take(text.test);
  take(text.val);
  return text;
}

ParallelText load_sagas(const std::string& count) {
  size_t pairs = 20000;
  if (!count.empty()) {
    const char* const end = count.data() + count.size();
    const auto [at, error] = std::from_chars(count.data(), end, pairs);
    require(error == std::errc() && at == end && pairs >= 20 && pairs <= 10000000,
            "sagas:PAIRS needs a number of pairs from 20 to 10000000, not \"", count, "\"");
  }
  const size_t share = std::clamp<size_t>(pairs / 20, 1, 500);
  return {"sagas", saga_pairs(1, pairs), saga_pairs(2, share), saga_pairs(3, share)};
}

}  // namespace

ParallelText load_parallel(const std::string& spec) {
  const size_t colon = spec.find(':');
  const std::string kind = spec.substr(0, colon);
  const std::string rest = colon == spec.npos ? "" : spec.substr(colon + 1);
  if (kind == "multi30k" && !rest.empty()) return load_multi30k(rest);
  if (kind == "parallel" && !rest.empty()) return load_files(rest);
  if (kind == "sagas" && (colon == spec.npos || !rest.empty())) return load_sagas(rest);
  fail("unknown parallel text \"", spec, "\": expected \"sagas\", \"sagas:PAIRS\", ",
       "\"multi30k:DIR\" or \"parallel:FILE,FILE\"");
}

bool names_parallel(const std::string& spec) {
  const std::string kind = spec.substr(0, spec.find(':'));
  return kind == "sagas" || kind == "multi30k" || kind == "parallel";
}

std::vector<TokenPair> encode_pairs(std::span<const SentencePair> pairs, const BytePairs& words,
                                    int64_t longest) {
  std::vector<TokenPair> all;
  const auto encode = [&](const std::string& text) {
    std::vector<int32_t> tokens = words.encode(text);
    tokens.push_back(BytePairs::end);
    return tokens;
  };
  for (const SentencePair& pair : pairs) {
    TokenPair tokens{encode(pair.source), encode(pair.target)};
    const size_t length = std::max(tokens.source.size(), tokens.target.size());
    if (int64_t(length) <= longest) all.push_back(std::move(tokens));
  }
  return all;
}

PairBatch make_batch(std::span<const TokenPair> pairs, std::span<const int64_t> chosen) {
  PairBatch batch;
  batch.rows = int64_t(chosen.size());
  for (const int64_t i : chosen) {
    const TokenPair& pair = pairs[size_t(i)];
    batch.source_tokens = std::max(batch.source_tokens, int64_t(pair.source.size()));
    batch.target_tokens = std::max(batch.target_tokens, int64_t(pair.target.size()));
    batch.source_lengths.push_back(int32_t(pair.source.size()));
    batch.words += int64_t(pair.target.size());
  }
  const auto put = [](std::vector<int32_t>& to, const auto& tokens, int64_t width,
                      int32_t padding) {
    to.insert(to.end(), tokens.begin(), tokens.end());
    to.insert(to.end(), size_t(width) - tokens.size(), padding);
  };
  for (const int64_t i : chosen) {
    const TokenPair& pair = pairs[size_t(i)];
    std::vector<int32_t> written = pair.target;
    written.insert(written.begin(), BytePairs::begin);
    written.pop_back();
    put(batch.source, pair.source, batch.source_tokens, BytePairs::end);
    put(batch.target, written, batch.target_tokens, BytePairs::end);
    put(batch.labels, pair.target, batch.target_tokens, -1);
  }
  return batch;
}

std::vector<std::vector<int64_t>> batches_by_length(std::span<const TokenPair> pairs,
                                                    int64_t tokens) {
  std::vector<int64_t> order(pairs.size());
  std::iota(order.begin(), order.end(), int64_t(0));
  const auto lengths = [&](int64_t i) {
    return std::pair(pairs[size_t(i)].target.size(), pairs[size_t(i)].source.size());
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return lengths(a) < lengths(b); });
  std::vector<std::vector<int64_t>> batches;
  size_t longest = 0;
  for (const int64_t i : order) {
    const auto [target, source] = lengths(i);
    const size_t length = std::max({longest, target, source});
    const bool fits = !batches.empty() && int64_t((batches.back().size() + 1) * length) <= tokens;
    longest = fits ? length : std::max(target, source);
    if (!fits) batches.emplace_back();
    batches.back().push_back(i);
  }
  return batches;
}

int64_t batch_of_step(int64_t batches, uint64_t seed, int64_t step) {
  require(batches > 0 && step >= 0, "no batch ", step, " of ", batches);
  // Sorting by random keys, drawn for this pass, shuffles the batches.
  const int64_t pass = step / batches;
  std::vector<std::pair<uint32_t, int64_t>> keys;
  for (int64_t i = 0; i < batches; ++i) {
    keys.push_back({philox(seed, uint64_t(i), batch_stream | uint64_t(pass)).x[0], i});
  }
  const auto nth = keys.begin() + step % batches;
  std::nth_element(keys.begin(), nth, keys.end());
  return nth->second;
}

}  // namespace dyt
