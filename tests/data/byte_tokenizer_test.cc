#include <gtest/gtest.h>

#include "data/tokenizer.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

TEST(ByteTokenizer, DecodeIsTheInverseOfEncodeForAnyBytes) {
  const auto tokenizer = make_tokenizer("byte");
  std::string every_byte;
  for (int byte = 0; byte < 256; ++byte) every_byte += static_cast<char>(byte);
  for (const std::string& text : {std::string(), every_byte, every_byte + every_byte,
                                  std::string("a\0b", 3), std::string("<bos> \xf0\x9f\x9a\xa2")}) {
    const std::vector<int32_t> tokens = tokenizer->encode(text);
    EXPECT_EQ(tokens.size(), text.size());
    EXPECT_EQ(tokenizer->decode(tokens), text);
  }
}

TEST(ByteTokenizer, IdsAreBytesAndSpecialTokensFollow) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(tokenizer->encode("A\xff"), (std::vector<int32_t>{65, 255}));
  EXPECT_EQ(tokenizer->bos(), 256);
  EXPECT_EQ(tokenizer->eos(), 257);
  EXPECT_EQ(tokenizer->vocab_size(), 258);
}

TEST(ByteTokenizer, DecodeLeavesSpecialTokensOutAndRefusesOtherIds) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{256, 'h', 'i', 257}), "hi");
  for (int32_t id : {-1, 258, 1 << 30})
    testing::expect_error(ErrorCode::kCorrupt, {"token 1 ", std::to_string(id)}, [&] {
      tokenizer->decode(std::vector<int32_t>{'a', id});
    });
}

TEST(MakeTokenizer, RefusesAnEmptyName) {
  testing::expect_error(ErrorCode::kConfig, {"byte"}, [] { make_tokenizer(""); });
}

}  // namespace
}  // namespace longship
