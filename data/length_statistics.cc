#include "data/length_statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "runtime/error.h"

namespace longship {

LengthStatistics::LengthStatistics(std::vector<int64_t> lengths) : sorted_(std::move(lengths)) {
  std::sort(sorted_.begin(), sorted_.end());
  for (int64_t length : sorted_) num_tokens_ += length;
}

int64_t LengthStatistics::percentile(int percent) const {
  LONGSHIP_CHECK(percent >= 0 && percent <= 100, "percentile {}", percent);
  if (sorted_.empty()) return 0;
  const size_t rank = (sorted_.size() * static_cast<size_t>(percent) + 99) / 100;
  return sorted_[std::max<size_t>(rank, 1) - 1];
}

std::vector<LengthStatistics::Bucket> LengthStatistics::buckets() const {
  std::vector<Bucket> buckets;
  for (int64_t length : sorted_) {
    const auto lower = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(length)));
    while (buckets.empty() || buckets.back().lower < lower)
      buckets.push_back(
          {.lower = buckets.empty() ? lower : std::max<int64_t>(1, 2 * buckets.back().lower)});
    ++buckets.back().num_documents;
    buckets.back().num_tokens += length;
  }
  return buckets;
}

std::string LengthStatistics::text() const {
  constexpr int64_t kBarWidth = 40;
  std::string text = fmt::format("document length in tokens: p50 {}  p90 {}  p99 {}  max {}\n",
                                 percentile(50), percentile(90), percentile(99), max());
  const std::vector<Bucket> all = buckets();
  int64_t largest = 1;
  for (const Bucket& bucket : all) largest = std::max(largest, bucket.num_tokens);
  text += fmt::format("{:>14} {:>12} {:>15}  share of tokens\n", "length", "documents", "tokens");
  for (const Bucket& bucket : all) {
    const double share = num_tokens_ == 0 ? 0.0
                                          : static_cast<double>(bucket.num_tokens) /
                                                static_cast<double>(num_tokens_);
    // Rounded up, so that no bucket with tokens looks empty.
    const int64_t bar = (bucket.num_tokens * kBarWidth + largest - 1) / largest;
    text += fmt::format("{:>14} {:>12} {:>15} {:6.1f}% {:#>{}}\n",
                        fmt::format("< {}", std::max<int64_t>(1, 2 * bucket.lower)),
                        bucket.num_documents, bucket.num_tokens, 100.0 * share, "", bar);
  }
  return text;
}

}  // namespace longship
