// Tokenizer: text to token ids and back. Ids are in [0, vocab_size()).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace longship {

// Immutable, so one object may be used by many threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // The ids of `text`, without <bos> and <eos>. Markup such as "<eos>" inside the text is text.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  // Special tokens give no text. Throws Error(kCorrupt) for an id outside [0, vocab_size()).
  virtual std::string decode(std::span<const int32_t> tokens) const = 0;

  virtual int64_t vocab_size() const = 0;
  virtual int32_t bos() const = 0;
  virtual int32_t eos() const = 0;
  // Equal hashes mean equal ids for equal text; stored in token files.
  virtual uint64_t hash() const = 0;
  // One line for people: "byte-level, 258 ids".
  virtual std::string description() const = 0;

 protected:
  // Throws Error(kCorrupt) naming the first id outside [0, vocab_size()).
  void check_ids(std::span<const int32_t> tokens) const;
};

// Ids 0..255 are bytes, 256 is <bos>, 257 is <eos>. decode(encode(x)) == x for any bytes.
std::shared_ptr<const Tokenizer> make_byte_tokenizer();

// A SentencePiece model file (Kudo and Richardson, arXiv:1808.06226). Its normalisation is applied,
// so decode(encode(x)) may differ from x in white space. Throws Error(kStorage) when the file
// cannot be read, Error(kCorrupt) when it is not a model, Error(kConfig) when it has no <s> or
// </s>.
std::shared_ptr<const Tokenizer> load_sentencepiece(const std::string& path);

// "byte", or the path of a SentencePiece model. Throws Error(kConfig) for an empty name.
std::shared_ptr<const Tokenizer> make_tokenizer(const std::string& name);

}  // namespace longship
