#include "attention/parallel_mixers.h"

#include "runtime/ops/add.h"
#include "runtime/ops/scale.h"

namespace longship {
namespace {

Variable multiplied(Context& ctx, const Variable& x, double factor) {
  return factor == 1 ? x : scale(ctx, x, factor);
}

}  // namespace

ParallelMixers::ParallelMixers(std::vector<Branch> branches) : branches_(std::move(branches)) {
  LONGSHIP_CHECK(!branches_.empty(), "a layer without a mixer");
}

Variable ParallelMixers::forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan,
                                 const Variable& residual_TE) {
  Variable sum_TE = residual_TE;
  for (const Branch& branch : branches_) {
    const Variable in_TE = multiplied(ctx, x_TE, branch.input_multiplier);
    if (branch.output_multiplier == 1) {
      sum_TE = branch.mixer->forward(ctx, in_TE, plan, sum_TE);
      continue;
    }
    const Variable out_TE =
        scale(ctx, branch.mixer->forward(ctx, in_TE, plan), branch.output_multiplier);
    sum_TE = sum_TE.defined() ? add(ctx, sum_TE, out_TE) : out_TE;
  }
  return sum_TE;
}

}  // namespace longship
