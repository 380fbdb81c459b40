#include "data/token_file.h"

#include <algorithm>
#include <cstring>

#include "data/tokenizer.h"
#include "runtime/error.h"
#include "runtime/io/checksum.h"

namespace longship {
namespace {

constexpr const char* kMakeAgain = "restore the file, or make it again with `longship prepare`";

TokenFileHeader read_header(const MappedFile& file) {
  if (file.size() < static_cast<int64_t>(sizeof(TokenFileHeader)))
    throw Error(ErrorCode::kCorrupt,
                {.what = fmt::format("{} is too short for a token file", file.path().string()),
                 .expected = fmt::format("a header of {} bytes", sizeof(TokenFileHeader)),
                 .found = fmt::format("{} bytes", file.size()),
                 .next = kMakeAgain});
  TokenFileHeader header;
  std::memcpy(&header, file.bytes().data(), sizeof header);
  header.check(file.path().string(), file.size());
  return header;
}

}  // namespace

std::shared_ptr<const TokenFile> TokenFile::open(const std::string& path, Verify verify) {
  const std::shared_ptr<const TokenFile> file(new TokenFile(MappedFile::open(path)));
  if (verify == Verify::kAtOpen) file->verify();
  return file;
}

TokenFile::TokenFile(MappedFile file)
    : path_(file.path().string()),
      file_(std::move(file)),
      header_(read_header(file_)),
      layout_(header_.layout()),
      tokens_(file_.bytes().data() + layout_.tokens),
      block_is_good_(static_cast<size_t>(layout_.num_blocks)) {
  if (has_loss_mask())
    mask_ = file_.array<uint64_t>(layout_.mask, (layout_.index - layout_.mask) / 8, "loss mask");
  index_ = file_.array<int64_t>(layout_.index, num_documents() + 1, "document index");
  block_checksums_ =
      file_.array<uint64_t>(layout_.block_checksums, layout_.num_blocks, "block checksums");
  check_index();
}

void TokenFile::check_index() const {
  const uint64_t found = checksum(file_.bytes().subspan(static_cast<size_t>(layout_.index)));
  if (found != header_.index_checksum)
    throw Error(
        ErrorCode::kCorrupt,
        {.what = fmt::format("{}: the document index or the block checksums are damaged", path_),
         .expected = fmt::format("checksum {:016x} of the bytes from {} on", header_.index_checksum,
                                 layout_.index),
         .found = fmt::format("{:016x}", found),
         .next = kMakeAgain});
  auto fail = [&](std::string expected, std::string entry) {
    throw Error(ErrorCode::kCorrupt, {.what = fmt::format("{}: document index", path_),
                                      .expected = std::move(expected),
                                      .found = std::move(entry),
                                      .next = kMakeAgain});
  };
  if (index_.front() != 0) fail("to begin with 0", std::to_string(index_.front()));
  if (index_.back() != num_tokens())
    fail(fmt::format("to end with the {} tokens of the file", num_tokens()),
         std::to_string(index_.back()));
  const auto fall = std::is_sorted_until(index_.begin(), index_.end());
  if (fall != index_.end())
    fail("entries that never fall",
         fmt::format("{} after {} for document {}", *fall, *(fall - 1), fall - index_.begin() - 1));
}

std::vector<int64_t> TokenFile::document_lengths() const {
  file_.check_unchanged();
  std::vector<int64_t> lengths(static_cast<size_t>(num_documents()));
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = index_[i + 1] - index_[i];
  return lengths;
}

DocumentView TokenFile::document(int64_t i) const {
  LONGSHIP_CHECK(i >= 0 && i < num_documents(), "document {} of {}", i, num_documents());
  // Before anything in the mapping is read, the index included.
  file_.check_unchanged();
  return view(i, 0, document_length(i));
}

DocumentView TokenFile::document(int64_t i, int64_t begin, int64_t length) const {
  LONGSHIP_CHECK(i >= 0 && i < num_documents(), "document {} of {}", i, num_documents());
  file_.check_unchanged();
  LONGSHIP_CHECK(begin >= 0 && length >= 0 && begin <= document_length(i) - length,
                 "tokens {}+{} of document {}", begin, length, i);
  return view(i, begin, length);
}

DocumentView TokenFile::view(int64_t i, int64_t begin, int64_t length) const {
  const int64_t first = index_[static_cast<size_t>(i)] + begin;
  check_bytes(first * token_bytes(), (first + length) * token_bytes());
  if (has_loss_mask() && length > 0) {
    const int64_t mask = layout_.mask - layout_.tokens;
    check_bytes(mask + first / 8, mask + (first + length - 1) / 8 + 1);
  }
  return {.tokens = TokenView(tokens_ + first * token_bytes(), length, token_bytes()),
          .loss_mask = LossMaskView(mask_, first)};
}

// Checks the blocks that bytes [begin, end) of the part [tokens, index) lie in.
void TokenFile::check_bytes(int64_t begin, int64_t end) const {
  for (int64_t block = begin / kTokenFileBlockBytes; block * kTokenFileBlockBytes < end; ++block) {
    if (!block_is_good_[static_cast<size_t>(block)].load(std::memory_order_relaxed))
      check_block(block);
  }
}

void TokenFile::check_block(int64_t block) const {
  const int64_t begin = block * kTokenFileBlockBytes;
  const int64_t end = std::min(begin + kTokenFileBlockBytes, layout_.index - layout_.tokens);
  const uint64_t found = checksum({tokens_ + begin, static_cast<size_t>(end - begin)});
  const uint64_t expected = block_checksums_[static_cast<size_t>(block)];
  if (found == expected) {
    block_is_good_[static_cast<size_t>(block)].store(true, std::memory_order_relaxed);
    return;
  }

  throw Error(
      ErrorCode::kCorrupt,
      {.what = fmt::format("{}: block {} is damaged (bytes {} to {}: {})", path_, block,
                           layout_.tokens + begin, layout_.tokens + end, content_of(begin, end)),
       .expected = fmt::format("checksum {:016x}", expected),
       .found = fmt::format("{:016x}", found),
       .next = kMakeAgain});
}

// What bytes [begin, end) of the part [tokens, index) hold, for people.
std::string TokenFile::content_of(int64_t begin, int64_t end) const {
  auto documents = [&](int64_t first_token, int64_t last_token) {
    auto document_of = [&](int64_t token) {
      const auto after = std::upper_bound(index_.begin(), index_.end(), token);
      return std::min<int64_t>(after - index_.begin(), num_documents()) - 1;
    };
    return fmt::format("documents {} to {}", document_of(first_token), document_of(last_token));
  };
  const int64_t mask = layout_.mask - layout_.tokens;
  std::string text;
  if (begin < mask)
    text = documents(begin / token_bytes(), (std::min(end, mask) - 1) / token_bytes());
  if (end > mask)
    text += (text.empty() ? "" : ", ") + std::string("loss mask of ") +
            documents((std::max(begin, mask) - mask) * 8, (end - mask) * 8 - 1);
  return text;
}

void TokenFile::verify() const {
  file_.check_unchanged();
  for (int64_t block = 0; block < layout_.num_blocks; ++block) check_block(block);
  for (int64_t i = 0; i < num_documents(); ++i) check_ids(i, 0, document(i).tokens, vocab_size());
}

void TokenFile::check_ids(int64_t i, int64_t begin, const TokenView& tokens,
                          int64_t vocab_size) const {
  if (tokens.max() < vocab_size) return;
  int64_t offset = 0;
  while (tokens[offset] < vocab_size) ++offset;
  throw Error(ErrorCode::kCorrupt,
              {.what = fmt::format("{}: document {}, token {}", path_, i, begin + offset),
               .expected = fmt::format("an id below the vocabulary size {}", vocab_size),
               .found = std::to_string(tokens[offset]),
               .next = "use the tokenizer that the model was made for"});
}

void TokenFile::check_tokenizer(const Tokenizer& tokenizer) const {
  if (tokenizer.hash() == tokenizer_hash()) return;
  throw Error(
      ErrorCode::kConfig,
      {.what = fmt::format("{} was made with another tokenizer", path_),
       .expected = fmt::format("{} (hash {:016x})", tokenizer.description(), tokenizer.hash()),
       .found = fmt::format("{} (hash {:016x})", tokenizer_description(), tokenizer_hash()),
       .next = "name that tokenizer, or make the file again with `longship prepare`"});
}

}  // namespace longship
