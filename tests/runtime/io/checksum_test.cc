#include "runtime/io/checksum.h"

#include <gtest/gtest.h>

#include <string>

#include "runtime/io/file_descriptor.h"

namespace longship {
namespace {

TEST(Checksum, GivesTheKnownAnswersOfXxh3) {
  EXPECT_EQ(checksum({}), 0x2d06800538d394c2u);
  EXPECT_EQ(checksum(bytes_of("a")), 0xe6c632b61e964e1fu);
  EXPECT_EQ(checksum(bytes_of("abc")), 0x78af5f94892f3950u);
}

TEST(Checksum, IsTheSameWholeOrInPieces) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>(i * 31 % 251);
  for (size_t piece : {1, 63, 64, 257, 4999}) {
    Checksum pieces;
    for (size_t at = 0; at < text.size(); at += piece)
      pieces.update(bytes_of(std::string_view(text).substr(at, piece)));
    EXPECT_EQ(pieces.value(), checksum(bytes_of(text))) << piece;
  }
}

}  // namespace
}  // namespace longship
