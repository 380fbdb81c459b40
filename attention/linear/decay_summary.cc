#include "attention/linear/decay_summary.h"

#include <cmath>

#include "attention/linear/chunk_decay.h"
#include "runtime/parallel_for.h"

namespace longship {

template <class A>
AffineSummary decay_summary(const Context& ctx, const LinearProblem& problem) {
  const int64_t N = problem.num_cut(), H = problem.num_heads;
  const GateKind kind = gate_kind(problem.input.gate);
  AffineSummary summary{.transition = Transition::kIdentity,
                        .m = {},
                        .b_NHKV = ctx.zeros(problem.states_shape(), problem.sums)};
  if (kind == GateKind::kNone) return summary;
  // Gates per head, and of one token.
  const int64_t size = kind == GateKind::kVector ? problem.key_size : 1,
                step = kind == GateKind::kConstant ? 0 : H * size;
  summary.transition = kind == GateKind::kVector ? Transition::kDiagonal : Transition::kScalar;
  summary.m = ctx.empty(kind == GateKind::kVector ? Shape{N, H, size} : Shape{N, H}, problem.sums);
  const A* gates = problem.input.gate.data<A>();
  A* m = summary.m.data<A>();
  parallel_for_dynamic(ctx, N * H, [&](int64_t index) {
    const Segment& segment =
        problem.segments[static_cast<size_t>(problem.cut[static_cast<size_t>(index / H)])];
    std::vector<double> sums(static_cast<size_t>(size));
    for (int64_t t = 0; t < segment.length; ++t)
      for (int64_t d = 0; d < size; ++d)
        sums[static_cast<size_t>(d)] += gates[(segment.slot + t) * step + index % H * size + d];
    for (int64_t d = 0; d < size; ++d)
      m[index * size + d] = static_cast<A>(std::exp(sums[static_cast<size_t>(d)]));
  });
  return summary;
}

template AffineSummary decay_summary<float>(const Context&, const LinearProblem&);
template AffineSummary decay_summary<double>(const Context&, const LinearProblem&);

}  // namespace longship
