// Views of stored tokens and of the loss mask beside them; valid as long as what they point into.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace longship {

// Consecutive ids, stored in 2 or 4 little-endian bytes each, aligned.
class TokenView {
 public:
  TokenView(const std::byte* data, int64_t size, int64_t token_bytes)
      : data_(data), size_(size), token_bytes_(token_bytes) {}

  int64_t size() const { return size_; }
  // In [0, 2^32): a damaged file may hold what is no id.
  int64_t operator[](int64_t i) const {
    return token_bytes_ == 2 ? int64_t{narrow()[i]} : int64_t{wide()[i]};
  }
  int64_t max() const;  // -1 when empty
  // Writes the `length` ids from `begin` on.
  void copy_to(int32_t* out, int64_t begin, int64_t length) const;
  // As stored.
  std::span<const std::byte> bytes() const {
    return {data_, static_cast<size_t>(size_ * token_bytes_)};
  }

 private:
  const uint16_t* narrow() const { return reinterpret_cast<const uint16_t*>(data_); }
  const uint32_t* wide() const { return reinterpret_cast<const uint32_t*>(data_); }

  const std::byte* data_;
  int64_t size_;
  int64_t token_bytes_;
};

// Which tokens count as targets of the loss.
class LossMaskView {
 public:
  // Bit begin + i of `words` is token i. No words: every token counts.
  LossMaskView(std::span<const uint64_t> words, int64_t begin) : words_(words), begin_(begin) {}

  bool operator[](int64_t i) const { return bits(i, 1) != 0; }

  // Tokens [i, i + count), count in [1, 64], from the lowest bit up.
  uint64_t bits(int64_t i, int64_t count) const {
    const uint64_t all = ~uint64_t{0} >> (64 - count);
    if (words_.empty()) return all;
    const auto word = static_cast<size_t>((begin_ + i) / 64);
    const int64_t shift = (begin_ + i) % 64;
    uint64_t value = words_[word] >> shift;
    if (shift + count > 64) value |= words_[word + 1] << (64 - shift);
    return value & all;
  }

  // Calls f(bits) for tokens [begin, begin + length), 64 at a time.
  template <class F>
  void for_each_word(int64_t begin, int64_t length, F&& f) const {
    for (int64_t i = 0; i < length; i += 64) f(bits(begin + i, std::min<int64_t>(64, length - i)));
  }

  // Tokens of [begin, begin + length) that count.
  int64_t count(int64_t begin, int64_t length) const {
    if (words_.empty()) return length;
    int64_t total = 0;
    for_each_word(begin, length, [&](uint64_t word) { total += std::popcount(word); });
    return total;
  }

 private:
  std::span<const uint64_t> words_;
  int64_t begin_;
};

struct DocumentView {
  TokenView tokens;
  LossMaskView loss_mask;
};

}  // namespace longship
