#include "data/token_file_format.h"

#include <cstring>
#include <limits>
#include <span>

#include "runtime/error.h"
#include "runtime/io/checksum.h"

namespace longship {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 56;
constexpr uint32_t kLossMaskFlag = 1;

int64_t align8(int64_t bytes) {
  return (bytes + 7) / 8 * 8;
}

}  // namespace

TokenFileLayout TokenFileLayout::of(int64_t num_tokens, int64_t num_documents, int64_t token_bytes,
                                    bool has_loss_mask) {
  LONGSHIP_CHECK(
      num_tokens >= 0 && num_tokens < kMaxCount && num_documents >= 0 && num_documents < kMaxCount,
      "{} tokens, {} documents", num_tokens, num_documents);
  TokenFileLayout layout;
  layout.tokens = sizeof(TokenFileHeader);
  layout.mask = layout.tokens + align8(num_tokens * token_bytes);
  layout.index = layout.mask + (has_loss_mask ? (num_tokens + 63) / 64 * 8 : 0);
  layout.block_checksums = layout.index + (num_documents + 1) * 8;
  layout.num_blocks =
      (layout.index - layout.tokens + kTokenFileBlockBytes - 1) / kTokenFileBlockBytes;
  layout.file_bytes = layout.block_checksums + layout.num_blocks * 8;
  return layout;
}

TokenFileHeader TokenFileHeader::make(int64_t num_tokens, int64_t num_documents, int64_t vocab_size,
                                      bool has_loss_mask, uint64_t tokenizer_hash,
                                      std::string_view tokenizer_description) {
  TokenFileHeader header = {};
  std::memcpy(header.magic, kTokenFileMagic.data(), kTokenFileMagic.size());
  header.version = kTokenFileVersion;
  header.byte_order = kTokenFileByteOrder;
  header.token_bytes = static_cast<uint32_t>(token_bytes_for(vocab_size));
  header.flags = has_loss_mask ? kLossMaskFlag : 0;
  header.vocab_size = vocab_size;
  header.num_tokens = num_tokens;
  header.num_documents = num_documents;
  header.file_bytes = header.layout().file_bytes;
  header.tokenizer_hash = tokenizer_hash;
  LONGSHIP_CHECK(tokenizer_description.size() <= sizeof header.description,
                 "a tokenizer description of {} bytes", tokenizer_description.size());
  header.description_bytes = static_cast<uint32_t>(tokenizer_description.size());
  std::memcpy(header.description, tokenizer_description.data(), tokenizer_description.size());
  return header;
}

void TokenFileHeader::check(const std::string& path, int64_t file_size) const {
  auto require = [&](bool good, std::string_view field, std::string expected, std::string found) {
    if (good) return;
    throw Error(ErrorCode::kCorrupt, {.what = fmt::format("{}: {}", path, field),
                                      .expected = std::move(expected),
                                      .found = std::move(found),
                                      .next = "make the file again with `longship prepare`"});
  };
  require(std::memcmp(magic, kTokenFileMagic.data(), sizeof magic) == 0, "not a token file",
          fmt::format("the bytes `{}` at offset 0", kTokenFileMagic), "other bytes");
  require(byte_order == kTokenFileByteOrder, "byte order",
          fmt::format("{:#010x}, written on a little-endian machine", kTokenFileByteOrder),
          fmt::format("{:#010x}", byte_order));
  require(version == kTokenFileVersion, "version of the token file format",
          std::to_string(kTokenFileVersion), std::to_string(version));
  require(header_checksum == compute_checksum(), "the header is damaged",
          fmt::format("checksum {:016x}", header_checksum),
          fmt::format("{:016x}", compute_checksum()));

  require(vocab_size > 0 && vocab_size <= std::numeric_limits<int32_t>::max(), "vocabulary size",
          "1 to 2^31 - 1", std::to_string(vocab_size));
  require(token_bytes == token_bytes_for(vocab_size), "bytes per token",
          std::to_string(token_bytes_for(vocab_size)), std::to_string(token_bytes));
  require((flags & ~kLossMaskFlag) == 0, "flags", "0 or 1", std::to_string(flags));
  require(description_bytes <= sizeof description, "length of the tokenizer's description",
          fmt::format("at most {}", sizeof description), std::to_string(description_bytes));
  require(num_tokens >= 0 && num_tokens <= file_size / token_bytes, "number of tokens",
          fmt::format("at most the {} that fit the file", file_size / token_bytes),
          std::to_string(num_tokens));
  require(num_documents >= 0 && num_documents <= file_size / 8, "number of documents",
          fmt::format("at most the {} that fit the file", file_size / 8),
          std::to_string(num_documents));
  require(layout().file_bytes == file_bytes, "size stated in the header",
          fmt::format("{} bytes for its counts", layout().file_bytes), std::to_string(file_bytes));
  require(file_bytes == file_size, "the file was cut off or added to",
          fmt::format("{} bytes, as its header says", file_bytes),
          fmt::format("{} bytes", file_size));
}

uint64_t TokenFileHeader::compute_checksum() const {
  return checksum(
      std::as_bytes(std::span(this, 1)).first(offsetof(TokenFileHeader, header_checksum)));
}

}  // namespace longship
