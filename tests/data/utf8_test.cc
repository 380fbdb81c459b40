#include "data/utf8.h"

#include <gtest/gtest.h>

#include "runtime/random.h"

namespace longship {
namespace {

std::string encode(uint32_t code) {
  auto tail = [&](int shift) { return static_cast<char>(0x80 | (code >> shift & 0x3F)); };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xC0 | code >> 6), tail(0)};
  if (code < 0x10000) return {static_cast<char>(0xE0 | code >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | code >> 18), tail(12), tail(6), tail(0)};
}

TEST(Utf8, AcceptsEveryCharacterAndNoSurrogate) {
  std::string all;
  for (uint32_t code = 0; code < 0x110000; ++code) {
    const std::string text = encode(code);
    const bool is_surrogate = code >= 0xD800 && code < 0xE000;
    ASSERT_EQ(find_invalid_utf8(text) == text.size(), !is_surrogate) << code;
    if (!is_surrogate) all += text;
  }
  EXPECT_EQ(find_invalid_utf8(all), all.size());
  EXPECT_LT(find_invalid_utf8(encode(0x110000)), 4u);
}

// Every valid sequence of up to three bytes is the encoding of a character: the others are counted.
TEST(Utf8, AcceptsNoOtherThreeBytes) {
  int64_t num_valid = 0;
  for (uint32_t bytes = 0; bytes < 1 << 24; ++bytes) {
    const char text[] = {static_cast<char>(bytes >> 16), static_cast<char>(bytes >> 8),
                         static_cast<char>(bytes)};
    num_valid += find_invalid_utf8({text, 3}) == 3;
  }
  const int64_t one = 128, two = 0x800 - 0x80, three = 0x10000 - 0x800 - 0x800;
  EXPECT_EQ(num_valid, one * one * one + 2 * one * two + three);
}

TEST(Utf8, FindsTheFirstBadByteAtAnyPlace) {
  for (const char* bad : {"\x80", "\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                          "\xF8\x88\x80\x80\x80", "\xC3", "\xE2\x82", "\xF0\x9F\x9A", "\xFF"})
    for (size_t before = 0; before < 20; ++before) {
      const std::string text = std::string(before, 'a') + bad;
      EXPECT_EQ(find_invalid_utf8(text), before);
      EXPECT_EQ(find_invalid_utf8("\xC3\xA9" + text + "tail"), before + 2);
    }
}

// The examples of Unicode 15, tables 3-8 to 3-11.
TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string mark = "\xEF\xBF\xBD";
  auto marks = [&](int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += mark;
    return text;
  };
  auto expect = [](std::string_view bad, const std::string& good, int64_t count) {
    int64_t num_replaced = 0;
    EXPECT_EQ(replace_invalid_utf8(bad, num_replaced), good);
    EXPECT_EQ(num_replaced, count);
  };
  expect("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", marks(8) + "A", 8);
  expect("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", marks(8) + "A", 8);
  expect("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", marks(5) + "A" + marks(2) + "B", 7);
  expect("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", marks(4) + "A", 4);
  expect("", "", 0);
  expect("caf\xC3\xA9", "caf\xC3\xA9", 0);
}

TEST(Utf8, ReplacedTextIsValid) {
  for (uint64_t n = 0; n < 300; ++n) {
    std::string text;
    for (uint64_t i = 0; i < 40; ++i)
      text += static_cast<char>(uniform_index(3, n, i, 2) != 0 ? 0x80 + uniform_index(4, n, i, 128)
                                                               : uniform_index(5, n, i, 256));
    int64_t num_replaced = 0;
    const std::string good = replace_invalid_utf8(text, num_replaced);
    EXPECT_EQ(find_invalid_utf8(good), good.size());
    EXPECT_EQ(num_replaced == 0, good == text);
  }
}

}  // namespace
}  // namespace longship
