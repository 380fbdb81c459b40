// Token files of random documents, for tests.
#pragma once

#include <string>
#include <vector>

#include "data/token_file_writer.h"
#include "runtime/error.h"
#include "runtime/random.h"

namespace longship::testing {

// Only a vocabulary: it cannot encode.
class VocabularyOnly final : public Tokenizer {
 public:
  explicit VocabularyOnly(int64_t vocab_size) : vocab_size_(vocab_size) {}
  std::vector<int32_t> encode(std::string_view) const override { return {}; }
  std::string decode(std::span<const int32_t>) const override { return {}; }
  int64_t vocab_size() const override { return vocab_size_; }
  int32_t bos() const override { return 0; }
  int32_t eos() const override { return 1; }
  uint64_t hash() const override { return static_cast<uint64_t>(vocab_size_); }
  std::string description() const override { return "numbers"; }

 private:
  int64_t vocab_size_;
};

struct RandomDocuments {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::vector<uint8_t>> masks;  // empty: every token counts

  // Ids below vocab_size; from document `first_masked` on every other one has a random mask.
  static RandomDocuments make(const std::vector<int64_t>& lengths, int64_t vocab_size,
                              size_t first_masked = SIZE_MAX) {
    RandomDocuments documents;
    uint64_t counter = 0;
    for (size_t d = 0; d < lengths.size(); ++d) {
      std::vector<int32_t> tokens;
      std::vector<uint8_t> mask;
      for (int64_t i = 0; i < lengths[d]; ++i) {
        tokens.push_back(
            static_cast<int32_t>(uniform_index(5, 1, counter, static_cast<uint64_t>(vocab_size))));
        if (d >= first_masked && (d - first_masked) % 2 == 0)
          mask.push_back(static_cast<uint8_t>(uniform_index(5, 2, counter, 2)));
        ++counter;
      }
      documents.tokens.push_back(std::move(tokens));
      documents.masks.push_back(std::move(mask));
    }
    return documents;
  }

  void write(const std::string& path, int64_t vocab_size) const {
    TokenFileWriter writer(path, VocabularyOnly(vocab_size));
    for (size_t d = 0; d < tokens.size(); ++d) writer.append(tokens[d], masks[d]);
    writer.finish();
  }

  bool counts(size_t document, size_t token) const {
    return masks[document].empty() || masks[document][token] != 0;
  }
};

}  // namespace longship::testing
