#include "training/beam_search.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "core/error.h"

namespace dyt {
namespace {

struct Hypothesis {
  std::vector<int32_t> tokens;
  double log_probability = 0;
  int32_t row = 0;  // of the logits that it goes on with
};

double worth(double log_probability, size_t tokens, double penalty) {
  return log_probability / std::pow((5 + double(tokens)) / 6, penalty);
}

// The search for one text.
class Beam {
 public:
  Beam(int64_t longest, int32_t first_row)
      : longest_(size_t(longest)), alive_{{{}, 0, first_row}} {}

  bool done() const { return alive_.empty(); }
  const std::vector<Hypothesis>& alive() const { return alive_; }

  // Every beginning goes on with every token; the best `beams` of those that don't end are kept.
  void step(std::span<const float> logits, int vocabulary, int32_t end, const BeamOptions& o) {
    std::vector<Candidate> candidates;
    for (size_t h = 0; h < alive_.size(); ++h) {
      add_candidates(candidates, h,
                     logits.subspan(size_t(alive_[h].row) * size_t(vocabulary), size_t(vocabulary)),
                     o.beams);
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const Candidate& a, const Candidate& b) {
                       return a.log_probability > b.log_probability;
                     });
    std::vector<Hypothesis> kept;
    for (size_t i = 0; i < candidates.size() && kept.size() < size_t(o.beams); ++i) {
      const Candidate& c = candidates[i];
      Hypothesis next = alive_[c.from];
      next.log_probability = c.log_probability;
      if (c.token == end) {
        // Behind the first `beams`, one comes here only after a likelier one of the same length.
        finish(next, next.tokens.size() + 1, o.length_penalty);
      } else {
        next.tokens.push_back(c.token);
        kept.push_back(std::move(next));
      }
    }
    alive_ = std::move(kept);
    close(o);
  }

  // From now on, beginning b has the logits of row first + b.
  void take_rows(int32_t first) {
    for (size_t b = 0; b < alive_.size(); ++b) alive_[b].row = first + int32_t(b);
  }

  std::vector<int32_t> result() const { return best_ ? best_->tokens : cut_off_; }

 private:
  struct Candidate {
    size_t from;
    int32_t token;
    double log_probability;
  };

  // One beginning has no more than beams + 1 places among the best: one of them may be the end.
  void add_candidates(std::vector<Candidate>& to, size_t from, std::span<const float> logits,
                      int beams) const {
    const double top = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float l : logits) sum += std::exp(double(l) - top);
    require(std::isfinite(sum), "the model's logits are not finite: it has diverged");
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    const size_t count = std::min(order.size(), size_t(beams) + 1);
    std::partial_sort(
        order.begin(), order.begin() + long(count), order.end(), [&](int32_t a, int32_t b) {
          return logits[size_t(a)] != logits[size_t(b)] ? logits[size_t(a)] > logits[size_t(b)]
                                                        : a < b;
        });
    for (size_t i = 0; i < count; ++i) {
      const double log_p = double(logits[size_t(order[i])]) - top - std::log(sum);
      to.push_back({from, order[i], alive_[from].log_probability + log_p});
    }
  }

  void finish(const Hypothesis& h, size_t tokens, double penalty) {
    const double value = worth(h.log_probability, tokens, penalty);
    if (best_ && value <= best_worth_) return;
    best_ = h, best_worth_ = value;
  }

  // Ends the search where no beginning can become better than the best translation: none gains
  // probability, and the longest possible one is divided by most.
  void close(const BeamOptions& o) {
    if (alive_.empty()) return;
    const bool full = alive_[0].tokens.size() >= longest_;
    const bool beaten =
        best_ && best_worth_ >= worth(alive_[0].log_probability, longest_, o.length_penalty);
    if (!full && !beaten) return;
    cut_off_ = alive_[0].tokens;
    alive_.clear();
  }

  size_t longest_;
  std::vector<Hypothesis> alive_;  // the best first
  std::optional<Hypothesis> best_;
  double best_worth_ = 0;
  std::vector<int32_t> cut_off_;
};

}  // namespace

std::vector<std::vector<int32_t>> beam_search(std::span<const int64_t> longest, int vocabulary,
                                              int32_t begin, int32_t end,
                                              const BeamOptions& options, const NextLogits& next) {
  require(options.beams > 0, "beam search needs at least one beam, not ", options.beams);
  const size_t beams = size_t(options.beams), rows = longest.size() * beams;
  std::vector<Beam> texts;
  for (size_t i = 0; i < longest.size(); ++i) {
    require(longest[i] > 1, "a translation needs room for two tokens, not ", longest[i]);
    texts.emplace_back(longest[i], int32_t(i * beams));
  }
  std::vector<int32_t> tokens(rows, begin), parents(rows);
  std::iota(parents.begin(), parents.end(), 0);
  while (std::any_of(texts.begin(), texts.end(), [](const Beam& b) { return !b.done(); })) {
    const std::vector<float> logits = next(tokens, parents);
    require(logits.size() == rows * size_t(vocabulary), "beam search: ", logits.size(),
            " logits for ", rows, " rows of ", vocabulary);
    for (size_t i = 0; i < texts.size(); ++i) {
      if (!texts[i].done()) texts[i].step(logits, vocabulary, end, options);
      // Rows without a beginning repeat something, and nobody looks at them.
      for (size_t b = 0; b < beams; ++b) {
        const size_t row = i * beams + b;
        const bool used = b < texts[i].alive().size();
        tokens[row] = used ? texts[i].alive()[b].tokens.back() : end;
        parents[row] = used ? texts[i].alive()[b].row : int32_t(row);
      }
      texts[i].take_rows(int32_t(i * beams));
    }
  }
  std::vector<std::vector<int32_t>> results;
  for (const Beam& text : texts) results.push_back(text.result());
  return results;
}

}  // namespace dyt
