// Documents end to end in shuffled order, cut every `context` input tokens; the cuts are shuffled
// again, so that the parts of a long document do not follow each other.
#include <algorithm>

#include "data/packed_epoch.h"
#include "data/shuffle.h"

namespace longship {
namespace {

class ContinuousEpoch final : public PackedEpoch {
 public:
  ContinuousEpoch(std::span<const int64_t> inputs, const PackingOptions& options, int64_t number)
      : context_(options.context),
        documents_(shuffled(std::ssize(inputs), options.seed, "packing.documents", number)) {
    std::erase_if(documents_, [&](int64_t d) { return inputs[static_cast<size_t>(d)] == 0; });
    begin_.reserve(documents_.size() + 1);
    for (int64_t document : documents_)
      begin_.push_back(begin_.back() + inputs[static_cast<size_t>(document)]);
    order_ = shuffled((begin_.back() + context_ - 1) / context_, options.seed, "packing.samples",
                      number);
  }

  int64_t num_samples() const override { return std::ssize(order_); }

  std::vector<Piece> sample(int64_t i) const override {
    int64_t at = order_[static_cast<size_t>(i)] * context_;
    const int64_t end = std::min(at + context_, begin_.back());
    const auto after = std::upper_bound(begin_.begin(), begin_.end(), at);
    auto d = static_cast<size_t>(after - begin_.begin() - 1);
    std::vector<Piece> pieces;
    for (; at < end; ++d) {
      const int64_t length = std::min(end, begin_[d + 1]) - at;
      pieces.push_back({.document = documents_[d], .begin = at - begin_[d], .length = length});
      at += length;
    }
    return pieces;
  }

 private:
  int64_t context_;
  // documents_[d] holds the input tokens [begin_[d], begin_[d + 1]) of the epoch.
  std::vector<int64_t> documents_;
  std::vector<int64_t> begin_ = {0};
  std::vector<int64_t> order_;
};

}  // namespace

std::unique_ptr<const PackedEpoch> make_continuous_epoch(std::span<const int64_t> inputs,
                                                         const PackingOptions& options,
                                                         int64_t number) {
  return std::make_unique<ContinuousEpoch>(inputs, options, number);
}

}  // namespace longship
