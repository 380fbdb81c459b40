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
#include "runtime/io/mapped_file.h"

namespace longship {

class Tokenizer;

// Consecutive tokens inside the mapping; valid as long as the TokenFile.
class TokenView {
 public:
  TokenView(const std::byte* data, int64_t size, int64_t token_bytes)
      : data_(data), size_(size), token_bytes_(token_bytes) {}

  int64_t size() const { return size_; }
  int32_t operator[](int64_t i) const;
  TokenView slice(int64_t begin, int64_t length) const;
  // Writes size() ids.
  void copy_to(int32_t* out) const;
  int32_t max() const;  // -1 when empty
  // The little-endian ids as stored.
  std::span<const std::byte> bytes() const;

 private:
  const std::byte* data_;
  int64_t size_;
  int64_t token_bytes_;
};

// Which tokens count as targets of the loss; all of them when the file stores no mask.
class LossMaskView {
 public:
  LossMaskView(const uint64_t* words, int64_t begin) : words_(words), begin_(begin) {}

  bool operator[](int64_t i) const {
    if (words_ == nullptr) return true;
    const int64_t bit = begin_ + i;
    return (words_[bit / 64] >> (bit % 64) & 1u) != 0;
  }

 private:
  const uint64_t* words_;  // of the whole file; null: every token counts
  int64_t begin_;
};

struct DocumentView {
  TokenView tokens;
  LossMaskView loss_mask;
};

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
  uint64_t content_hash() const { return header_.header_hash; }

  // Tokens of document i, <bos> and <eos> included. i in [0, num_documents()).
  int64_t document_length(int64_t i) const { return index_[i + 1] - index_[i]; }
  std::vector<int64_t> document_lengths() const;

  // The whole document, or `length` of its tokens from `begin`. Throws Error(kCorrupt) when a block
  // it lies in fails its checksum or the file changed on disk since it was opened. Thread-safe.
  DocumentView document(int64_t i) const { return document(i, 0, document_length(i)); }
  DocumentView document(int64_t i, int64_t begin, int64_t length) const;

  // Checks every block, then that every id is in [0, vocab_size()). Throws Error(kCorrupt) naming
  // the block and documents, or the document and offset.
  void verify() const;

  // Throws Error(kConfig) when the tokens were not made by `tokenizer`.
  void check_tokenizer(const Tokenizer& tokenizer) const;

 private:
  TokenFile(std::string path, MappedFile file);

  void check_index() const;
  void check_unchanged() const;
  void check_block(int64_t block) const;
  void check_bytes(int64_t begin, int64_t end) const;

  std::string path_;
  MappedFile file_;
  TokenFileHeader header_;
  TokenFileLayout layout_;
  const std::byte* tokens_ = nullptr;
  const uint64_t* mask_ = nullptr;
  const int64_t* index_ = nullptr;
  const uint64_t* block_hashes_ = nullptr;
  mutable std::vector<std::atomic<bool>> block_is_good_;
};

}  // namespace longship
