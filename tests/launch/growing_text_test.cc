#include "launch/growing_text.h"

#include <gtest/gtest.h>

#include "tests/support/sentencepiece_model.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

// The pieces of the first 0, 1, ... tokens.
std::vector<std::string> pieces_of(const Tokenizer& tokenizer, std::span<const int32_t> tokens) {
  GrowingText text(tokenizer);
  std::vector<std::string> pieces;
  for (size_t n = 0; n <= tokens.size(); ++n)
    pieces.push_back(text.next(tokens.first(n), n == tokens.size()));
  return pieces;
}

TEST(GrowingText, TellsCharactersOfSeveralByteTokensWhenTheyAreComplete) {
  const testing::TemporaryFolder folder;
  const auto tokenizer = load_sentencepiece(folder.write(
      "tiny.model", testing::train_sentencepiece(
                        "--vocab_size=320 --model_type=bpe --normalization_rule_name=identity "
                        "--add_dummy_prefix=false --byte_fallback=true")));
  const std::vector<int32_t> tokens = tokenizer->encode("fox \xe6\xb0\xb4\xf0\x9f\x9a\xa2 dog");
  std::string text;
  int num_silent = 0;
  for (const std::string& piece : pieces_of(*tokenizer, tokens)) {
    EXPECT_EQ(piece.find("\xef\xbf\xbd"), std::string::npos) << piece;
    num_silent += piece.empty();
    text += piece;
  }
  EXPECT_EQ(text, "fox \xe6\xb0\xb4\xf0\x9f\x9a\xa2 dog");
  EXPECT_EQ(num_silent, 1 + 2 + 3);  // no token, and all but the last of both characters
}

TEST(GrowingText, EndsWithWhatIsThereOfACharacter) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(pieces_of(*tokenizer, std::vector<int32_t>{256, 'a', 0xe6, 0xb0}),
            (std::vector<std::string>{"", "", "a", "\xe6", "\xb0"}));
  // A replacement character of the text itself waits for the token behind it.
  EXPECT_EQ(pieces_of(*tokenizer, std::vector<int32_t>{0xef, 0xbf, 0xbd, 'b'}),
            (std::vector<std::string>{"", "\xef", "\xbf", "",
                                      "\xbd"
                                      "b"}));
}

}  // namespace
}  // namespace longship
