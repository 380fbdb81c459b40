#include "data/token_file_writer.h"

#include <algorithm>

#include "data/token_file_format.h"
#include "runtime/error.h"
#include "runtime/io/checksum.h"

namespace longship {

TokenFileWriter::TokenFileWriter(const std::filesystem::path& path, const Tokenizer& tokenizer)
    : file_(path),
      vocab_size_(tokenizer.vocab_size()),
      tokenizer_hash_(tokenizer.hash()),
      tokenizer_description_(tokenizer.description()) {
  block_.reserve(kTokenFileBlockBytes);
  // The header's place; its content is known at the end.
  file_.write(std::vector<std::byte>(sizeof(TokenFileHeader)));
}

void TokenFileWriter::append(std::span<const int32_t> document,
                             std::span<const uint8_t> loss_mask) {
  LONGSHIP_CHECK(loss_mask.empty() || loss_mask.size() == document.size(),
                 "{} tokens with a loss mask of {}", document.size(), loss_mask.size());
  for (int32_t token : document)
    LONGSHIP_CHECK(token >= 0 && token < vocab_size_, "token {} of a vocabulary of {}", token,
                   vocab_size_);
  const auto num_new = static_cast<int64_t>(document.size());
  append_mask(num_new, loss_mask);
  if (token_bytes_for(vocab_size_) == 2) {
    const std::vector<uint16_t> narrow(document.begin(), document.end());
    write_blocks(std::as_bytes(std::span(narrow)));
  } else {
    write_blocks(std::as_bytes(document));
  }
  ends_.push_back(num_tokens() + num_new);
}

void TokenFileWriter::append_mask(int64_t num_new, std::span<const uint8_t> loss_mask) {
  if (mask_.empty() && loss_mask.empty()) return;
  const int64_t num_old = num_tokens();
  auto set = [&](int64_t bit) {
    mask_[static_cast<size_t>(bit / 64)] |= uint64_t{1} << (bit % 64);
  };
  const bool is_first = mask_.empty();
  mask_.resize(static_cast<size_t>((num_old + num_new + 63) / 64));
  if (is_first)
    for (int64_t bit = 0; bit < num_old; ++bit) set(bit);
  for (int64_t i = 0; i < num_new; ++i)
    if (loss_mask.empty() || loss_mask[static_cast<size_t>(i)] != 0) set(num_old + i);
}

void TokenFileWriter::write_blocks(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t count =
        std::min(bytes.size(), static_cast<size_t>(kTokenFileBlockBytes) - block_.size());
    block_.insert(block_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(count));
    bytes = bytes.subspan(count);
    if (block_.size() == static_cast<size_t>(kTokenFileBlockBytes)) flush_block();
  }
}

void TokenFileWriter::flush_block() {
  if (block_.empty()) return;
  block_checksums_.push_back(checksum(block_));
  file_.write(block_);
  block_.clear();
}

void TokenFileWriter::finish() {
  TokenFileHeader header =
      TokenFileHeader::make(num_tokens(), std::ssize(ends_) - 1, vocab_size_, !mask_.empty(),
                            tokenizer_hash_, tokenizer_description_);
  const TokenFileLayout layout = header.layout();
  const int64_t token_end = layout.tokens + num_tokens() * header.token_bytes;
  write_blocks(std::vector<std::byte>(static_cast<size_t>(layout.mask - token_end)));
  write_blocks(std::as_bytes(std::span(mask_)));
  flush_block();

  Checksum index_checksum;
  for (const std::span<const std::byte> part :
       {std::as_bytes(std::span(ends_)), std::as_bytes(std::span(block_checksums_))}) {
    index_checksum.update(part);
    file_.write(part);
  }
  LONGSHIP_CHECK(file_.size() == layout.file_bytes, "wrote {} bytes of {}", file_.size(),
                 layout.file_bytes);
  header.index_checksum = index_checksum.value();
  header.header_checksum = header.compute_checksum();
  file_.write_at(0, std::as_bytes(std::span(&header, 1)));
  file_.commit();
}

}  // namespace longship
