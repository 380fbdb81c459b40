// The rows of other ranks' keys that this rank's queries see, gathered in one tensor, and the way
// of their gradients back to the owners: what gather_kv and gather_latent have in common.
#pragma once

#include <string_view>
#include <vector>

#include "parallel/group.h"
#include "parallel/sequence_plan.h"
#include "parallel/visible_rows.h"

namespace longship {

// The keys that one rank gathers, as rows in (rank, slot) order.
struct GatheredKeys {
  // Of each rank: where its rows begin, and which of its rows they are.
  struct Part {
    int64_t first_row = 0;
    RowRange rows;
  };
  std::vector<Part> parts;
  int64_t num_rows = 0;
  // What the rows hold, in batch order; pieces of a document that lie end to end are one segment.
  std::vector<Segment> segments;

  static GatheredKeys of(const SequencePlan& plan, const Visibility& visibility);
};

// Moves such rows of one tensor or several, which differ in all dimensions but the first: "local"
// ones of the tokens of this rank, "gathered" ones of keys().num_rows rows.
class KeyTraffic {
 public:
  // `sp` and `plan` must outlive it.
  KeyTraffic(const Group& sp, const SequencePlan& plan, const Visibility& visibility);

  const GatheredKeys& keys() const { return keys_; }

  // Starts the gather of each tensor of `local` into the one of `gathered`.
  Work gather(std::string_view label, const std::vector<Tensor>& local,
              const std::vector<Tensor>& gathered) const;

  // Gradients of gathered keys on the way to their owners.
  struct Return {
    std::vector<Tensor> gradients;             // gathered; this rank's own rows among them
    std::vector<std::vector<Tensor>> arrived;  // by rank that computed them; none of this rank
    Work work;
  };
  Return start_return(const Context& ctx, std::string_view label,
                      std::vector<Tensor> gradients) const;
  // Adds to `sums`, local ones, what every rank returns, in ascending rank order.
  void finish_return(const Context& ctx, Return back, const std::vector<Tensor>& sums) const;

 private:
  // Local rows whose keys `peer` gathers.
  RowRange seen_by(int peer) const { return seen_by_[static_cast<size_t>(peer)]; }
  // The rows of a gathered tensor that come from `peer`.
  Tensor part_of(const Tensor& gathered, int peer) const;

  const Group& sp_;
  const SequencePlan& plan_;
  std::vector<RowRange> seen_by_;
  GatheredKeys keys_;
};

}  // namespace longship
