// TokenFile: a read-only, memory-mapped token file; data/README.md describes the format.
//
// Altered tokens are never handed out: opening checks the header, the index and every size, and a
// 1 MiB block is compared with its checksum before its first token is returned.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/token_file_format.h"
#include "data/token_view.h"
#include "runtime/io/mapped_file.h"

namespace longship {

class Tokenizer;

class TokenFile {
 public:
  enum class Verify {
    kOnFirstTouch,  // each block before its first token is returned
    kAtOpen,        // every block and every id now, as by verify()
  };

  // Throws Error(kStorage) when the file is missing or unreadable, Error(kCorrupt) when it is not a
  // whole, unaltered token file.
  static std::shared_ptr<const TokenFile> open(const std::string& path,
                                               Verify verify = Verify::kOnFirstTouch);

  const std::string& path() const { return path_; }
  int64_t num_documents() const { return header_.num_documents; }
  int64_t num_tokens() const { return header_.num_tokens; }
  int64_t num_bytes() const { return header_.file_bytes; }
  int64_t token_bytes() const { return header_.token_bytes; }
  int64_t vocab_size() const { return header_.vocab_size; }
  bool has_loss_mask() const { return header_.has_loss_mask(); }
  uint64_t tokenizer_hash() const { return header_.tokenizer_hash; }
  std::string tokenizer_description() const { return header_.tokenizer_description(); }
  // Identifies the content: changes when any token, mask bit or document boundary does.
  uint64_t content_hash() const { return header_.header_checksum; }

  // Tokens of each document, <bos> and <eos> included.
  std::vector<int64_t> document_lengths() const;

  // Document i in [0, num_documents()), or `length` of its tokens from `begin`. Throws
  // Error(kCorrupt) when a block it lies in fails its checksum or the file changed on disk since it
  // was opened. Thread-safe.
  DocumentView document(int64_t i) const;
  DocumentView document(int64_t i, int64_t begin, int64_t length) const;

  // Checks every block, then that every id is in [0, vocab_size()). Throws Error(kCorrupt) naming
  // the block and documents, or the document and offset.
  void verify() const;

  // Throws Error(kCorrupt) naming document i and the offset of the first id that is not below
  // vocab_size. `tokens` are the document's from `begin` on.
  void check_ids(int64_t i, int64_t begin, const TokenView& tokens, int64_t vocab_size) const;

  // Throws Error(kConfig) when the tokens were not made by `tokenizer`.
  void check_tokenizer(const Tokenizer& tokenizer) const;

 private:
  explicit TokenFile(MappedFile file);

  void check_index() const;
  int64_t document_length(int64_t i) const {
    return index_[static_cast<size_t>(i) + 1] - index_[static_cast<size_t>(i)];
  }
  DocumentView view(int64_t i, int64_t begin, int64_t length) const;
  // Of the part [tokens, index), numbered and counted from its begin.
  void check_block(int64_t block) const;
  void check_bytes(int64_t begin, int64_t end) const;
  std::string content_of(int64_t begin, int64_t end) const;

  std::string path_;
  MappedFile file_;
  TokenFileHeader header_;
  TokenFileLayout layout_;
  const std::byte* tokens_;
  std::span<const uint64_t> mask_;  // empty when none is stored
  std::span<const int64_t> index_;
  std::span<const uint64_t> block_checksums_;
  mutable std::vector<std::atomic<bool>> block_is_good_;
};

}  // namespace longship
