// Parameters of one unit that ops read in one dtype, laid end to end in a flat tensor, of which
// each rank holds a piece: one message gathers the values, another sums the gradients. Laid out as
// the flat parameters of FSDP (Zhao et al. 2023, arXiv 2304.11277), but cut where sums and random
// numbers of the optimizer begin anew.
//
// F elements of the flat tensor, P those of this rank's piece.
#pragma once

#include <vector>

#include "parallel/group.h"
#include "parallel/shard_cuts.h"
#include "runtime/model/parameter.h"

namespace longship {

class FlatParameters {
 public:
  // `parameters` have no values yet and stay where they are. Makes their masters, flat pieces, and
  // copies, with zeros. `keeps_values`: whole values stay on every rank once they were gathered.
  FlatParameters(Context& ctx, std::vector<Parameter*> parameters, const Group& group,
                 bool keeps_values);

  // Every rank's piece of the values goes to all others, beside what ctx computes next. Nothing if
  // that is under way or done. Collective, like all that follows.
  void begin_gather();
  // The variables have their values, from here on in the order of ctx's work.
  void finish_gather();
  // The variables have none any more, unless they are kept.
  void drop_values();
  // This rank's piece changed: kept values are gathered anew, others dropped.
  void begin_update();

  // The sum over ranks of the gradients of the variables, which are let go, begins; those that are
  // undefined count as zeros.
  struct Reduction {
    Tensor gradients_F, sum_P;
    Work work;
  };
  Reduction begin_reduction();
  // Waits for it and adds it to those before.
  void finish_reduction(Reduction reduction);
  // Parameter::gradient becomes the sum so far.
  void publish_gradients();
  void clear_gradients();

 private:
  // Of this rank.
  int64_t piece_begin() const { return cuts_[static_cast<size_t>(group_.rank())]; }
  int64_t piece_size() const { return rows_[static_cast<size_t>(group_.rank())]; }
  // Of a parameter, the elements [begin, end) of the flat tensor that are in the piece.
  FlatPlace held_part(const FlatPlace& place) const;
  Tensor packed_gradients();

  Context& ctx_;
  const Group& group_;
  const bool keeps_values_;
  bool is_stale_;  // kept values have not been gathered yet
  std::vector<Parameter*> parameters_;
  std::vector<FlatPlace> places_;  // of each parameter
  std::vector<int64_t> cuts_, rows_;
  Tensor values_F_;    // in the dtype that ops read; undefined while values are not here
  Tensor own_P_;       // this rank's piece of them: its own memory unless values are kept
  Tensor master_P_;    // may be own_P_
  Gradient gradient_;  // [P]
  Work gather_;
  bool is_lent_ = false;  // variables have values
};

}  // namespace longship
