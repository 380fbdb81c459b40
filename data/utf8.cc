#include "data/utf8.h"

#include <cstring>

namespace longship {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Sequence {
  size_t length;  // bytes that belong together, at least 1
  bool valid;
};

// The sequence that begins `text`, which is not empty.
Sequence first_sequence(std::string_view text) {
  auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true};
  size_t length = 0;
  uint8_t low = 0x80, high = 0xBF;  // bounds of the second byte
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;   // overlong
    if (lead == 0xED) high = 0x9F;  // surrogates
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;   // overlong
    if (lead == 0xF4) high = 0x8F;  // above U+10FFFF
  } else {
    return {1, false};
  }
  for (size_t i = 1; i < length; ++i) {
    if (i >= text.size() || byte(i) < low || byte(i) > high) return {i, false};
    low = 0x80;
    high = 0xBF;
  }
  return {length, true};
}

// The next offset at or after `at` that is not plain ASCII, eight bytes at a time.
size_t skip_ascii(std::string_view text, size_t at) {
  for (uint64_t word = 0; at + sizeof word <= text.size(); at += sizeof word) {
    std::memcpy(&word, text.data() + at, sizeof word);
    if ((word & 0x8080808080808080ull) != 0) break;
  }
  while (at < text.size() && static_cast<uint8_t>(text[at]) < 0x80) ++at;
  return at;
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
  for (size_t at = skip_ascii(text, 0); at < text.size(); at = skip_ascii(text, at)) {
    const Sequence sequence = first_sequence(text.substr(at));
    if (!sequence.valid) return at;
    at += sequence.length;
  }
  return text.size();
}

std::string replace_invalid_utf8(std::string_view text, int64_t& num_replaced) {
  std::string good;
  good.reserve(text.size());
  while (!text.empty()) {
    const size_t bad = find_invalid_utf8(text);
    good += text.substr(0, bad);
    text.remove_prefix(bad);
    if (text.empty()) break;
    good += kReplacement;
    ++num_replaced;
    text.remove_prefix(first_sequence(text).length);
  }
  return good;
}

}  // namespace longship
