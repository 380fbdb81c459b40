// A sequence-parallel schedule for softmax attention: local q, k, v in, local attention output out.
#pragma once

#include <memory>

#include "parallel/group.h"
#include "parallel/sequence_plan.h"
#include "parallel/softmax_block.h"
#include "runtime/autograd/tape.h"

namespace longship {

struct AttentionOptions {
  double scale = 1.0;
  int64_t window = 0;  // 0 = unlimited
};

class SoftmaxSchedule {
 public:
  virtual ~SoftmaxSchedule() = default;

  // Causal attention within documents, as one differentiable op. q_THD, k_TKD, v_TKV are the local
  // tokens of `plan`; H % K == 0. Returns o_THV in q's dtype.
  virtual Variable attend(Context& ctx, const Variable& q_THD, const Variable& k_TKD,
                          const Variable& v_TKV, const SequencePlan& plan,
                          const AttentionOptions& options) const = 0;
};

// `kernel` must outlive the schedule and every tape it recorded on; the plan of each call must have
// been made for this rank of `sp`. Labels in Group statistics start with the strategy's name:
// "ulysses.fwd", "ulysses.bwd", "ring.fwd", "ring.bwd".
//
// All of them keep q's dtype on the wire (but for sums, see ulysses.h and ring.h), add in fp32
// (fp64), and round o to q's dtype once.
std::unique_ptr<SoftmaxSchedule> make_ulysses(Group sp, const SoftmaxBlock& kernel);
std::unique_ptr<SoftmaxSchedule> make_ring(Group sp, const SoftmaxBlock& kernel);

// One rank that holds the whole plan: no communication. A plan over more ranks throws
// Error(kInternal).
std::unique_ptr<SoftmaxSchedule> make_local(const SoftmaxBlock& kernel);

}  // namespace longship
