#include <fmt/format.h>

#include "data/prepare.h"

namespace longship {

std::string PrepareReport::text() const {
  const auto num_tokens = static_cast<double>(lengths.num_tokens());
  std::string text = fmt::format("wrote      {} in {:.1f} s\n", out, seconds);
  text += fmt::format("tokenizer  {}\n", tokenizer);
  text += fmt::format("files      {}", num_files);
  if (num_skipped_files > 0)
    text += fmt::format(" ({} of other kinds left out)", num_skipped_files);
  text += fmt::format("\ntext       {} bytes\ndocuments  {}", text_bytes, lengths.num_documents());
  if (num_empty_documents + num_short_documents > 0)
    text += fmt::format(" (dropped: {} without text, {} too short)", num_empty_documents,
                        num_short_documents);
  text += fmt::format("\ntokens     {} ({:.2f} bytes of text each; {} count in the loss)\n",
                      lengths.num_tokens(), static_cast<double>(text_bytes) / num_tokens,
                      num_loss_tokens);
  if (num_replaced > 0)
    text += fmt::format("replaced   {} sequences that were not UTF-8 by U+FFFD\n", num_replaced);
  return text + lengths.text();
}

}  // namespace longship
