#include "launch/recall_tasks.h"

#include <fmt/format.h>

#include <utility>

#include "runtime/error.h"
#include "runtime/random.h"

namespace longship {
namespace {

// Text without digits, so that a key is said where it is meant to be and nowhere else.
constexpr std::string_view kFiller =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. ";
constexpr std::string_view kBeforeKey = " The pass key is";
constexpr std::string_view kAfterKey = ". Remember it. ";
constexpr std::string_view kQuestion = " What is the pass key? The pass key is";

// Random numbers of one sample, in the order in which they are asked for.
class Draw {
 public:
  Draw(std::string_view task, uint64_t seed, int64_t index)
      : seed_(seed), stream_(stream_of(task) + static_cast<uint64_t>(index)) {}

  // In [0, bound).
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(
        uniform_index(seed_, stream_, count_++, static_cast<uint64_t>(bound)));
  }

 private:
  uint64_t seed_, stream_;
  uint64_t count_ = 0;
};

// `count` different elements in random order.
std::vector<int32_t> choose(Draw& draw, std::vector<int32_t> from, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    std::swap(from[static_cast<size_t>(i)],
              from[static_cast<size_t>(i + draw.below(std::ssize(from) - i))]);
  from.resize(static_cast<size_t>(count));
  return from;
}

void append(std::vector<int32_t>& tokens, const std::vector<int32_t>& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
}

}  // namespace

PasskeyTask::PasskeyTask(const Tokenizer& tokenizer)
    : tokenizer_(tokenizer),
      filler_(tokenizer.encode(kFiller)),
      before_key_(tokenizer.encode(kBeforeKey)),
      after_key_(tokenizer.encode(kAfterKey)),
      question_(tokenizer.encode(kQuestion)) {}

// Encoded apart from the text around it, so that it is the same tokens wherever it stands.
std::vector<int32_t> PasskeyTask::key_of(uint64_t seed, int64_t index) const {
  return tokenizer_.encode(fmt::format(" {}", 10000 + Draw(kName, seed, index).below(90000)));
}

int64_t PasskeyTask::length_around(const std::vector<int32_t>& key) const {
  return 1 + std::ssize(before_key_) + std::ssize(after_key_) + std::ssize(question_) +
         2 * std::ssize(key);
}

int64_t PasskeyTask::least_length(uint64_t seed, int64_t index) const {
  return length_around(key_of(seed, index));
}

RecallSample PasskeyTask::sample(int64_t length, int64_t depth, uint64_t seed,
                                 int64_t index) const {
  const std::vector<int32_t> key = key_of(seed, index);
  const int64_t num_filler = length - length_around(key);
  if (num_filler < 0 || depth < 0 || depth > 100)
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("a pass key in {} tokens at depth {}%", length, depth),
                 .expected = fmt::format("at least {} tokens, and a depth of 0 to 100",
                                         length_around(key))});
  RecallSample sample;
  std::vector<int32_t>& tokens = sample.tokens;
  tokens.reserve(static_cast<size_t>(length));
  tokens.push_back(tokenizer_.bos());
  size_t next = 0;
  auto append_filler = [&](int64_t count) {
    for (int64_t i = 0; i < count; ++i) tokens.push_back(filler_[next++ % filler_.size()]);
  };
  // Computed by parts: length * depth may be more than 64 bits hold.
  const int64_t num_before = num_filler / 100 * depth + num_filler % 100 * depth / 100;
  append_filler(num_before);
  append(tokens, before_key_);
  const int64_t stated_at = std::ssize(tokens);
  append(tokens, key);
  append(tokens, after_key_);
  append_filler(num_filler - num_before);
  append(tokens, question_);
  sample.answers.push_back(
      {.begin = std::ssize(tokens), .length = std::ssize(key), .stated_at = stated_at});
  append(tokens, key);
  return sample;
}

AssociativeTask::AssociativeTask(const Tokenizer& tokenizer) : bos_(tokenizer.bos()) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id)
    if (id != tokenizer.bos() && id != tokenizer.eos()) ids.push_back(id);
  const auto third = std::ssize(ids) / 3;
  if (third == 0)
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("associative recall over {} ids", tokenizer.vocab_size()),
                 .expected = "at least three that are not special"});
  keys_.assign(ids.begin(), ids.begin() + third);
  values_.assign(ids.begin() + third, ids.begin() + 2 * third);
  noise_.assign(ids.begin() + 2 * third, ids.end());
}

RecallSample AssociativeTask::sample(int64_t length, int64_t num_pairs, uint64_t seed,
                                     int64_t index) const {
  if (num_pairs < 1 || num_pairs > max_pairs() || length < least_length(num_pairs))
    throw Error(
        ErrorCode::kConfig,
        {.what = fmt::format("{} pairs of a key and a value in {} tokens", num_pairs, length),
         .expected =
             fmt::format("1 to {} pairs, and 4 tokens for each beside <bos>", max_pairs())});
  Draw draw(kName, seed, index);
  const std::vector<int32_t> keys = choose(draw, keys_, num_pairs);
  const std::vector<int32_t> values = choose(draw, values_, num_pairs);
  RecallSample sample;
  std::vector<int32_t>& tokens = sample.tokens;
  tokens.reserve(static_cast<size_t>(length));
  tokens.push_back(bos_);
  std::vector<int32_t> order;  // in which keys come again
  for (int64_t i = 0; i < num_pairs; ++i) {
    append(tokens, {keys[static_cast<size_t>(i)], values[static_cast<size_t>(i)]});
    order.push_back(static_cast<int32_t>(i));
  }
  order = choose(draw, std::move(order), num_pairs);
  // Equal stretches of noise, each with one query somewhere in it.
  const int64_t rest = length - std::ssize(tokens), first = std::ssize(tokens);
  auto end_of = [&](int64_t stretch) {  // rest * stretch may be more than 64 bits hold
    return first + rest / num_pairs * stretch + rest % num_pairs * stretch / num_pairs;
  };
  for (int64_t i = 0; i < num_pairs; ++i) {
    const auto pair = static_cast<size_t>(order[static_cast<size_t>(i)]);
    const int64_t query = end_of(i) + draw.below(end_of(i + 1) - end_of(i) - 1);
    while (std::ssize(tokens) < end_of(i + 1)) {
      if (std::ssize(tokens) == query) {
        sample.answers.push_back(
            {.begin = query + 1, .length = 1, .stated_at = 2 + 2 * static_cast<int64_t>(pair)});
        append(tokens, {keys[pair], values[pair]});
      } else {
        tokens.push_back(noise_[static_cast<size_t>(draw.below(std::ssize(noise_)))]);
      }
    }
  }
  return sample;
}

}  // namespace longship
