// TokenFileWriter: documents, one after the other, into a token file that appears when it is whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "data/tokenizer.h"
#include "runtime/io/atomic_file.h"

namespace longship {

// Holds one block, 8 bytes per document and, once a document came with a loss mask, one bit per
// token. Errors of the file system are Error(kStorage); without finish() nothing remains.
class TokenFileWriter {
 public:
  // `tokenizer` gives vocabulary size, hash and description; it is read now and not kept.
  TokenFileWriter(const std::filesystem::path& path, const Tokenizer& tokenizer);

  // Ids in [0, vocab_size). loss_mask: one byte per token, 0 where the token must not count as a
  // target of the loss; empty when all count.
  void append(std::span<const int32_t> document, std::span<const uint8_t> loss_mask = {});

  // Writes index, checksums and header, and gives the file its name. Nothing may follow.
  void finish();

 private:
  int64_t num_tokens() const { return ends_.back(); }
  void write_blocks(std::span<const std::byte> bytes);
  void flush_block();
  void append_mask(int64_t num_new, std::span<const uint8_t> loss_mask);

  AtomicFile file_;
  int64_t vocab_size_;
  uint64_t tokenizer_hash_;
  std::string tokenizer_description_;
  std::vector<std::byte> block_;  // not yet written
  std::vector<uint64_t> block_checksums_;
  std::vector<int64_t> ends_ = {0};  // the document index
  std::vector<uint64_t> mask_;       // empty until a mask is given
};

}  // namespace longship
