// A micro-batch: samples of a Packing laid end to end, every piece a document of its own, of which
// a rank holds the tokens that a SequencePlan gives it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/packing.h"
#include "data/token_file.h"
#include "parallel/sequence_plan.h"
#include "runtime/memory.h"
#include "runtime/tensor.h"

namespace longship {

// T = plan.num_local_tokens(), in slot order.
struct Batch {
  Tensor tokens_T;        // i32
  Tensor targets_T;       // i32: the next token of the same document
  Tensor loss_weights_T;  // fp32, 0 or 1
  SequencePlan plan;
  int64_t first_sample = 0;
  int64_t num_loss_tokens = 0;  // targets that count, in the whole micro-batch
  // XXH3 of the whole micro-batch (pieces, tokens, loss mask): the same on every rank and for every
  // number of ranks.
  uint64_t token_hash = 0;
};

// How the sequence axis shares a micro-batch.
struct BatchSharding {
  Layout layout = Layout::kContiguous;
  int num_ranks = 1;
  int rank = 0;
};

// Thread-safe.
class BatchBuilder {
 public:
  // vocab_size: of the model; Error(kConfig) when the file's is larger. The packing must be made of
  // the file's document lengths.
  BatchBuilder(std::shared_ptr<const TokenFile> file, std::shared_ptr<const Packing> packing,
               const BatchSharding& sharding, int64_t vocab_size, std::shared_ptr<Memory> memory);

  const Packing& packing() const { return *packing_; }

  // The micro-batch of samples [first_sample, first_sample + num_samples). Every rank checks the
  // ids of all its tokens, so that all ranks fail together: Error(kCorrupt) names document and
  // offset of an id >= vocab_size. Only the rank's own tokens are copied.
  Batch build(int64_t first_sample, int64_t num_samples) const;

  // The loss tokens of such a micro-batch, without building it: a rank can know the number of a
  // whole optimizer step without asking the others.
  int64_t num_loss_tokens(int64_t first_sample, int64_t num_samples) const;

 private:
  std::vector<Piece> pieces(int64_t first_sample, int64_t num_samples) const;
  DocumentView inputs_and_targets(const Piece& piece) const;

  std::shared_ptr<const TokenFile> file_;
  std::shared_ptr<const Packing> packing_;
  BatchSharding sharding_;
  int64_t vocab_size_;
  std::shared_ptr<Memory> memory_;
};

}  // namespace longship
