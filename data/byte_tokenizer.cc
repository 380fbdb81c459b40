#include <fmt/format.h>

#include "data/tokenizer.h"
#include "runtime/io/checksum.h"
#include "runtime/io/file_descriptor.h"

namespace longship {
namespace {

constexpr int32_t kBos = 256;
constexpr int32_t kEos = 257;
constexpr int32_t kNumIds = 258;

class ByteTokenizer final : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> tokens(text.size());
    for (size_t i = 0; i < text.size(); ++i) tokens[i] = static_cast<uint8_t>(text[i]);
    return tokens;
  }

  std::string decode(std::span<const int32_t> tokens) const override {
    check_ids(tokens);
    std::string text;
    text.reserve(tokens.size());
    for (int32_t token : tokens)
      if (token < kBos) text += static_cast<char>(token);
    return text;
  }

  int64_t vocab_size() const override { return kNumIds; }
  int32_t bos() const override { return kBos; }
  int32_t eos() const override { return kEos; }
  uint64_t hash() const override { return checksum(bytes_of(description())); }
  std::string description() const override {
    return fmt::format("byte-level, {} ids (<bos> {}, <eos> {})", kNumIds, kBos, kEos);
  }
};

}  // namespace

std::shared_ptr<const Tokenizer> make_byte_tokenizer() {
  return std::make_shared<ByteTokenizer>();
}

}  // namespace longship
