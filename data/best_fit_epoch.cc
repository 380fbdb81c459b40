// Best-fit decreasing: each document's last part goes, the longest first, into the fullest sample
// that still has room for it. Parts of exactly one context are samples of their own.
#include <algorithm>
#include <map>
#include <numeric>

#include "data/packed_epoch.h"
#include "data/shuffle.h"

namespace longship {
namespace {

class BestFitEpoch final : public PackedEpoch {
 public:
  BestFitEpoch(std::span<const int64_t> inputs, const PackingOptions& options, int64_t number)
      : inputs_(inputs), context_(options.context) {
    for (size_t d = 0; d < inputs_.size(); ++d)
      if (const int64_t count = inputs_[d] / context_; count > 0) {
        long_documents_.push_back(static_cast<int64_t>(d));
        full_begin_.push_back(full_begin_.back() + count);
      }
    pack_remainders(options.seed, number);
    order_ = shuffled(full_begin_.back() + std::ssize(bin_begin_) - 1, options.seed,
                      "packing.samples", number);
  }

  int64_t num_samples() const override { return std::ssize(order_); }

  std::vector<Piece> sample(int64_t i) const override {
    const int64_t which = order_[static_cast<size_t>(i)];
    if (which < full_begin_.back()) {
      const auto after = std::upper_bound(full_begin_.begin(), full_begin_.end(), which);
      const auto d = static_cast<size_t>(after - full_begin_.begin() - 1);
      return {{.document = long_documents_[d],
               .begin = (which - full_begin_[d]) * context_,
               .length = context_}};
    }
    const auto bin = static_cast<size_t>(which - full_begin_.back());
    std::vector<Piece> pieces;
    for (int64_t k = bin_begin_[bin]; k < bin_begin_[bin + 1]; ++k) {
      const int64_t document = bin_documents_[static_cast<size_t>(k)];
      const int64_t length = remainder(document);
      pieces.push_back({.document = document,
                        .begin = inputs_[static_cast<size_t>(document)] - length,
                        .length = length});
    }
    return pieces;
  }

 private:
  int64_t remainder(int64_t document) const {
    return inputs_[static_cast<size_t>(document)] % context_;
  }

  void pack_remainders(uint64_t seed, int64_t number) {
    std::vector<int64_t> documents =
        shuffled(std::ssize(inputs_), seed, "packing.documents", number);
    std::erase_if(documents, [&](int64_t d) { return remainder(d) == 0; });
    // Stable: the shuffle decides between documents of one length.
    std::stable_sort(documents.begin(), documents.end(),
                     [&](int64_t a, int64_t b) { return remainder(a) > remainder(b); });

    std::map<int64_t, std::vector<int64_t>> bins_by_room;  // room left -> bins
    std::vector<int64_t> bin_of(documents.size());
    int64_t num_bins = 0;
    for (size_t k = 0; k < documents.size(); ++k) {
      const int64_t length = remainder(documents[k]);
      int64_t room = context_;
      const auto fit = bins_by_room.lower_bound(length);
      if (fit == bins_by_room.end()) {
        bin_of[k] = num_bins++;
      } else {
        room = fit->first;
        bin_of[k] = fit->second.back();
        fit->second.pop_back();
        if (fit->second.empty()) bins_by_room.erase(fit);
      }
      if (room > length) bins_by_room[room - length].push_back(bin_of[k]);
    }

    bin_begin_.assign(static_cast<size_t>(num_bins) + 1, 0);
    for (int64_t bin : bin_of) ++bin_begin_[static_cast<size_t>(bin) + 1];
    std::partial_sum(bin_begin_.begin(), bin_begin_.end(), bin_begin_.begin());
    std::vector<int64_t> next(bin_begin_.begin(), bin_begin_.end() - 1);
    bin_documents_.resize(documents.size());
    for (size_t k = 0; k < documents.size(); ++k)
      bin_documents_[static_cast<size_t>(next[static_cast<size_t>(bin_of[k])]++)] = documents[k];
  }

  std::span<const int64_t> inputs_;
  int64_t context_;
  // Document long_documents_[d] gives the full samples [full_begin_[d], full_begin_[d + 1]).
  std::vector<int64_t> long_documents_;
  std::vector<int64_t> full_begin_ = {0};
  // Bin b holds the remainders of bin_documents_[bin_begin_[b] .. bin_begin_[b + 1]).
  std::vector<int64_t> bin_begin_;
  std::vector<int64_t> bin_documents_;
  std::vector<int64_t> order_;  // of the full samples, then the bins
};

}  // namespace

std::unique_ptr<const PackedEpoch> make_best_fit_epoch(std::span<const int64_t> inputs,
                                                       const PackingOptions& options,
                                                       int64_t number) {
  return std::make_unique<BestFitEpoch>(inputs, options, number);
}

}  // namespace longship
