// StateChain: one scan of states along the chain of ranks, in blocks of value columns. With one
// block it is LASP, with several ZeCO's All-Scan.
//
// Round t moves block t - d over every link of depth d, so all documents advance together and the
// blocks of a state follow each other one link apart. A rank sends on what it received in the round
// before. Every round is one exchange of the whole group, and empty for ranks that have no part.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "parallel/group.h"
#include "parallel/state_links.h"

namespace longship {

class StateChain {
 public:
  // out_HKV = what cut segment `row` makes of in_HKV (undefined: of zeros): `out_HKV` and in_HKV
  // are the columns of states from `first_column` on.
  using Leave = std::function<void(const Context& ctx, int64_t row, int64_t first_column,
                                   const Tensor& in_HKV, const Tensor& out_HKV)>;
  struct Scan {
    std::string label;
    ScanDirection direction = ScanDirection::kForward;
    Tensor zero_states_NHKV;  // becomes the result
    Leave leave;
    int64_t num_blocks = 1;  // > 0; at most V are made
  };

  StateChain(const Context& ctx, Group group, const SequencePlan& plan, Scan scan);

  // No rounds: no document is cut, and all states are zero.
  int64_t num_rounds() const { return num_rounds_; }
  // Posts the first round, if there is one.
  void start();
  // Completes it and runs the others. Returns [N, H, K, V]. Call once, after start().
  Tensor finish();

 private:
  struct Arrival {
    Tensor block_HKV;  // as received
    Tensor place_HKV;  // its columns in the result
  };

  void post();
  // From where on the columns of a block are.
  int64_t first_column(int64_t block) const;
  Tensor columns(const Tensor& state_HKV, int64_t block) const;

  Context ctx_;  // for memory and threads
  Group group_;
  Scan scan_;
  std::vector<StateLink> links_;  // those that start or end here
  int64_t num_rounds_ = 0;
  int64_t next_round_ = 0;
  std::vector<Arrival> arrivals_;
  Work work_;
};

}  // namespace longship
