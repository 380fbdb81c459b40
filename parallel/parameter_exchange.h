// What the ranks of a job exchange about a model's parameters in a training step. Every rank holds
// all of them (ReplicatedParameters), or the ranks share them out (ShardedParameters).
#pragma once

#include "parallel/group.h"
#include "runtime/model/parameter_use.h"

namespace longship {

// Told by a model about each forward and backward, and about the rest of a step like this:
//
//   begin_step();
//   for each micro-batch:  begin_micro_batch(is it the last);  forward, backward;
//                          end_micro_batch();
//   finish_gradients();    // Parameter::gradient has the sum over all ranks and micro-batches
//   (norm, update of the masters and their copies)
//   updated();
//
// Collective: all ranks make the same calls in the same order.
class ParameterExchange : public ParameterUse {
 public:
  // Gradients are cleared.
  virtual void begin_step() = 0;
  virtual void begin_micro_batch(bool is_last) = 0;
  virtual void end_micro_batch() = 0;
  // Returns when the sums are complete, in the order of the GPU's work there.
  virtual void finish_gradients() = 0;
  // The masters and copies that this rank holds have other values.
  virtual void updated() = 0;

  // The ranks whose pieces together are the parameters; this rank alone, if it holds all.
  virtual const Group& sharers() const = 0;
};

}  // namespace longship
