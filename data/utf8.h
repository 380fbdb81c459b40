// UTF-8 as Unicode 15 table 3-7 defines it: no overlong forms, no surrogates, nothing above
// U+10FFFF.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace longship {

// Offset of the first byte that is not part of valid UTF-8, or text.size().
size_t find_invalid_utf8(std::string_view text);

// A copy in which each maximal bad sequence ("substitution of maximal subparts") is U+FFFD; adds
// their number to num_replaced.
std::string replace_invalid_utf8(std::string_view text, int64_t& num_replaced);

}  // namespace longship
