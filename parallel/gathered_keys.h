// The rows of other ranks' keys that this rank's queries see, gathered in one tensor, and the way
// of their gradients back to the owners: what gather_kv, gather_latent and halo have in common.
#pragma once

#include <string_view>
#include <vector>

#include "parallel/group.h"
#include "parallel/sequence_plan.h"
#include "parallel/tensor_rows.h"
#include "parallel/visible_rows.h"

namespace longship {

// The keys that one rank gathers, as rows in (rank, slot) order.
struct GatheredKeys {
  int64_t num_rows = 0;
  // What the rows hold, in batch order; pieces of a document that lie end to end are one segment.
  std::vector<Segment> segments;
};

// Moves such rows of one tensor or several, which differ in all dimensions but the first: "local"
// ones of the tokens of this rank, "gathered" ones of keys().num_rows rows.
class KeyTraffic {
 public:
  // Whether this rank's own keys are copied among the gathered ones.
  enum class OwnKeys { kGathered, kLeftInPlace };

  // `sp` must outlive it.
  KeyTraffic(const Group& sp, const SequencePlan& plan, const Visibility& visibility,
             OwnKeys own = OwnKeys::kGathered);

  const GatheredKeys& keys() const { return keys_; }

  // Starts the gather of exactly the rows that are seen, of each tensor of `local` into the one of
  // `gathered`: one batch of messages.
  Work gather(std::string_view label, const TensorRows& local, const TensorRows& gathered) const;

  // Gradients of gathered keys on the way to their owners.
  struct Return {
    TensorRows gradients;             // gathered; this rank's own rows may be among them
    std::vector<TensorRows> arrived;  // of each transfer of local rows to another rank
    Work work;
  };
  // Starts their way, one batch of messages.
  Return start_return(const Context& ctx, std::string_view label, TensorRows gradients) const;
  // Adds to `sums`, local ones, what every rank returns, in ascending rank order.
  void finish_return(const Context& ctx, Return back, const TensorRows& sums) const;

 private:
  struct Transfer {
    int peer;
    RowRange rows;  // local ones sent, or gathered ones received
  };
  struct OwnCopy {
    RowRange local, gathered;
  };

  const Group& sp_;
  GatheredKeys keys_;
  std::vector<Transfer> sent_, received_;  // in ascending rank order
  std::vector<OwnCopy> own_;
};

}  // namespace longship
