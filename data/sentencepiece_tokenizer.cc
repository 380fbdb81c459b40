#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <filesystem>
#include <limits>

#include "data/sentencepiece_charsmap.h"
#include "data/tokenizer.h"
#include "runtime/error.h"
#include "runtime/io/checksum.h"
#include "runtime/io/mapped_file.h"

namespace longship {
namespace {

using sentencepiece::SentencePieceProcessor;
using Status = sentencepiece::util::Status;

[[noreturn]] void refuse_model(const std::string& path, std::string found) {
  throw Error(ErrorCode::kCorrupt,
              {.what = fmt::format("{} is not a usable tokenizer", path),
               .expected = "a SentencePiece model (a .model file of its trainer)",
               .found = std::move(found),
               .next = "give the model file, or `byte` for the byte-level tokenizer"});
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(const std::string& path) {
    const MappedFile file = MappedFile::open(path);
    const std::span<const std::byte> bytes = file.bytes();
    hash_ = checksum(bytes);
    if (!charsmaps_are_safe(bytes)) refuse_model(path, "a damaged normalisation table");
    const Status status = processor_.LoadFromSerializedProto(
        {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    if (!status.ok()) refuse_model(path, status.error_message());
    if (processor_.GetPieceSize() == 0) refuse_model(path, "a model without pieces");
    if (processor_.bos_id() < 0 || processor_.eos_id() < 0)
      throw Error(
          ErrorCode::kConfig,
          {.what = fmt::format("{} cannot mark where documents begin and end", path),
           .expected = "a model with <s> and </s>",
           .found = fmt::format("bos_id {}, eos_id {}", processor_.bos_id(), processor_.eos_id()),
           .next = "train the model with --bos_id and --eos_id of 0 or more"});
    description_ = fmt::format("SentencePiece {}, {} ids",
                               std::filesystem::path(path).filename().string(), vocab_size());
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    // The library counts bytes in 32 bits.
    if (text.size() > std::numeric_limits<int32_t>::max())
      throw Error(
          ErrorCode::kConfig,
          {.what = "a document is too long for SentencePiece",
           .expected = fmt::format("at most {} bytes of text", std::numeric_limits<int32_t>::max()),
           .found = std::to_string(text.size()),
           .next = "split the document, or use the byte-level tokenizer"});
    std::vector<int32_t> tokens;
    const Status status = processor_.Encode(text, &tokens);
    if (!status.ok())
      throw Error(ErrorCode::kCorrupt,
                  {.what = "SentencePiece cannot encode a text", .found = status.error_message()});
    return tokens;
  }

  std::string decode(std::span<const int32_t> tokens) const override {
    check_ids(tokens);
    std::string text;
    const Status status =
        processor_.Decode(std::vector<int32_t>(tokens.begin(), tokens.end()), &text);
    if (!status.ok())
      throw Error(ErrorCode::kCorrupt,
                  {.what = "SentencePiece cannot decode tokens", .found = status.error_message()});
    return text;
  }

  int64_t vocab_size() const override { return processor_.GetPieceSize(); }
  int32_t bos() const override { return processor_.bos_id(); }
  int32_t eos() const override { return processor_.eos_id(); }
  uint64_t hash() const override { return hash_; }
  std::string description() const override { return description_; }

 private:
  SentencePieceProcessor processor_;
  uint64_t hash_ = 0;
  std::string description_;
};

}  // namespace

std::shared_ptr<const Tokenizer> load_sentencepiece(const std::string& path) {
  return std::make_shared<SentencePieceTokenizer>(path);
}

}  // namespace longship
