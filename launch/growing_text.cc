#include "launch/growing_text.h"

#include <string_view>
#include <utility>

namespace longship {

std::string GrowingText::next(std::span<const int32_t> tokens, bool is_last) {
  // Tokenizers put it in place of each byte of a character that is not complete.
  constexpr std::string_view kReplacement = "\xef\xbf\xbd";
  const std::string text = tokenizer_.decode(tokens);
  std::string_view settled = text;
  while (!is_last && settled.ends_with(kReplacement)) settled.remove_suffix(kReplacement.size());
  if (settled.size() <= num_told_) return {};
  return std::string(settled.substr(std::exchange(num_told_, settled.size())));
}

}  // namespace longship
