// The Zero Redundancy Optimizer (ZeRO; Rajbhandari et al. 2020, arXiv 1910.02054): each rank keeps
// and updates a piece of every unit of the parameters only.
//
// Of an element in mixed precision (copy in bf16, master and gradient in fp32, two moments in fp32)
// a rank of N holds so many bytes:
//   not sharded   2 + 4 + 4 + 8
//   stage 1       2 + (4 + 8) / N + 4
//   stage 2       2 + (4 + 8 + 4) / N
//   stage 3       (2 + 4 + 8 + 4) / N
// and for the units at work: the gradients of one, packed gradients of at most two that are on
// their way with what others send of them, and in stage 3 the copies of two.
#pragma once

#include <deque>
#include <vector>

#include "parallel/flat_parameters.h"
#include "parallel/parameter_exchange.h"

namespace longship {

enum class ZeroStage {
  kOptimizer = 1,   // masters and moments are shared out; gradients are summed in the last backward
  kGradients = 2,   // gradients too: summed in every backward, a unit at a time
  kParameters = 3,  // and the copies that ops read: gathered before a unit needs them, then dropped
};

// All sums over ranks are in rank order, so that training has the bits of ReplicatedParameters. In
// stages 2 and 3 micro-batches are added after ranks, not before: with more than one micro-batch,
// the sums of these stages differ from the others' in the order of additions in fp32.
//
// Bytes are counted under "gradients" and "parameters": for each unit, about (size - 1) / size of
// its fp32 gradient a reduction and of its copy a gathering. Operations use `group` only; where
// nobody else uses it for tensors, on GPUs its messages run beside all others.
class ShardedParameters final : public ParameterExchange {
 public:
  // Gives the parameters, made by ParameterList::without_values(), their initial values.
  // `unit_begins`: numbers of the parameters with which units begin. `ctx` outlives this, and this
  // outlives the use of the parameters, which keep their addresses.
  ShardedParameters(Context& ctx, ParameterList& parameters, const std::vector<size_t>& unit_begins,
                    const Group& group, ZeroStage stage);

  void begin_forward(Context& ctx, size_t unit) override;
  void end_forward(Context& ctx, size_t unit) override;
  void begin_backward(Context& ctx, size_t unit) override;
  void end_backward(Context& ctx, size_t unit) override;

  void begin_step() override;
  void begin_micro_batch(bool is_last) override;
  void end_micro_batch() override;
  void finish_gradients() override;
  void updated() override;
  const Group& sharers() const override { return group_; }

 private:
  struct Unit {
    std::deque<FlatParameters> flats;  // one for each dtype
    bool is_reduced = false;           // in this micro-batch
  };
  struct InFlight {
    FlatParameters* flat;
    FlatParameters::Reduction reduction;
  };

  void gather(size_t unit);
  void prefetch(size_t unit);
  void drop(size_t unit);
  void reduce(size_t unit);
  void finish_oldest_reduction();

  const Group group_;
  const ZeroStage stage_;
  std::vector<Unit> units_;
  std::deque<InFlight> in_flight_;
  bool reduces_ = false;    // in this micro-batch
  size_t newest_unit_ = 0;  // whose forward or backward began
};

}  // namespace longship
