// The transition of every cut segment without the delta rule: a decay that the gates alone
// determine.
#pragma once

#include "attention/linear/linear_problem.h"
#include "runtime/context.h"

namespace longship {

// M = e^{sum of the segment's log-gates}: identity without gates, scalar for constant and scalar
// gates, diagonal for vector gates. Sums are fp64. b is left 0.
template <class A>
AffineSummary decay_summary(const Context& ctx, const LinearProblem& problem);

}  // namespace longship
