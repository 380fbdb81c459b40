// LengthStatistics: how long the documents of a data set are, in tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longship {

class LengthStatistics {
 public:
  LengthStatistics() = default;
  // Document lengths in tokens, in any order.
  explicit LengthStatistics(std::vector<int64_t> lengths);

  int64_t num_documents() const { return static_cast<int64_t>(sorted_.size()); }
  int64_t num_tokens() const { return num_tokens_; }

  // The smallest length that at least `percent` % of the documents do not exceed; 0 when empty.
  int64_t percentile(int percent) const;
  int64_t max() const { return sorted_.empty() ? 0 : sorted_.back(); }

  // Documents whose length is in [lower, 2 * lower), and their tokens; length 0 has lower 0.
  struct Bucket {
    int64_t lower = 0;  // 0 or a power of two
    int64_t num_documents = 0;
    int64_t num_tokens = 0;
  };
  // From the shortest to the longest document, without gaps.
  std::vector<Bucket> buckets() const;

  // Percentiles and the histogram as lines for a terminal.
  std::string text() const;

 private:
  std::vector<int64_t> sorted_;
  int64_t num_tokens_ = 0;
};

}  // namespace longship
