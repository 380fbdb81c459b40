// The bytes of a token file: one header, then tokens, loss mask, document index and block checksums
// back to back. data/README.md has the table.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace longship {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

inline constexpr std::string_view kTokenFileMagic = "LSTOKENS";
inline constexpr uint32_t kTokenFileVersion = 1;
inline constexpr uint32_t kTokenFileByteOrder = 0x0A0B0C0D;
inline constexpr int64_t kTokenFileBlockBytes = int64_t{1} << 20;  // covered by one checksum

// Bytes of a stored id: 2 for a vocabulary that fits, else 4.
constexpr int64_t token_bytes_for(int64_t vocab_size) {
  return vocab_size <= (int64_t{1} << 16) ? 2 : 4;
}

// Where each part begins, in bytes from the start of the file. All parts are 8-byte aligned.
struct TokenFileLayout {
  int64_t tokens = 0;           // num_tokens ids
  int64_t mask = 0;             // num_tokens bits in 64-bit words, if stored
  int64_t index = 0;            // num_documents + 1 token offsets, from 0 to num_tokens
  int64_t block_checksums = 0;  // one for each block of [tokens, index)
  int64_t num_blocks = 0;
  int64_t file_bytes = 0;

  // Counts must be in [0, 2^56), so that no sum overflows.
  static TokenFileLayout of(int64_t num_tokens, int64_t num_documents, int64_t token_bytes,
                            bool has_loss_mask);
};

// The first 4096 bytes, exactly as stored.
struct TokenFileHeader {
  char magic[8];         // kTokenFileMagic
  uint32_t version;      // kTokenFileVersion
  uint32_t byte_order;   // kTokenFileByteOrder
  uint32_t token_bytes;  // token_bytes_for(vocab_size)
  uint32_t flags;        // bit 0: a loss mask is stored
  int64_t vocab_size;    // every id is less
  int64_t num_tokens;
  int64_t num_documents;
  int64_t file_bytes;
  uint64_t tokenizer_hash;
  uint64_t index_checksum;  // of document index and block checksums
  uint32_t description_bytes;
  char description[4012];    // of the tokenizer; zeros after it
  uint64_t header_checksum;  // of everything before

  // A header for these contents with everything set but the two checksums.
  static TokenFileHeader make(int64_t num_tokens, int64_t num_documents, int64_t vocab_size,
                              bool has_loss_mask, uint64_t tokenizer_hash,
                              std::string_view tokenizer_description);

  // Throws Error(kCorrupt) naming `path` unless this is a whole header of a file of that size, so
  // that layout() may be trusted to lie inside the file.
  void check(const std::string& path, int64_t file_size) const;

  bool has_loss_mask() const { return flags != 0; }
  std::string tokenizer_description() const { return {description, description_bytes}; }
  TokenFileLayout layout() const {
    return TokenFileLayout::of(num_tokens, num_documents, token_bytes, has_loss_mask());
  }
  uint64_t compute_checksum() const;
};
static_assert(sizeof(TokenFileHeader) == 4096 &&
              offsetof(TokenFileHeader, header_checksum) == 4088);

}  // namespace longship
