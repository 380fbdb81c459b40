#include "data/packing.h"

#include <utility>

#include "data/packed_epoch.h"
#include "runtime/error.h"

namespace longship {

std::string_view packing_mode_name(PackingMode mode) {
  return mode == PackingMode::kBestFit ? "best_fit" : "continuous";
}

Packing::Packing(std::vector<int64_t> document_lengths, const PackingOptions& options)
    : inputs_(std::move(document_lengths)), options_(options) {
  for (int64_t& length : inputs_) {
    LONGSHIP_CHECK(length >= 0, "a document of {} tokens", length);
    // The last token of a document has no target.
    if (length > 0) --length;
    num_inputs_ += length;
  }
  if (options_.context < 1)
    throw Error(ErrorCode::kConfig, {.what = "the context of a sample",
                                     .expected = "at least 1 token",
                                     .found = std::to_string(options_.context)});
  if (num_inputs_ < options_.context)
    throw Error(ErrorCode::kConfig,
                {.what = "the context is longer than all the data",
                 .expected = fmt::format("at most {} tokens: the input tokens of all {} documents",
                                         num_inputs_, inputs_.size()),
                 .found = fmt::format("a context of {}", options_.context),
                 .next = "choose a shorter context, or prepare more text"});
  num_samples_ = epoch(0)->num_samples();
}

Packing::~Packing() = default;

std::shared_ptr<const PackedEpoch> Packing::epoch(int64_t number) const {
  const std::lock_guard lock(mutex_);
  CachedEpoch& cached = cached_[static_cast<size_t>(number % 2)];
  if (cached.number != number) {
    cached = {};  // frees the old epoch before the new one is built
    cached.epoch = options_.mode == PackingMode::kBestFit
                       ? make_best_fit_epoch(inputs_, options_, number)
                       : make_continuous_epoch(inputs_, options_, number);
    cached.number = number;
  }
  return cached.epoch;
}

std::vector<Piece> Packing::sample(int64_t n) const {
  LONGSHIP_CHECK(n >= 0, "sample {}", n);
  return epoch(n / num_samples_)->sample(n % num_samples_);
}

}  // namespace longship
