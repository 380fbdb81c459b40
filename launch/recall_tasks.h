// Documents that ask for something said earlier in them: what shows whether a model can look back,
// which full attention does and a bounded state does only as far as it has room.
//
// "passkey" (Mohtashami and Jaggi 2023, arXiv 2305.16300): a number is told once in a text about
// other things, and asked for at its end.
// "associative" (multi-query associative recall, Arora et al. 2023, arXiv 2312.04927): pairs of a
// key and a value, then noise in which every key comes once again, each time followed by its value.
//
// A sample is a pure function of its parameters, the tokenizer, a seed and the sample's number.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace longship {

// Tokens [begin, begin + length) repeat those from stated_at on, which were there before.
struct RecallAnswer {
  int64_t begin = 0, length = 0;
  int64_t stated_at = 0;
  int64_t distance() const { return begin - stated_at; }
};

struct RecallSample {
  std::vector<int32_t> tokens;        // <bos> first
  std::vector<RecallAnswer> answers;  // ascending
};

class PasskeyTask {
 public:
  static constexpr std::string_view kName = "passkey";
  // Of guessing: keys are the numbers of five digits.
  static constexpr double kChance = 1.0 / 90000;

  explicit PasskeyTask(const Tokenizer& tokenizer);

  // Tokens of the shortest sample: a tokenizer may cut numbers differently.
  int64_t least_length(uint64_t seed, int64_t index) const;
  // `length` tokens; the sentence with the key begins after `depth` percent, 0 to 100, of the other
  // text. Throws Error(kConfig) when that does not fit.
  RecallSample sample(int64_t length, int64_t depth, uint64_t seed, int64_t index) const;

 private:
  std::vector<int32_t> key_of(uint64_t seed, int64_t index) const;
  int64_t length_around(const std::vector<int32_t>& key) const;

  const Tokenizer& tokenizer_;
  std::vector<int32_t> filler_, before_key_, after_key_, question_;
};

class AssociativeTask {
 public:
  static constexpr std::string_view kName = "associative";

  // A third of the ids, special ones left out, are keys, a third values, the rest noise. Throws
  // Error(kConfig) for a vocabulary without room for a pair.
  explicit AssociativeTask(const Tokenizer& tokenizer);

  // Of guessing one of the values that were given.
  static double chance(int64_t num_pairs) { return 1.0 / static_cast<double>(num_pairs); }
  static int64_t least_length(int64_t num_pairs) { return 1 + 4 * num_pairs; }
  int64_t max_pairs() const { return static_cast<int64_t>(keys_.size()); }

  // `length` tokens with `num_pairs` different keys and values. Throws Error(kConfig) when length
  // or pairs do not fit.
  RecallSample sample(int64_t length, int64_t num_pairs, uint64_t seed, int64_t index) const;

 private:
  int32_t bos_;
  std::vector<int32_t> keys_, values_, noise_;
};

}  // namespace longship
