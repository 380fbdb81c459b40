#include "data/tokenizer.h"

#include <fmt/format.h>

#include "runtime/error.h"

namespace longship {

void Tokenizer::check_ids(std::span<const int32_t> tokens) const {
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || tokens[i] >= vocab_size())
      throw Error(ErrorCode::kCorrupt, {.what = fmt::format("token {} cannot be decoded", i),
                                        .expected = fmt::format("an id in [0, {})", vocab_size()),
                                        .found = std::to_string(tokens[i])});
}

std::shared_ptr<const Tokenizer> make_tokenizer(const std::string& name) {
  if (name.empty())
    throw Error(ErrorCode::kConfig, {.what = "no tokenizer is named",
                                     .expected = "`byte`, or the path of a SentencePiece model"});
  return name == "byte" ? make_byte_tokenizer() : load_sentencepiece(name);
}

}  // namespace longship
