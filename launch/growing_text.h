// The text of tokens that come one after another, in pieces that can be printed.
#pragma once

#include <span>
#include <string>

#include "data/tokenizer.h"

namespace longship {

class GrowingText {
 public:
  // `tokenizer` outlives this.
  explicit GrowingText(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // What is new in the text of `tokens`, which begin with those of the last call. A character that
  // comes as several tokens of bytes is told when its last one has come, or if this `is_last`.
  std::string next(std::span<const int32_t> tokens, bool is_last);

 private:
  const Tokenizer& tokenizer_;
  size_t num_told_ = 0;  // bytes
};

}  // namespace longship
