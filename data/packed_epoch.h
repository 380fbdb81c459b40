// One epoch of a Packing: its samples in their order, by one of the packing modes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/packing.h"

namespace longship {

class PackedEpoch {
 public:
  virtual ~PackedEpoch() = default;
  virtual int64_t num_samples() const = 0;
  // i in [0, num_samples()).
  virtual std::vector<Piece> sample(int64_t i) const = 0;
};

// Epoch `number` of documents with these numbers of input tokens. The number of samples is the same
// for every epoch and seed. The epoch reads `inputs` as long as it lives.
std::unique_ptr<const PackedEpoch> make_best_fit_epoch(std::span<const int64_t> inputs,
                                                       const PackingOptions& options,
                                                       int64_t number);
std::unique_ptr<const PackedEpoch> make_continuous_epoch(std::span<const int64_t> inputs,
                                                         const PackingOptions& options,
                                                         int64_t number);

}  // namespace longship
