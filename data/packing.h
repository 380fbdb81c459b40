// Packing: which pieces of which documents make up sample n, for n = 0, 1, 2, ... over any number
// of epochs. A pure function of (document lengths, options, n): ranks, prefetching and the order of
// calls play no part.
//
// A document of L tokens has L - 1 input positions: its last token is only a target. Every input
// position is in exactly one sample of each epoch. A sample holds at most `context` input tokens;
// there is no padding, so samples may be shorter.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

namespace longship {

enum class PackingMode {
  // Whole documents: a document longer than the context is cut every `context` tokens, and the
  // remainders and shorter documents fill samples by best-fit decreasing (Johnson 1974; for
  // language models Ding et al., arXiv:2404.10830).
  kBestFit,
  // Documents end to end in shuffled order, cut every `context` tokens. A cut document goes on in
  // another sample, with positions from 0. Only one sample of an epoch may be shorter.
  kContinuous,
};
std::string_view packing_mode_name(PackingMode mode);  // "best_fit", "continuous"

struct PackingOptions {
  int64_t context = 0;  // most input tokens of a sample
  PackingMode mode = PackingMode::kBestFit;
  uint64_t seed = 0;
};

// Inputs are the document's tokens [begin, begin + length), targets [begin + 1, begin + length +
// 1).
struct Piece {
  int64_t document = 0;
  int64_t begin = 0;
  int64_t length = 0;  // > 0
  bool operator==(const Piece&) const = default;
};

class PackedEpoch;

class Packing {
 public:
  // document_lengths: tokens of each document. Throws Error(kConfig) when context < 1 or when all
  // documents together have fewer input tokens than one context.
  Packing(std::vector<int64_t> document_lengths, const PackingOptions& options);
  ~Packing();

  const PackingOptions& options() const { return options_; }
  // Input tokens of one epoch.
  int64_t num_inputs() const { return num_inputs_; }
  // The same for every epoch. Epoch e is the samples [e, e + 1) * num_samples().
  int64_t num_samples() const { return num_samples_; }

  // The pieces of sample n >= 0, in order; never empty. Each epoch has an order of its own, kept in
  // O(documents + samples) memory for the two epochs used last. Thread-safe.
  std::vector<Piece> sample(int64_t n) const;

 private:
  struct CachedEpoch {
    int64_t number = -1;
    std::shared_ptr<const PackedEpoch> epoch;
  };

  std::shared_ptr<const PackedEpoch> epoch(int64_t number) const;

  std::vector<int64_t> inputs_;  // of each document
  PackingOptions options_;
  int64_t num_inputs_ = 0;
  int64_t num_samples_ = 0;
  mutable std::mutex mutex_;
  // Two, by the parity of the epoch: a prefetching thread may be one epoch ahead.
  mutable std::array<CachedEpoch, 2> cached_;
};

}  // namespace longship
